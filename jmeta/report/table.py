"""Runs beside the published numbers: read from their workdirs, and written as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from glob import glob
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from jmeta.outer.files import read_plain
from jmeta.report.published import Row, papers, published_rows, row_key
from jmeta.report.words import Word, unusual_words, words_of

_RUN_HOLDS = ("results.json", "config.json", "metrics.jsonl", "checkpoints")
_COLUMNS = (
    "workdir", "status", "step", "planned_steps", "experiment", "algorithm", "preset", "dataset", "backbone",
    "way", "shot", "setting", "seed", "norm", "tasks", "tasks_per_second", "metric", "unit", "mean", "ci95",
    "selected_on", "paper", "table", "paper_method", "paper_mean", "paper_ci95", "difference",
    "difference_ci95", "note",
)  # fmt: skip

# The paper that an entry point reproduces, for runs without a published row.
_PAPERS = {"learned_optimizers": "turtle"}
# The k-shot accuracies of online streams that are displayed for runs without a published row.
_SHOTS = (1, 5, 8)
_COPIED = ("experiment", "algorithm", "preset", "dataset", "backbone", "way", "shot", "seed")


class StoredRun(NamedTuple):
    """The content of a workdir.

    `status`: "finished", "unfinished" (no results.json) or "damaged" (one that cannot be used, for the reason
    in `note`); `step`: the last outer update that was logged, None for none; `results`: results.json, empty
    unless finished; `config`: config.json, empty if it is missing or damaged.
    """

    workdir: str
    status: str
    step: int | None
    results: dict[str, Any]
    config: dict[str, Any]
    note: str = ""

    @property
    def words(self) -> list[Word]:
        """The run's distinguishing settings in words."""
        return words_of(self.config)


def find_workdirs(patterns: Iterable[str]) -> list[Path]:
    """Find the workdirs of runs by folders or glob patterns: each folder itself, else all the runs below it.

    Raises FileNotFoundError, in one line, for a pattern that names no folder or a folder without runs.
    """
    workdirs: dict[Path, None] = {}
    for pattern in patterns:
        exists = Path(pattern).exists()
        folders = [Path(pattern)] if exists else [Path(match) for match in sorted(glob(pattern))]
        if not folders:
            raise FileNotFoundError(f"{pattern}: no such workdir; give the --workdir of a run, or a pattern")
        runs = [run for folder in folders if folder.is_dir() for run in _runs_in(folder)]
        if not runs:
            raise FileNotFoundError(f"{pattern}: no run in it; a run holds one of {', '.join(_RUN_HOLDS)}")
        workdirs.update(dict.fromkeys(runs))
    return list(workdirs)


def collect_runs(workdirs: Iterable[Path]) -> list[StoredRun]:
    """Read every workdir; missing or damaged files are reported in the run's status, never as an error."""
    return [_read(Path(workdir)) for workdir in workdirs]


def compare_with_paper(run: StoredRun, metric: str | None = None) -> dict[str, Any]:
    """Compare a run with its published row, by `metric` or by the run's headline metric.

    Returns one flat record, the columns of the CSV. `mean` and `ci95` are in `unit`: percent of what is a
    fraction in results.json. `difference` is ours less the paper's; `difference_ci95`, the root of the sum of
    both squared intervals, holds for independent test tasks. Raises KeyError, TypeError or ValueError if
    results.json lacks a metric's mean or interval.
    """
    evaluation, row = run.results.get("eval", {}), run.results.get("published") or {}
    facts = run.config.get("run", {}) | run.results
    record: dict[str, Any] = dict.fromkeys(_COLUMNS)
    record |= {name: facts.get(name) for name in _COPIED}
    record |= {"workdir": run.workdir, "status": run.status, "step": run.step, "note": run.note}
    record["planned_steps"] = run.config.get("steps")
    record["setting"] = _setting(record, run.words)
    record |= {"norm": evaluation.get("norm", facts.get("norm")), "tasks": evaluation.get("tasks")}
    record["selected_on"] = evaluation.get("selected_on")
    record["tasks_per_second"] = (run.results.get("train") or {}).get("tasks_per_second")
    if run.status != "finished":
        return record
    metric = metric or headline_metric(run.results)
    ours = metric_summary(run.results, metric)
    unit = displayed_unit(run.results, metric)
    record |= {"metric": metric, "unit": unit, "mean": ours["mean"], "ci95": ours["ci95"]}
    if row.get(metric):
        theirs = displayed(row[metric], ("mean", "ci95"))
        record |= {"paper": row.get("paper"), "table": row.get("table"), "paper_method": _method(row)}
        record |= {"paper_mean": theirs["mean"], "paper_ci95": theirs["ci95"]}
        record["difference"] = round(ours["mean"] - theirs["mean"], 6)
        if ours["ci95"] is not None and theirs["ci95"] is not None:
            record["difference_ci95"] = round(math.hypot(ours["ci95"], theirs["ci95"]), 6)
    return record


