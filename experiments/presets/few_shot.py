"""Default rows of the few-shot algorithms, and their names in the papers' tables."""

from __future__ import annotations

from typing import Any

_ADAM = {"optimizer": "adam", "learning_rate": 0.001, "meta_batch": 4}
ROWS: dict[str, dict[str, Any]] = {
    "maml": _ADAM,
    "fomaml": _ADAM,
    "anil": _ADAM,
    "comln": {"optimizer": "sgd", "learning_rate": 0.1, "meta_batch": 8},
    "protonet": _ADAM | {"meta_batch": 1},
    "r2d2": _ADAM | {"learning_rate": 0.005, "meta_batch": 1},
}
PAPER_NAMES = {"maml": "MAML", "fomaml": "FOMAML", "anil": "ANIL", "comln": "COMLN",
               "protonet": "Prototypical networks", "r2d2": "R2D2"}  # fmt: skip
