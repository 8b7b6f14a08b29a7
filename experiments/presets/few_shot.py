"""Default rows of few-shot algorithms that differ from the usual one, and names in the papers' tables."""

from __future__ import annotations

from typing import Any

USUAL: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.001, "meta_batch": 4}
ROWS = {
    "comln": {"optimizer": "sgd", "learning_rate": 0.1, "meta_batch": 8},
    "protonet": USUAL | {"meta_batch": 1},
    "r2d2": USUAL | {"learning_rate": 0.005, "meta_batch": 1},
}
PAPER_NAMES = {"maml": "MAML", "fomaml": "FOMAML", "anil": "ANIL", "comln": "COMLN",
               "protonet": "Prototypical networks", "r2d2": "R2D2"}  # fmt: skip
