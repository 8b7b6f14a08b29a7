"""The class splits of the literature, kept as data beside this file (README.md names the sources)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any

ClassSplit = dict[str, tuple[str, ...]]

# The keys of the lists beside this file that are no splits.
FACTS = (
    "dataset", "split", "key", "names", "categories", "train_superclasses", "val_superclasses",
    "test_superclasses",
)  # fmt: skip

# The words of the field for each split: of Chen et al. 2019, base and novel; of Lake et al. 2015, background
# and evaluation.
_WORDS = {
    "train": ("train", "training", "base", "background"),
    "validation": ("validation", "validate", "val", "valid", "dev", "devel", "development"),
    "test": ("test", "testing", "novel", "evaluation", "eval"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
# Words around them that say nothing: meta_train, images_background, test-set, val_classes.
_BEFORE, _AFTER = r"(?:meta|images?)?", r"(?:sets?|splits?|images?|class(?:es)?|data)?"
_SPELLING = re.compile(f"{_BEFORE}({'|'.join(_SPLIT_OF_WORD)}){_AFTER}")


def canonical_split(name: str) -> str | None:
    """Return the split that `name` spells: "train", "validation" or "test", or None if it is not understood.

    Case, spaces and the signs - _ . do not matter, nor do "meta" and "images" before the word, and "set",
    "split", "images", "classes" and "data" after it. The words are train, training, base, background;
    validation, validate, val, valid, dev, devel, development; test, testing, novel, evaluation, eval.
    """
    spelling = _SPELLING.fullmatch(re.sub(r"[\s_.-]+", "", name).casefold())
    return _SPLIT_OF_WORD[spelling.group(1)] if spelling else None


def read_lists(name: str) -> dict[str, Any]:
    """Read the file `name`, for instance "cifar_fs", as it stands: a dictionary."""
    return json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text("utf-8"))


def published_split(name: str) -> ClassSplit:
    """Return a published split: class names by "train", "validation" and "test", as far as it has them."""
    lists = read_lists(name)
    return {
        split: tuple(lists[key])
        for split, key in (("train", "train"), ("validation", "val"), ("test", "test"))
        if key in lists
    }


def lake_split() -> ClassSplit:
    """Return the background/evaluation split of Omniglot (Lake et al. 2015).

    A tenth of the background classes validate, chosen by `split_by_seed` with seed 0.
    """
    lists = published_split("omniglot_lake")
    background = split_by_seed(lists["train"], 0, {"train": 0.9, "validation": 0.1})
    return {**background, "test": lists["test"]}


def split_by_seed(classes: Iterable[str], seed: int, shares: dict[str, float]) -> ClassSplit:
    """Divide class names by a rule that depends on nothing but the names, the seed and the shares.

    The classes are ordered by the SHA-256 of "<seed>:<name>"; the last of `shares` takes its share of them
    (rounded to the nearest number, at least one) first, and the first of `shares` takes the rest.
    """
    ranked = sorted(classes, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
    total, split = len(ranked), {}
    for name, share in reversed(list(shares.items())[1:]):
        number = max(1, round(share * total))
        split[name], ranked = tuple(sorted(ranked[:number])), ranked[number:]
    split[next(iter(shares))] = tuple(sorted(ranked))
    return {name: split[name] for name in shares}
