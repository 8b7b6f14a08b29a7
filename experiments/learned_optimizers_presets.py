"""The settings of the paper of learned optimisers: of each algorithm on its data, and of every row and point.

Huisman et al., Stateless Neural Meta-Learning using Second-Order Gradients, Machine Learning 2022.
"""

from __future__ import annotations

from typing import Any

META_LEARNERS = ("maml", "fomaml", "meta_lstm", "meta_lstm_enhanced", "turtle", "turtle_first_order")
TRANSFER = ("scratch", "finetune", "baseline_pp")
PAPER_NAMES = dict(zip(
    META_LEARNERS + TRANSFER,
    ("MAML", "FO-MAML", "Meta-learner LSTM", "Enhanced LSTM", "TURTLE", "FO-TURTLE", "TrainFromScratch",
     "Finetuning", "Baseline++"),
))  # fmt: skip
OTHER_DATA = {"mini_imagenet": "cub", "cub": "mini_imagenet"}

_BASELINE: dict[str, Any] = {"meta_batch": 1, "inner_steps": 100, "inner_lr": 0.001}
_IMAGES: dict[str, dict[str, Any]] = {
    "maml": {"meta_batch": 4, "inner_steps": 5, "test_inner_steps": 10},
    "fomaml": {"meta_batch": 4, "inner_steps": 5, "test_inner_steps": 10},
    "meta_lstm": {"meta_batch": 1, "inner_steps": 12},
    "meta_lstm_enhanced": {"meta_batch": 1, "inner_steps": 8},
    "turtle": {"meta_batch": 2, "inner_steps": 5},
    "turtle_first_order": {"meta_batch": 2, "inner_steps": 5},
    "scratch": _BASELINE | {"steps": 0, "norm": "batch"},
    "finetune": _BASELINE | {"norm": "running"},
    "baseline_pp": _BASELINE | {"norm": "running"},
}
_IMAGES_5_SHOT = {"maml": {"meta_batch": 2}, "fomaml": {"meta_batch": 2}, "meta_lstm": {"inner_steps": 5}}
_SINE = {name: _IMAGES[name] for name in META_LEARNERS} | {
    "maml": {"meta_batch": 4, "inner_steps": 5},
    "fomaml": {"meta_batch": 4, "inner_steps": 5},
    "meta_lstm": {"meta_batch": 1, "inner_steps": 8},
}


def own_settings(algorithm: str, *, sine: bool, shot: int) -> dict[str, Any]:
    """What an algorithm is run with on sine waves, or on images with so many examples of a class.

    The paper has 1 and 5 shots; from 5 shots on (as in the authors' code) it is the latter's settings.
    """
    if sine:
        return _SINE[algorithm]
    return {"query": 16} | _IMAGES[algorithm] | (_IMAGES_5_SHOT.get(algorithm, {}) if shot >= 5 else {})


def in_tasks(tasks: int, every: int, meta_batch: int) -> dict[str, int]:
    """A budget and a period, both counted in tasks, as outer updates."""
    period = every // meta_batch
    return {"steps": tasks // meta_batch, "eval_every": period, "checkpoint_every": period,
            "log_every": max(period // 5, 1)}  # fmt: skip


def sine(algorithm: str, **values: Any) -> dict[str, Any]:
    """A preset of 5-shot sine waves: 70,000 tasks, validation every 2,500 on 1,000, test on 2,000."""
    base = {"algorithm": algorithm, "dataset": "sinusoid", "shot": 5, "query": 50, "num_seeds": 30,
            "validation_tasks": 1000, "eval_tasks": 2000, "skip_nonfinite": True}  # fmt: skip
    base |= own_settings(algorithm, sine=True, shot=5) | values
    return in_tasks(70000, 2500, base["meta_batch"]) | base


def images(algorithm: str, dataset: str, shot: int) -> dict[str, Any]:
    """A preset of 5-way images: 60,000 tasks (1-shot) or 40,000 (5-shot), 600 to validate and to test on."""
    base = {"algorithm": algorithm, "dataset": dataset, "shot": shot, "num_seeds": 5, "padded": False,
            "validation_tasks": 600, "eval_tasks": 600, "skip_nonfinite": algorithm != "scratch"}  # fmt: skip
    base |= own_settings(algorithm, sine=False, shot=shot)
    return in_tasks(60000 if shot == 1 else 40000, 2500, base["meta_batch"]) | base


def presets() -> dict[str, dict[str, Any]]:
    """Every row of Tables 3.1 and 3.4, every point of Figure 3.2 and every bar of Figure 3.3.

    A row of Table 3.4 names the row of Table 3.1 that it tests, as `--init_from`; scratch has learned nothing
    to test.
    """
    found: dict[str, dict[str, Any]] = {}
    for data, other in OTHER_DATA.items():
        for shot in (1, 5):
            for algorithm in META_LEARNERS + TRANSFER:
                row = images(algorithm, data, shot)
                start = f"table3_1_{data}_{shot}shot_{algorithm}"
                crossed = {} if algorithm == "scratch" else {"eval_only": True, "init_from": start}
                found[start] = row
                found[f"table3_4_{data}_to_{other}_{shot}shot_{algorithm}"] = (
                    row | {"dataset": other} | crossed
                )
    for steps in (1, 5, 10):
        for algorithm in ("maml", "fomaml"):
            found[f"figure3_2_{algorithm}_{steps}steps"] = sine(algorithm, inner_steps=steps, num_seeds=5)
        for algorithm in ("turtle", "turtle_first_order"):
            for depth in range(1, 7):
                found[f"figure3_2_{algorithm}_{steps}steps_{depth}layers"] = sine(
                    algorithm, inner_steps=steps, hidden_layers=depth, inputs="gradient",
                    learn_rates=False, num_seeds=5,
                )  # fmt: skip
    for algorithm in META_LEARNERS:
        found[f"figure3_3_{algorithm}"] = sine(algorithm)
    return found
