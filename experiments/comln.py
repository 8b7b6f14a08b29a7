"""COMLN: meta-train and test continuous-time adaptation (Deleu et al., ICLR 2022)."""

from __future__ import annotations

import functools

from experiments import flags
from experiments.cli import launch
from experiments.few_shot import ALGORITHMS, main, pick_flags, published_row, row
from experiments.presets.comln import PRESETS
from experiments.settings import Experiment

CHOICES = {"dataset": flags.without("dataset", "sinusoid"), "norm": flags.without("norm", "per_step")}
EXPERIMENT = Experiment(
    "comln",
    __doc__ or "",
    pick_flags({"comln": ALGORITHMS["comln"]}, choices=CHOICES),
    main,
    PRESETS,
    defaults=functools.partial(row, "comln"),
    published=functools.partial(published_row, "comln"),
)

if __name__ == "__main__":
    launch(EXPERIMENT)
