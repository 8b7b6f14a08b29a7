"""The settings of runs in words, for tables and legends.

A run's config.json lists its distinguishing settings, "words": [[scope, name, text, usual], ...], in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_SCOPES = ("tasks", "learner")  # in the order of their words


class Word(NamedTuple):
    """One setting of a run.

    `scope`: "tasks" or "learner", the part of the run that the setting belongs to; `name`: the setting's
    name, equal in all runs; `text`: its value in words ("delay 3"); `usual`: true if it goes without saying.
    """

    scope: str
    name: str
    text: str
    usual: bool


def words_of(config: Mapping[str, Any]) -> list[Word]:
    """Read the words of a run's config.json; none if it has none."""
    return [Word(*word) for word in config.get("words", ())]


def unusual_words(words: Sequence[Word]) -> list[str]:
    """List the texts of settings that do not go without saying, those of the tasks first."""
    return [word.text for scope in _SCOPES for word in words if word.scope == scope and not word.usual]


def distinguishing_names(
    algorithms: Sequence[str], words: Sequence[Sequence[Word]], *, besides: Sequence[str] = ()
) -> list[str]:
    """Name each run by its algorithm and by the settings that distinguish it.

    Args:
      algorithms: the algorithm of each run.
      words: the words of each run.
      besides: names of settings to leave out.

    Returns:
      For each run "algorithm, text, ...": the settings of its tasks that differ between any two runs, and the
      settings of its learner that differ between runs of the algorithm. A setting that only other runs have
      is called "default <name>".
    """
    names = []
    for algorithm, own in zip(algorithms, words):
        same = [other for name, other in zip(algorithms, words) if name == algorithm]
        texts = [
            text
            for scope, peers in zip(_SCOPES, (words, same))
            for text in _distinguishing(own, peers, scope, besides)
        ]
        names.append(", ".join([algorithm, *texts]))
    return names


def _distinguishing(
    own: Sequence[Word], peers: Sequence[Sequence[Word]], scope: str, besides: Sequence[str]
) -> list[str]:
    """List the texts of the settings of a scope that differ between `own` and any of its peers."""
    tables = [{word.name: word.text for word in run if word.scope == scope} for run in (own, *peers)]
    mine = tables[0]
    return [
        mine.get(name, f"default {name.replace('_', ' ')}")
        for name in _merged(tables)
        if name not in besides and any(table.get(name) != mine.get(name) for table in tables)
    ]


def _merged(tables: Sequence[Mapping[str, str]]) -> list[str]:
    """Merge the names of all tables into one order that agrees with the order of each."""
    names: list[str] = []
    for table in tables:
        place = 0
        for name in table:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    return names
