"""The numbers the papers published, as rows to set a run against.

`published.json` holds them by paper and table. A row names its `paper` (by the algorithm it introduced),
`table`, `method`, `variant` (what tells apart rows of one method, else None), `backbone`, `dataset`, `way`,
`shot`, `gradient_based` (None where the table does not say), `origin` (the paper's "own" method; for the
others the authors' "own_run", their run of the "official_code", or numbers from the "literature") and, for
each metric, {"mean", "ci95"} in the paper's unit: `accuracy` in percent; "ci95" is None where the paper gives
no interval. A row that `repeats` another table's gives the fields in which that differs. What a paper's text
says of its Figure 4 is the table "Figure 4". A paper whose `statistic` is "median" gives the mean over runs
of each run's median over the tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

Row = dict[str, Any]

_SETTING = ("paper", "table", "method", "variant", "backbone", "dataset", "way", "shot", "origin")


@cache
def papers() -> Mapping[str, Any]:
    """All that `published.json` holds: {paper: {"title", ..., "tables": {table: {"caption", "rows"}}}}."""
    return json.loads((files("jmeta") / "report" / "published.json").read_text(encoding="utf-8"))


def published(paper: str | None = None, table: str | int | None = None, **filters: Any) -> list[Row]:
    """Published rows, in the order of the papers' tables, that agree with every filter given.

    Filters are a row's fields, as in `published(paper="comln", table=2, backbone="conv4", shot=5)`; case
    and punctuation in names do not count ("ResNet-12" is "resnet12"). A filter that is None is no filter.
    Returns new rows, none where nothing was published. Raises ValueError for a field that rows do not have.
    """
    filters = {"paper": paper, "table": table, **filters}
    if unknown := sorted(set(filters) - {*_SETTING, "gradient_based"}):
        raise ValueError(f"published: no field {', '.join(unknown)}; rows have {', '.join(_SETTING)}")
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
    """The published row of one method in one setting: what a run's results are compared with, or None.

    Where several rows agree, those without a variant come first ("COMLN" before "COMLN (Euler)"), then the
    order of the papers' tables decides. Raises ValueError as `published` does.
    """
    rows = published(
        dataset=dataset, method=method, backbone=backbone, way=way, shot=shot, variant=variant, **filters
    )
    return min(rows, key=lambda row: row["variant"] is not None, default=None)


def setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What identifies a row of `published`: two rows of one setting are the same row."""
    return tuple(row.get(field) for field in _SETTING)


def _all_rows() -> list[Row]:
    return [
        {"paper": paper, "table": table, **json.loads(json.dumps(row))}
        for paper, content in papers().items()
        for table, rows in content["tables"].items()
        for row in rows["rows"]
    ]


def _plain(value: Any) -> Any:
    """Names without case and punctuation, numbers and tables' numbers as text."""
    return "".join(filter(str.isalnum, str(value).lower()))
