"""The numbers the papers published, as rows to set a run against.

`published.json` holds them by paper and table. A row names its `paper` (by the algorithm it introduced),
`table`, `method`, `variant` (which distinguishes rows of one method, else None), `backbone`, `dataset`,
`way`, `shot`, `gradient_based` (None if the table does not say), `origin` (the paper's "own" method; for the
others the authors' "own_run", their run of the "official_code", or numbers from the "literature") and, for
each metric, {"mean", "ci95"} in the paper's unit: `accuracy` in percent; "ci95" is None if the paper gives no
interval. A row that `repeats` a row of another table names the fields in which that row differs. The numbers
that a paper's text gives for its Figure 4 are the table "Figure 4". A paper whose `statistic` is "median"
gives the mean over runs of each run's median over the tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

Row = dict[str, Any]

_KEY = ("paper", "table", "method", "variant", "backbone", "dataset", "way", "shot", "origin")


@cache
def papers() -> Mapping[str, Any]:
    """Read `published.json`: {paper: {"title", ..., "tables": {table: {"caption", "rows"}}}}."""
    return json.loads((files("jmeta") / "report" / "published.json").read_text(encoding="utf-8"))


def published_rows(paper: str | None = None, table: str | int | None = None, **filters: Any) -> list[Row]:
    """List the published rows that agree with every filter, in the order of the papers' tables.

    Filters are a row's fields, as in `published_rows(paper="comln", table=2, backbone="conv4", shot=5)`; case
    and punctuation in names do not count ("ResNet-12" is "resnet12"). A filter that is None is no filter.
    Returns new rows, none if nothing was published. Raises ValueError for a field that rows do not have.
    """
    filters = {"paper": paper, "table": table, **filters}
    if unknown := sorted(set(filters) - {*_KEY, "gradient_based"}):
        raise ValueError(f"published_rows: no field {', '.join(unknown)}; rows have {', '.join(_KEY)}")
    wanted = {field: _plain(value) for field, value in filters.items() if value is not None}
    return [row for row in _all_rows() if all(_plain(row[field]) == value for field, value in wanted.items())]


def row_for(
    dataset: str,
    method: str,
    backbone: str | None = None,
    way: int | None = None,
    shot: int | None = None,
    *,
    variant: str | None = None,
    **filters: Any,
) -> Row | None:
    """Find the published row of one method in one setting, to compare a run's results with; None if none.

    If several rows agree, those without a variant come first ("COMLN" before "COMLN (Euler)"), then the order
    of the papers' tables decides. Raises ValueError as `published_rows` does.
    """
    rows = published_rows(
        dataset=dataset, method=method, backbone=backbone, way=way, shot=shot, variant=variant, **filters
    )
    return min(rows, key=lambda row: row["variant"] is not None, default=None)


def in_fractions(row: Mapping[str, Any]) -> Row:
    """Convert the percentages of a published row to fractions: {"mean", "ci95", "unit": "fraction"}."""

    def convert(value: Any) -> Any:
        if not (isinstance(value, dict) and "mean" in value):
            return value
        numbers = {
            name: None if number is None else round(number / 100, 10) for name, number in value.items()
        }
        return {**numbers, "unit": "fraction"}

    return {name: convert(value) for name, value in row.items()}


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Identify a published row: two rows of one key are the same row."""
    return tuple(row.get(field) for field in _KEY)


def _all_rows() -> list[Row]:
    return [
        {"paper": paper, "table": table, **json.loads(json.dumps(row))}
        for paper, content in papers().items()
        for table, rows in content["tables"].items()
        for row in rows["rows"]
    ]


def _plain(value: Any) -> Any:
    """Normalize a field: names without case and punctuation, numbers as text."""
    return "".join(filter(str.isalnum, str(value).lower()))
