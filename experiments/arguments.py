"""Reading a command line: absl finds the flags, and every value is read, or refused, in words here."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags

from experiments.errors import UsageError
from experiments.flags import Flag, number, whole_number

_TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def read_flags(flags: Mapping[str, Flag], argv: Sequence[str]) -> dict[str, Any]:
    """Read the flags that a command line names.

    Raises UsageError for unknown flags, for values that cannot be read, and for arguments that are no flags.
    """
    texts = absl_flags.FlagValues()
    for name, flag in flags.items():
        reader = absl_flags.Flag(
            absl_flags.ArgumentParser(), None, name, None, flag.help, boolean=flag.kind == "boolean"
        )
        absl_flags.DEFINE_flag(reader, texts)
    try:
        rest = texts(list(argv))[1:]
    except absl_flags.UnrecognizedFlagError as error:
        name = error.flagname
        negated = [f"no{other}" for other, flag in flags.items() if flag.kind == "boolean"]
        near = did_you_mean(name, [*flags, *negated], "--")
        raise UsageError(f"--{name}: no such flag; --help lists the flags{near}") from None
    except (absl_flags.Error, ValueError) as error:  # no value, or one for --noNAME
        raise UsageError(f"{error}; --help lists the flags") from None
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    return {name: read_value(name, flag, texts[name].value) for name, flag in flags.items()
            if texts[name].present}  # fmt: skip


def read_value(name: str, flag: Flag, text: str) -> Any:
    """Read the value of a flag. Raises UsageError, which says what was expected."""
    if flag.kind == "boolean":
        if text.lower() not in _TRUTH:
            raise UsageError(f"--{name}={text}; expected true or false (--{name}, --no{name})")
        return _TRUTH[text.lower()]
    if flag.kind == "enum":
        if text not in flag.choices:
            near = did_you_mean(text, flag.choices)
            raise UsageError(f"--{name}={text}; expected one of {', '.join(flag.choices)}{near}")
        return text
    if flag.kind == "string":
        if not text.strip() and flag.default is None:
            raise UsageError(f"--{name}={text} is empty; give a value, or leave the flag out")
        return text
    read, expected = (whole_number, "a whole number") if flag.kind == "integer" else (number, "a number")
    try:
        return read(text)
    except ValueError:
        raise UsageError(f"--{name}={text}; expected {expected}") from None


def did_you_mean(word: str, names: Iterable[str], prefix: str = "") -> str:
    """Write "; did you mean ...?" for the names that are like a word, "" if none is."""
    near = near_names(word, names)
    return f"; did you mean {' or '.join(prefix + name for name in near)}?" if near else ""


def near_names(word: str, names: Iterable[str], most: int = 3) -> list[str]:
    """List names that are spelled like a word, begin with it or with something like it, or contain it."""
    names = list(dict.fromkeys(names))
    plain = word.lower()
    begin = [name for name in names if plain and name.lower().startswith(plain)]
    contain = [name for name in names if len(plain) > 1 and plain in name.lower()]
    like = difflib.get_close_matches(word, names, most, 0.7)
    starts = difflib.get_close_matches(plain, {name[: len(plain)] for name in names}, 1, 0.75)
    misspelled = [name for name in names if len(plain) > 3 and name[: len(plain)] in starts]
    return list(dict.fromkeys([*like, *begin, *contain, *misspelled]))[:most]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """List the names that match a pattern; one without * and ? may stand anywhere in a name."""
    if not is_pattern(pattern):
        pattern = f"*{pattern}*"
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern.lower())]


def is_pattern(text: str) -> bool:
    """Tell whether a text has the wildcards of a pattern."""
    return any(wildcard in text for wildcard in "*?[")