def headline_metric(results: dict[str, Any]) -> str:
    """Choose a run's main metric: the first one that the published row has too, or else accuracy, the squared
    error, or the first of all. Raises ValueError if there is none."""
    metrics = results["eval"]["metrics"]
    if not metrics:
        raise ValueError("it holds no metric")
    wanted = [*metrics_of(results.get("published") or {}), "accuracy", "squared_error", *metrics]
    return next(name for name in wanted if name in metrics)


def displayed_metrics(results: dict[str, Any]) -> list[str]:
    """List the metrics to display of a run.

    They are the accuracies by shot of an online stream, those that the published row has or else 1, 5 and 8;
    and the headline metric of any other run.
    """
    names = metrics_of(results.get("published") or {}) or [f"accuracy_{shot}_shot" for shot in _SHOTS]
    by_shot = [name for name in names if name.endswith("_shot") and name in results["eval"]["metrics"]]
    return by_shot or [headline_metric(results)]


def metric_summary(results: dict[str, Any], metric: str) -> dict[str, Any]:
    """Convert a metric of results.json to the papers' form: {"mean", "ci95"} and, if the run has it, "std".

    Fractions become percent; the interval is None if there is none. With several seeds, the mean is over each
    seed's median over the tasks if the paper reports medians. Raises ValueError for a mean or an interval
    that is not finite.
    """
    summary = results["eval"]["metrics"][metric]
    paper = (results.get("published") or {}).get("paper") or _PAPERS.get(results.get("experiment", ""))
    if "of_medians" in summary and papers().get(str(paper), {}).get("statistic") == "median":
        summary = {"unit": summary["unit"], **summary["of_medians"]}
    ours = displayed(summary, ("mean", "ci95", "std") if "std" in summary else ("mean", "ci95"))
    if ours["mean"] is None or not all(math.isfinite(value) for value in ours.values() if value is not None):
        raise ValueError(f"its {metric} is not finite")
    return ours


def displayed_unit(results: dict[str, Any], metric: str) -> str:
    """Return the unit in which a metric of results.json is displayed: "%" for a fraction."""
    unit = results["eval"]["metrics"][metric]["unit"]
    return "%" if unit == "fraction" else unit


