"""Default rows of few-shot algorithms that differ from the usual one, and names in the papers' tables."""

from __future__ import annotations

from typing import Any

from experiments.presets.few_shot_gradient import PAPER_NAMES as GRADIENT
from experiments.presets.few_shot_gradient import ROWS as GRADIENT_ROWS
from experiments.presets.sparse_maml_few_shot import PAPER_NAMES as SPARSE_MAML

USUAL: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.001, "meta_batch": 4}
ROWS = {
    "comln": {"optimizer": "sgd", "learning_rate": 0.1, "meta_batch": 8},
    "protonet": USUAL | {"meta_batch": 1},
    **{name: USUAL | values for name, values in GRADIENT_ROWS.items()},
    "r2d2": USUAL | {"learning_rate": 0.005, "meta_batch": 1},
}
PAPER_NAMES = {"maml": "MAML", "fomaml": "FOMAML", "anil": "ANIL", "comln": "COMLN",
               "protonet": "Prototypical networks", "r2d2": "R2D2", **SPARSE_MAML,
               **GRADIENT}  # fmt: skip
