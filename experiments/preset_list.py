"""The presets as a table on a screen of 80 columns, by paper and row, with the published numbers."""

from __future__ import annotations

import fnmatch
import functools
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.arguments import is_pattern, matching
from experiments.presets.tables import PAPERS
from experiments.settings import Experiment, Settings, resolve

WIDTH = 79
_SHARED = {"comln": "few_shot", "maml": "few_shot"}  # entry points that play another's presets


class Entry(NamedTuple):
    """A preset: its `name`; the titles of its `paper` and `table`, "" if it is of none; its `method` as
    printed there; its `data`; and the `number` published of a `metric`, "" if there is none."""

    name: str
    paper: str
    table: str
    method: str
    data: str
    metric: str = ""
    number: str = ""


def pattern_of(preset: str | None) -> str | None:
    """Read `--preset` as a wish to see presets: "list", "list:PATTERN" or a PATTERN; None if it names one."""
    if preset is None:
        return None
    word, _, pattern = preset.partition(":")
    if word == "list":
        return pattern or "*"
    return preset if is_pattern(preset) else None


def list_presets(experiment: Experiment, pattern: str = "*") -> list[str]:
    """Write the presets that match a pattern by paper, table and data, [] if none does."""
    entries = [describe_preset(experiment, name) for name in matching(pattern, experiment.presets)]
    entries.sort(key=lambda entry: not entry.paper)  # our own last
    lines: list[str] = []
    for paper, of_paper in _by("paper", entries):
        lines += [""] * bool(lines) + [paper or "Other settings, of no published table"]
        for table, of_table in _by("table", of_paper):
            metric = next((entry.metric for entry in of_table if entry.metric), "")
            width = max(len(entry.method) for entry in of_table)
            lines += _wrap(f"{table} ({metric} in %)" if metric else table, "  ")
            for data, rows in _by("data", of_table):
                lines += _wrap(data, "    ") + [line for row in rows for line in _lines(row, width)]
    return lines


def describe_preset(experiment: Experiment, name: str) -> Entry:
    """Describe a preset by the row of the paper that it plays."""
    settings = resolve(experiment, {"preset": name})
    paper, number, is_row = _table_of(experiment.name, name)
    method, data = settings.get("algorithm") or experiment.name, _data(settings)
    if paper is None:
        return Entry(name, "", "", method, data)
    title = PAPERS[paper].tables[number].title
    printed = number.replace("figure", "Figure ") if number.startswith("figure") else f"Table {number}"
    row = _published(experiment, settings, paper) if is_row else None
    entry = Entry(name, PAPERS[paper].title, f"{printed}: {title}", method, data)
    if row is None or (number.startswith("figure") and row["table"] != printed):
        return entry
    metric = next(key for key, value in row.items() if isinstance(value, Mapping) and "mean" in value)
    variant = f" ({row['variant']})" if row["variant"] else ""
    return entry._replace(method=row["method"] + variant, metric=metric, number=_number(row, metric))


def _by(field: str, entries: list[Entry]) -> list[tuple[str, list[Entry]]]:
    """Group entries by a field, in the order in which its values appear."""
    values = dict.fromkeys(getattr(entry, field) for entry in entries)
    return [(value, [entry for entry in entries if getattr(entry, field) == value]) for value in values]


def _lines(entry: Entry, width: int) -> list[str]:
    """Write a preset on one line, or two if it is too long: method, `width` wide, number and name."""
    left = f"      {entry.method:<{width}}  {entry.number:<13}"
    line = f"{left}  {entry.name}"
    return [line] if len(line) <= WIDTH else [left.rstrip(), " " * 10 + entry.name]


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ") or []


def _published(experiment: Experiment, settings: Settings, paper: str) -> Mapping[str, Any] | None:
    from jmeta.report.published import row_for  # which reads a file

    fields = experiment.published(settings)
    return row_for(**{**fields, "paper": paper}) if fields else None


def _table_of(experiment: str, preset: str) -> tuple[str | None, str, bool]:
    """Find the paper and the first table that has the preset as a row (True), or beside its rows (False)."""
    entry_points = {experiment, _SHARED.get(experiment)}
    tables = [
        (paper, number, table)
        for paper, content in PAPERS.items()
        for number, table in content.tables.items()
        if table.entry_point in entry_points
    ]
    for is_row in (True, False):
        for paper, number, table in tables:
            if _matches(preset, table.presets if is_row else table.more):
                return paper, number, is_row
    return None, "", False


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _data(settings: Settings) -> str:
    """Describe the tasks and the network, as "mini_imagenet, conv4, 5-way 1-shot"."""
    words = [settings.get("dataset") or "omniglot, mnist, fashion_mnist", settings.get("backbone")]
    way, shot = None if words[0] == "sinusoid" else settings.get("way"), settings.get("shot")
    words += [" ".join([*([f"{way}-way"] if way else []), *([f"{shot}-shot"] if shot else [])])]
    return ", ".join(word for word in words if word)


def _number(row: Mapping[str, Any], metric: str) -> str:
    """Write a published number with its interval, if there is one; whole if the paper's table is."""
    mean, interval = row[metric]["mean"], row[metric]["ci95"]
    digits = 0 if _is_whole(row["paper"], row["table"], metric) else 2
    return f"{mean:.{digits}f}" + ("" if interval is None else f" +- {interval:.{digits}f}")


@functools.cache
def _is_whole(paper: str, table: str, metric: str) -> bool:
    """Test if a table has its numbers in whole percents."""
    from jmeta.report.published import published_rows

    rows = [row for row in published_rows(paper, table) if row.get(metric)]
    return all(float(row[metric]["mean"]).is_integer() for row in rows)