def displayed(summary: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Convert the numbers of a summary with a unit to those that are displayed."""
    scale = 100.0 if summary["unit"] == "fraction" else 1.0
    return {name: None if summary[name] is None else round(scale * summary[name], 10) for name in names}


def to_csv(runs: Sequence[StoredRun]) -> str:
    """Write the runs as CSV, a line each, with the columns of `compare_with_paper`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(compare_with_paper(run) for run in runs)
    return text.getvalue()


def to_markdown(runs: Sequence[StoredRun], *, differences: str = "", all_tables: bool = False) -> str:
    """Write the runs as Markdown.

    First the runs, beside their published rows, and those without results; then `differences` to one of them
    (see `jmeta.report.paired.differences_table`); then the papers' tables in which a run stands, or with
    `all_tables` all of them.
    """
    parts = ["# Runs beside the published numbers", _finished_table(runs), _others(runs), differences.strip()]
    ours = {key[:2] for key in _ours_by_row(runs)}  # (paper, table)
    for paper, content in papers().items():
        rows = {table: published_rows(paper, table) for table in content["tables"]}
        mine = [table for table in rows if any(_source_key(row)[:2] in ours for row in rows[table])]
        parts += [_paper_table(paper, table, runs) for table in (rows if all_tables else mine)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _runs_in(folder: Path) -> list[Path]:
    if any((folder / name).exists() for name in _RUN_HOLDS):
        return [folder]
    return [run for inner in sorted(folder.iterdir()) if inner.is_dir() for run in _runs_in(inner)]


def _read(workdir: Path) -> StoredRun:
    name, config, step = str(workdir), _read_config(workdir), _last_step(workdir)
    try:
        results = json.loads(read_plain(workdir / "results.json"))
        run = StoredRun(name, "finished", results.get("steps", step), results, config)
        for metric in (None, *displayed_metrics(results)):
            compare_with_paper(run, metric)
    except FileNotFoundError:
        return StoredRun(name, "unfinished", step, {}, config, "no results.json")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        return StoredRun(
            name, "damaged", step, {}, config, f"results.json cannot be used ({reason}); run it again"
        )
    return run


def _read_config(workdir: Path) -> dict[str, Any]:
    """Read config.json; {} if it is missing, or if it is not of the form that this module uses."""
    try:
        config = json.loads(read_plain(workdir / "config.json"))
        words_of(config)
        return config if isinstance(config.get("run", {}), dict) else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _last_step(workdir: Path) -> int | None:
    """Read the step of the last whole line of metrics.jsonl: a killed run may have left half a line."""
    try:
        lines = read_plain(workdir / "metrics.jsonl", 1 << 30, errors="replace").splitlines()
    except (OSError, ValueError):
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def metrics_of(row: Row) -> list[str]:
    """List the metrics of a published row, in its order."""
    return [name for name, value in row.items() if isinstance(value, dict) and "mean" in value]


def _finished_table(runs: Sequence[StoredRun]) -> str:
    head = [
        "workdir",
        "algorithm",
        "setting",
        "norm",
        "steps",
        "metric",
        "ours",
        "paper",
        "difference",
        "source",
    ]
    rows = []
    finished = [run for run in runs if run.status == "finished"]
    for record in (
        compare_with_paper(run, metric) for run in finished for metric in displayed_metrics(run.results)
    ):
        source = _source(record["paper"], record["table"]) if record["paper"] else ""
        metric = f"{record['metric']} ({record['unit']})" if record["unit"] else record["metric"]
        if record["selected_on"] == "test":
            metric += ", the best of a grid on the test data"
        ours = plus_minus(record["mean"], record["ci95"])
        theirs = plus_minus(record["paper_mean"], record["paper_ci95"])
        difference = plus_minus(record["difference"], record["difference_ci95"], "+")
        run = [f"`{record['workdir']}`", record["algorithm"], record["setting"], record["norm"]]
        rows.append([*run, _steps(record), metric, ours, theirs, difference, source])
    if not rows:
        return ""
    note = (
        "Mean ± 95 % interval over the test tasks, or over the seeds if there are several (Student's t for "
        "fewer than 30; for learned optimizers: over each seed's median); difference: ours less the paper's, "
        "with the interval that holds for independent test tasks."
    )
    return f"{note}\n\n{markdown_table(head, rows)}"


def _others(runs: Sequence[StoredRun]) -> str:
    lines = []
    for run, record in ((run, compare_with_paper(run)) for run in runs if run.status != "finished"):
        last = "no step logged" if run.step is None else f"last logged step {_steps(record)}"
        note = "" if run.status == "unfinished" else f"; {run.note}"
        lines.append(f"- `{run.workdir}`: {run.status}, {last}{note}")
    return "\n".join(["## Without results", "", *lines]) if lines else ""


def _paper_table(paper: str, table: str, runs: Sequence[StoredRun]) -> str:
    """Format a published table, with our runs beneath the rows that they reproduce."""
    rows, content = published_rows(paper, table), papers()[paper]
    columns = list(dict.fromkeys((row["dataset"], row["way"], row["shot"]) for row in rows))
    ours = _ours_by_row(runs)
    lines: dict[tuple[str, str], dict[Any, Row]] = {}
    for row in rows:
        column = row["dataset"], row["way"], row["shot"]
        lines.setdefault((_method(row), row["backbone"]), {})[column] = row
    body = []
    for (method, backbone), cells in lines.items():
        body.append([method, backbone, *(_published_cell(cells.get(column)) for column in columns)])
        mine = [ours.get(_source_key(cells[column]), []) if column in cells else [] for column in columns]
        body += [["**ours**", backbone, *cell] for cell in zip_longest(*mine, fillvalue="")]
    head = ["method", "backbone", *(_column(*column) for column in columns)]
    title = f"## {_source(paper, table)} ({content['venue']}): {content['tables'][table]['caption']}"
    metrics = " / ".join(dict.fromkeys(metric for row in rows for metric in metrics_of(row)))
    legend = f"{metrics.replace('_', ' ').capitalize()} (%)"
    legend += f", {content['evaluation']}."
    if any(row["origin"] == "official_code" for row in rows):
        legend += " †: run by the authors with the method's official code."
    return f"{title}\n\n{legend}\n\n{markdown_table(head, body)}"


def _source_key(row: Row) -> tuple[Any, ...]:
    """Return the key of a row, or of the row that it repeats from another table."""
    return row_key(row | row.get("repeats", {}))


def _column(dataset: str, way: int | None, shot: int | None) -> str:
    episode = [f"{number}-{name}" for name, number in (("way", way), ("shot", shot)) if number is not None]
    return " ".join([dataset, *episode])


def _ours_by_row(runs: Sequence[StoredRun]) -> dict[tuple[Any, ...], list[str]]:
    cells: dict[tuple[Any, ...], list[str]] = {}
    for run in runs:
        if compare_with_paper(run)["paper"]:
            row, metrics = run.results["published"], run.results["eval"]["metrics"]
            ours = [metric_summary(run.results, name) for name in metrics_of(row) if name in metrics]
            values = " / ".join(plus_minus(one["mean"], one["ci95"]) for one in ours)
            cells.setdefault(row_key(row), []).append(f"**{values}** (`{run.workdir}`)")
    return cells


def _published_cell(row: Row | None) -> str:
    if row is None:
        return ""
    mark = " †" if row["origin"] == "official_code" else ""
    return " / ".join(plus_minus(row[name]["mean"], row[name]["ci95"]) for name in metrics_of(row)) + mark


def _source(paper: str, table: str) -> str:
    return f"{papers()[paper]['authors']}, {'' if table.startswith('Figure') else 'Table '}{table}"


def _method(row: Row) -> str:
    return f"{row['method']} ({row['variant']})" if row.get("variant") else str(row["method"])


def _setting(record: dict[str, Any], words: Sequence[Word]) -> str:
    episode = [f"{record[name]}-{name}" for name in ("way", "shot") if record[name] is not None]
    usual = " ".join(str(part) for part in (record["dataset"], record["backbone"], *episode) if part)
    return ", ".join(filter(None, [usual, *unusual_words(words)]))


def _steps(record: dict[str, Any]) -> str:
    step, planned = record["step"], record["planned_steps"]
    return f"{step} of {planned}" if planned is not None and step != planned else str(step)


def plus_minus(mean: float | None, ci95: float | None, sign: str = "") -> str:
    """Format a mean and its interval, with the mean's sign if `sign` is "+"; empty without a mean."""
    if mean is None:
        return ""
    return f"{mean:{sign}.2f}" + ("" if ci95 is None else f" ± {ci95:.2f}")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table in Markdown; a cell that is None is empty."""

    def line(cells: Sequence[Any]) -> str:
        texts = ("" if cell is None else str(cell).replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(texts)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
