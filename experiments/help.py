"""The text of --help: flags under headings, with the values in force, for a screen of 80 columns."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from experiments.errors import UsageError
from experiments.flags import HEADINGS, Flag
from experiments.settings import Experiment, Settings, foreign_flags, resolve

WIDTH = 79
_INDENT = 26
_KINDS = {"integer": "NUMBER", "float": "NUMBER", "string": "TEXT", "enum": "NAME"}


def help_text(experiment: Experiment, explicit: Mapping[str, Any] | None = None) -> str:
    """Write usage, and every flag with its choices and the value in force beside the `explicit` flags.

    If they name an algorithm or a preset, flags that only other algorithms have are left out.
    """
    explicit = explicit or {}
    settings = resolve(experiment, explicit)
    foreign = _left_out(experiment, explicit, settings)
    lines = [*_usage(experiment), *_wrap(experiment.summary.strip())]
    for title, names in _under_headings(experiment, foreign).items():
        lines += ["", f"{title}:"]
        for name in names:
            lines += _describe(experiment, name, explicit, settings)
    lines += ["", *_wrap(_closing(experiment, settings, foreign))]
    return "\n".join(lines)


def short_help_text(experiment: Experiment, explicit: Mapping[str, Any] | None = None) -> str:
    """Write usage, and the names of the flags under their headings."""
    explicit = explicit or {}
    foreign = _left_out(experiment, explicit, resolve(experiment, explicit))
    lines = [*_usage(experiment), *_wrap(experiment.summary.strip().partition("\n")[0]), ""]
    for title, names in _under_headings(experiment, foreign).items():
        lines += _wrap(f"{title}: " + " ".join(f"--{name}" for name in names), "", "    ")
    return "\n".join([*lines, "", "--help explains them."])


def as_text(value: Any) -> str:
    """Write a value as on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _usage(experiment: Experiment) -> list[str]:
    return [f"python -m experiments.{experiment.name} [--flag=value ...]", ""]


def _left_out(experiment: Experiment, explicit: Mapping[str, Any], settings: Settings) -> list[str]:
    chosen = explicit.get("algorithm") or explicit.get("preset")
    return foreign_flags(experiment, settings.get("algorithm")) if chosen else []


def _under_headings(experiment: Experiment, left_out: list[str]) -> dict[str, list[str]]:
    """List the names of the flags by heading, in the order of HEADINGS."""
    titles = {name: HEADINGS.get(name, "Flags") for name in experiment.flags if name not in left_out}
    order = list(dict.fromkeys(["Flags", *HEADINGS.values()]))
    return {
        experiment.headings.get(title, title): [name for name in titles if titles[name] == title]
        for title in order
        if title in titles.values()
    }


def _describe(
    experiment: Experiment, name: str, explicit: Mapping[str, Any], settings: Settings
) -> list[str]:
    """Describe a flag: its name and value, then its help, the algorithms that have it, and its choices."""
    flag, value = experiment.flags[name], settings[name]
    owners = [algorithm for algorithm, own in experiment.algorithms.items() if name in own]
    chosen = explicit.get("algorithm") or explicit.get("preset")
    some = 0 < len(owners) < len(experiment.algorithms) and not chosen
    of = f"{', '.join(owners)}: " if some else ""
    by_algorithm = "" if chosen else _values_by_algorithm(experiment, name, owners)
    hint = "" if value in (None, "") and not by_algorithm else by_algorithm
    words = flag.help if value in (None, "") and not hint else _without_hint(flag.help)
    if flag.choices:
        words += f": {', '.join(flag.choices)}"
    lines = _wrap(of + words + hint, " " * _INDENT)
    first = f"  {_with_value(name, flag, None if by_algorithm else value)}"
    if len(first) < _INDENT - 1:
        lines[0] = first.ljust(_INDENT) + lines[0].lstrip()
    else:
        lines = [first, *lines]
    for choice in flag.choices:
        if choice in flag.meanings:
            lines += _wrap(f"{choice}: {flag.meanings[choice]}", " " * (_INDENT + 2), " " * (_INDENT + 4))
    return lines


def _with_value(name: str, flag: Flag, value: Any) -> str:
    if flag.kind == "boolean" and value is None:
        return f"--[no]{name}"
    return f"--{name}={_KINDS[flag.kind] if value in (None, '') else as_text(value)}"


def _values_by_algorithm(experiment: Experiment, name: str, owners: list[str]) -> str:
    """List the values of a flag that differ between algorithms, in brackets; "" if they do not."""
    if name == "algorithm" or not experiment.algorithms:
        return ""
    names: dict[Any, list[str]] = {}
    for algorithm in owners or experiment.algorithms:
        with contextlib.suppress(UsageError):  # not for the default data
            value = resolve(experiment, {"algorithm": algorithm})[name]
            names.setdefault(value, []).append(algorithm)
    if len(names) < 2:
        only = next(iter(names), None)
        of_others = only is not None and resolve(experiment, {})[name] != only
        return f" [{as_text(only)}]" if of_others else ""
    if len(names) > 3:
        return " [by algorithm: --algorithm=NAME --help shows it]"
    values = [f"{'none' if value is None else as_text(value)} for {', '.join(algorithms)}"
              for value, algorithms in names.items()]  # fmt: skip
    return f" [{'; '.join(values)}]"


def _without_hint(help: str) -> str:
    """Remove the words in brackets at the end, which say what no value means."""
    return re.sub(r" \[[^]]*\]$", "", help)


def _closing(experiment: Experiment, settings: Settings, left_out: list[str]) -> str:
    text = "A flag is shown with the value that it has if you leave it out; words in brackets say what holds "
    text += "where there is none."
    if left_out:
        text += f" {len(left_out)} flags that {settings.get('algorithm')} does not have are left out."
    if experiment.presets:
        text += (
            f" There are {len(experiment.presets)} presets, the settings of published rows: --preset=list "
            "lists them, and --preset=NAME --help shows the values of one."
        )
    return text


def _wrap(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """Wrap each paragraph of a text, with the indents of its first line and, if they differ, of the rest;
    indented lines, such as commands, stay as they are."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [""] if lines else []
        if paragraph.startswith("    "):
            lines += paragraph.splitlines()
            continue
        lines += textwrap.wrap(
            " ".join(paragraph.split()),
            WIDTH,
            initial_indent=first,
            subsequent_indent=first if rest is None else rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines
