"""MAML, first-order MAML and ANIL: meta-train and test adaptation by gradient steps.

Finn et al., ICML 2017; Raghu et al., ICLR 2020.
"""

from __future__ import annotations

from experiments import flags
from experiments.cli import launch
from experiments.few_shot import ALGORITHMS, main, pick_flags, published_row, row
from experiments.presets.maml import PRESETS
from experiments.settings import Experiment

GRADIENT = {name: ALGORITHMS[name] for name in ("maml", "fomaml", "anil")}
EXPERIMENT = Experiment(
    "maml",
    __doc__ or "",
    flags.pick(
        "algorithm",
        choices={"algorithm": GRADIENT},
        helps={"algorithm": "maml; fomaml, its first-order form; anil, which adapts the last layer alone"},
        defaults={"algorithm": "maml"},
    )
    | pick_flags(GRADIENT),
    main,
    PRESETS,
    GRADIENT,
    row,
    lambda settings: published_row(settings.algorithm, settings),
)

if __name__ == "__main__":
    launch(EXPERIMENT)
