"""The setting of a run in words, from those of its flags that tell runs of one algorithm apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# In the order of their words: first what the tasks are, then what the learner is.
_TASKS = {
    "dataset": "{}",
    "split": "split {}",
    "image_size": "{0}x{0}",
    "presentations": "{} presentations",
    "delay": "delay {}",
    "subtasks": "{} subtasks",
    "subtask_shot": "{} examples of each",
    "slots": "{} slots",
}
_LEARNER = {
    "standardise": "standardise {}",
    "inject": "labels to {}",
    "skip": "skip {}",
    "network": "{} network",
    "filters": "filters {}",
    "modulator_filters": "modulator filters {}",
    "hidden": "hidden {}",
    "shrink": "{}x",
    "learning_rate": "outer rate {}",
    "inner_lr": "inner rate {}",
    "test_inner_optimizer": "{} at test",
    "test_inner_lr": "inner rate {} at test",
}
# What goes without saying, and what is said elsewhere or matters in a comparison only.
_USUAL = {"delay": 1, "subtask_shot": 5, "slots": 20, "inject": "first", "skip": "add", "network": "lite",
          "filters": 64, "modulator_filters": 64, "hidden": 256}  # fmt: skip
_ELSEWHERE = ("dataset", "split", "standardise", "learning_rate", "inner_lr", "test_inner_optimizer",
              "test_inner_lr")  # fmt: skip


def unusual(flags: Mapping[str, Any]) -> list[str]:
    """What the flags of a run say that does not go without saying, as "delay 3" or "10 presentations"."""
    return [
        words.format(flags[name])
        for name, words in (_TASKS | _LEARNER).items()
        if name not in _ELSEWHERE and flags.get(name) not in (None, _USUAL.get(name))
    ]


def told_apart(
    algorithms: Sequence[str], flags: Sequence[Mapping[str, Any]], *, besides: Sequence[str] = ()
) -> list[str]:
    """For each run, of `algorithms` and with `flags`, a name: its algorithm, what its tasks have that not all
    runs' tasks have, and what it has that not all runs of the algorithm have; but for the flags `besides`."""
    names = []
    for algorithm, own in zip(algorithms, flags):
        alike = [other for name, other in zip(algorithms, flags) if name == algorithm]
        said = [
            words.format(own[name]) if own.get(name) is not None else f"default {name.replace('_', ' ')}"
            for known, peers in ((_TASKS, flags), (_LEARNER, alike))
            for name, words in known.items()
            if name not in besides and any(peer.get(name) != own.get(name) for peer in peers)
        ]
        names.append(", ".join([algorithm, *said]))
    return names
