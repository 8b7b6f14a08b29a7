"""Runs beside the published numbers, on standard output and as report.md and report.csv.

python -m experiments.report [--workdirs=runs,other/a] [--against=runs/c] [--tables=all] [--output=runs]

  --workdirs: workdirs of runs, folders of them or glob patterns in quotes, separated by commas; may be
              repeated [runs]
  --against:  a run to subtract from the others, test task by test task, with the interval of the difference
  --tables:   the published tables to print, ours (those in which a run stands) or all [ours]
  --output:   the folder to write report.md and report.csv into [runs]

Runs of experiments.online_continual are drawn there too, as online_continual_by_length.png and
online_continual_by_subtask.png (Figures 3 and 4 of Babu et al. 2021), and runs of experiments.continual with
networks of several widths, as continual_by_width.png (von Oswald et al. 2021, Figure 3, right).
A run without results.json is listed as unfinished, with its last step; one whose results.json cannot be used,
as damaged. Exit status: 0 done; 2 for an unusable flag, a missing workdir or one without a run.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.errors import UsageError, describe_os_error, error_text
from experiments.terminal import exit_with
from jmeta.outer.files import write_whole
from jmeta.report import table
from jmeta.report.words import distinguishing_names


def main(argv: Sequence[str]) -> int:
    """Write the report that the command line asks for; the exit status."""
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv[1:]):
        print((__doc__ or "python -m experiments.report --workdirs=runs (without -OO: more help)").strip())
        return 0
    try:
        patterns, against, all_tables, output = _parse(argv)
        runs = table.collect_runs(table.find_workdirs(patterns))
        differences = _differences(runs, against)
        markdown = table.to_markdown(runs, differences=differences, all_tables=all_tables)
        output.mkdir(parents=True, exist_ok=True)
        for name, text in (("report.md", markdown), ("report.csv", table.to_csv(runs))):
            write_whole(output / name, functools.partial(Path.write_text, data=text, encoding="utf-8"))
        _draw(runs, output)
    except (UsageError, OSError) as error:
        text = describe_os_error(error) if isinstance(error, OSError) else error_text(error)
        print(f"experiments.report: {text}", file=sys.stderr)
        return 2
    for run in runs:
        if run.status == "damaged":
            print(f"experiments.report: {run.workdir}: {run.note}", file=sys.stderr)
    print(markdown)
    print(f"written to {output / 'report.md'} and {output / 'report.csv'}", file=sys.stderr)
    return 0


def _differences(runs: Sequence[table.StoredRun], against: str | None) -> str:
    if against is None:
        return ""
    from jmeta.report.paired import differences_table  # which imports jax

    try:
        return differences_table([run.workdir for run in runs], against)
    except ValueError as error:
        raise UsageError(f"--against={against}: {error}; give the workdir of a finished run") from error


def _draw(runs: Sequence[table.StoredRun], output: Path) -> None:
    continual = [run for run in runs if run.results.get("experiment") == "online_continual"]
    if continual:
        from jmeta.report import online_figures  # which imports jax

        algorithms = [run.results["algorithm"] for run in continual]
        names = distinguishing_names(algorithms, [run.words for run in continual], besides=["subtasks"])
        for draw, file in (
            (online_figures.accuracy_against_length, "online_continual_by_length.png"),
            (online_figures.accuracy_against_subtask, "online_continual_by_subtask.png"),
        ):
            draw(continual, names, output / file)
    streams = [run for run in runs if run.results.get("experiment") == "continual" and "flags" in run.config]
    sparse = [run for run in streams if "sparsity" in run.results["learned"]]
    widths = [run.config["flags"]["hidden"] for run in sparse]
    if len(set(widths)) > 1:
        from jmeta.report import continual_figures

        names = [_stream_name(run) for run in sparse]
        continual_figures.accuracy_against_width(sparse, widths, names, output / "continual_by_width.png")


def _stream_name(run: table.StoredRun) -> str:
    passes = run.config["flags"]["passes"]
    name = f"{run.results['algorithm']}, {run.results['dataset']}"
    return f"{name}, {passes} passes" if passes > 1 else name


def _parse(argv: Sequence[str]) -> tuple[list[str], str | None, bool, Path]:
    values = flags.FlagValues()
    flags.DEFINE_multi_string(
        "workdirs", ["runs"], "workdirs, folders of them or patterns", flag_values=values
    )
    flags.DEFINE_string("against", None, "a run to subtract from the others", flag_values=values)
    flags.DEFINE_enum("tables", "ours", ["ours", "all"], "published tables to print", flag_values=values)
    flags.DEFINE_string("output", "runs", "the folder to write into", flag_values=values)
    try:
        rest = values(list(argv))[1:]
    except flags.Error as error:
        raise UsageError(f"{error}; --help lists the flags") from None
    if rest:
        raise UsageError(
            f"unexpected argument {rest[0]!r}; flags are written --name=value, patterns in quotes"
        )
    patterns = [part for text in values.workdirs for part in text.split(",") if part]
    if not patterns:
        raise UsageError("--workdirs is empty; give the --workdir of a run, a folder of runs or a pattern")
    return patterns, values.against, values.tables == "all", Path(values.output)


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv), "experiments.report")
