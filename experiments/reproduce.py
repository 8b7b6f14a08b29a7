"""Run the rows of a paper's table or figure, each in a workdir of its own, and print them beside the paper's.

    python -m experiments.reproduce --list [--data_dir=DIR]
    python -m experiments.reproduce --table=sparse_maml/5 --data_dir=DIR
    python -m experiments.reproduce --table=cl_lstm/figure3 --rows='*_oml_*'
    python -m experiments.reproduce --table=cl_lstm/3 --flags='--num_seeds=3'

--list shows every table and figure of the papers, with the data that it needs, which of them are at hand, and
how many of its rows have presets. --experiment=NAME --rows=PATTERN runs presets of an entry point likewise.

The same command continues rows that were interrupted and reads those that are finished. A row that fails is
named and left out. A row that starts from another (its preset's --init_from names that preset, as in
turtle/3.4) takes the other's workdir, once it is finished, in the same folder or in that of another table of
the paper beside it (turtle/3.1). A row is run without those of --flags that mean nothing for it.

At the end, rows.json has the metrics of every row and those of the paper, in the paper's unit and statistic.
seconds.json in a row's workdir is the time that its commands took, with start-up, validations and test;
"seconds" in rows.json is the time of training alone.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import (
    comln,
    continual,
    few_shot,
    flags,
    learned_optimizers,
    maml,
    online_continual,
    online_few_shot,
    osaka,
    supervised,
)
from experiments.cli import launch
from experiments.errors import UsageError
from experiments.presets.tables import PAPERS, Table
from experiments.rows import format_metrics, run_row, run_rows, summarize_row
from experiments.settings import Experiment, Settings
from experiments.workdir import write_json
from jmeta import registry
from jmeta.data.errors import DataError
from jmeta.data.sources.locate import roots

_ENTRY_POINTS = (comln, continual, few_shot, learned_optimizers, maml, online_continual, online_few_shot,
                 osaka, supervised)  # fmt: skip
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in _ENTRY_POINTS}
TABLES = {f"{paper}/{name}": table for paper in PAPERS for name, table in PAPERS[paper].tables.items()}


class RowSelection(NamedTuple):
    """The presets to run: of which `experiment`, in which `output` folder, and the folders of the other
    tables of the paper, whose runs they may start from."""

    experiment: Experiment
    presets: list[str]
    output: Path
    other_folders: tuple[Path, ...] = ()


def main(settings: Settings) -> int:
    """List the tables, or run the rows that are left and print the table; the exit status."""
    if sum(map(bool, settings.take("list", "table", "experiment").values())) != 1:
        raise UsageError("give one of --list, --table=PAPER/NUMBER and --experiment=NAME")
    if settings.list:
        print("\n".join(list_tables(settings.data_dir)))
        return 0
    select, name = (select_table, settings.table) if settings.table else (select_all, settings.experiment)
    selection = select(name, settings.output)
    presets = fnmatch.filter(selection.presets, settings.rows)
    if not presets:
        raise UsageError(f"--rows={settings.rows}: none of {', '.join(selection.presets)}")
    data_dir = [f"--data_dir={settings.data_dir}"] if settings.data_dir else []
    run_one = functools.partial(
        run_row,
        selection.experiment,
        [*data_dir, *shlex.split(settings.flags)],
        other_folders=selection.other_folders,
    )
    status, results = run_rows(presets, run_one, selection.output, settings.max_minutes)
    if status:
        return status
    rows = {preset: summarize_row(result) for preset, result in results.items()}
    for preset, row in rows.items():
        ours, theirs = format_metrics(row["metrics"]), format_metrics(row["published"])
        print(f"{preset:<52}{ours}   paper {theirs}   {row['seconds']:.0f} s")
    if rows:
        write_json(selection.output / "rows.json", rows)
    return 0


def select_table(name: str, output: str | None) -> RowSelection:
    """Select the presets of a table, in `output` or runs/<paper>/<table>."""
    if name not in TABLES:
        near = ", ".join(difflib.get_close_matches(name, TABLES, 3) or ["sparse_maml/5", "cl_lstm/figure3"])
        raise UsageError(f"--table={name}: no such table; --list shows all of them ({near}, ...)")
    table, folder = TABLES[name], Path(output or f"runs/{name}")
    if table.entry_point is None or table.entry_point not in EXPERIMENTS:
        command = f", python -m experiments.{table.entry_point}" if table.entry_point else ""
        raise UsageError(f"--table={name}: {describe_rows(table)}{command} ({table.title})")
    paper, _, number = name.partition("/")
    other_folders = tuple(folder.parent / other for other in PAPERS[paper].tables if other != number)
    presets = presets_of(table, table.presets + table.more)
    return RowSelection(EXPERIMENTS[table.entry_point], presets, folder, other_folders)


def select_all(name: str, output: str | None) -> RowSelection:
    """Select all presets of an entry point, in `output` or runs/rows."""
    if name not in EXPERIMENTS:
        raise UsageError(f"--experiment={name}: no such entry point; expected {', '.join(EXPERIMENTS)}")
    return RowSelection(EXPERIMENTS[name], list(EXPERIMENTS[name].presets), Path(output or "runs/rows"))


def presets_of(table: Table, patterns: Sequence[str]) -> list[str]:
    """List the presets of a table's entry point that match one of the patterns."""
    presets = EXPERIMENTS[table.entry_point or ""].presets
    return [name for name in presets if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def list_tables(data_dir: str | None) -> list[str]:
    """Write a line for each table and figure, by paper: its rows, its title, and the data that it needs."""
    roots(data_dir)  # raises DataError if the user names a folder that does not exist
    describe = functools.cache(functools.partial(describe_data, data_dir=data_dir))
    lines = []
    for name, paper in PAPERS.items():
        lines.append(f"{paper.title}:")
        for number, table in paper.tables.items():
            benchmark = table.entry_point if table.entry_point not in EXPERIMENTS else None
            title = table.title + (f" ({benchmark})" if benchmark else "")
            data = ", ".join(map(describe, table.data))
            line = f"  {name + '/' + number:<22} {describe_rows(table):<24} {title:<68} {data}"
            lines.append(line.rstrip())
    return lines


def describe_rows(table: Table) -> str:
    """Tell how many rows of a table have presets, or why there are none."""
    if table.rows == 0:
        return "nothing to run"
    if table.entry_point is None:
        return "not built yet"
    if table.entry_point not in EXPERIMENTS:
        return "a benchmark"
    count, more = (len(presets_of(table, patterns)) for patterns in (table.presets, table.more))
    text = f"{count} presets" if table.rows is None else f"{count} of {table.rows} rows"
    return text + (f", {more} more" if more else "")


def describe_data(name: str, data_dir: str | None) -> str:
    """Tell if a data set is at hand, in `data_dir` or the usual folders, without loading it."""
    if name not in registry.REGISTRY["dataset"]:
        return f"{name} (no reader yet)"
    if name not in registry.REGISTRY["locator"]:  # made on the fly
        return f"{name} (at hand)"
    try:
        registry.factory("locator", name)(data_dir)
    except DataError:
        return f"{name} (missing)"
    return f"{name} (at hand)"


FLAGS = {
    "list": flags.Flag("boolean", False, "list every table and figure of the papers"),
    "table": flags.Flag("string", None, "the table or figure to run, as sparse_maml/5 or cl_lstm/figure3"),
    "experiment": flags.Flag("string", None, "the entry point whose presets to run, without a table"),
    "rows": flags.Flag("string", "*", "run only the presets that match this pattern"),
    "output": flags.Flag("string", None, "folder of the runs and rows.json [runs/<paper>/<table>]"),
    "flags": flags.Flag("string", "", "flags for every row for which they mean something"),
} | flags.pick("data_dir", "max_minutes", helps={"data_dir": "folder of the data, for --list and every row"})
EXPERIMENT = Experiment("reproduce", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
