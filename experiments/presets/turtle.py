"""Settings of TURTLE and its rivals (Huisman et al., Stateless Neural Meta-Learning using Second-Order
Gradients, Machine Learning 2022).

    python -m experiments.learned_optimizers --preset=table3_1_mini_imagenet_1shot_turtle --data_dir=DIR

Expected test accuracies (%) on miniImageNet and CUB with 1 and 5 shots: mean over 5 runs of each run's median
over 600 tasks, printed to whole percents. Intervals are at most 1, of FO-TURTLE with 5 shots 4 and 3.

| table3_1_{data}_{shot}shot_{algorithm} | mini 1 | mini 5 | CUB 1 | CUB 5 |
|---|---|---|---|---|
| scratch | 29 | 40 | 30 | 46 |
| finetune | 38 | 56 | 33 | 53 |
| baseline_pp | 44 | 58 | 36 | 53 |
| meta_lstm | 45 | 61 | 50 | 65 |
| meta_lstm_enhanced | 48 | 63 | 53 | 71 |
| fomaml | 46 | 63 | 52 | 72 |
| maml | 47 | 63 | 52 | 73 |
| turtle_first_order | 43 | 59 | 50 | 64 |
| turtle | 48 | 62 | 53 | 72 |

Trained on one and tested on the other (Table 3.4; intervals at most 2):

| table3_4_{data}_to_{other}_{shot}shot_{algorithm} | mini to CUB 1 | 5 | CUB to mini 1 | 5 |
|---|---|---|---|---|
| scratch | 30 | 46 | 29 | 40 |
| finetune | 33 | 52 | 29 | 41 |
| baseline_pp | 35 | 52 | 26 | 31 |
| meta_lstm | 34 | 52 | 29 | 37 |
| meta_lstm_enhanced | 37 | 55 | 32 | 43 |
| fomaml | 34 | 54 | 31 | 45 |
| maml | 35 | 56 | 31 | 47 |
| turtle_first_order | 36 | 54 | 30 | 31 |
| turtle | 38 | 56 | 30 | 44 |

The paper draws Figures 3.2 (depth of TURTLE's network) and 3.3 (sine waves) without printing their numbers;
ours are in experiments/results/learned_optimizers.md.

Deviations. If paper and released code differ, the code is followed, except for its accidents: the best
checkpoint is restored whole, with the rates of the LSTM and TURTLE; support and query do not overlap; and the
baselines keep the best of four evaluations. There is no validation before the first update. A training task
follows from (seed of the data, update, index), so tasks are the same for all seeds but not for all meta-batch
sizes. With several seeds, updates that are not finite are left out (skip_nonfinite); the released code
continues with them.
"""

from __future__ import annotations

from typing import Any

from experiments.errors import UsageError

META_LEARNERS = ("maml", "fomaml", "meta_lstm", "meta_lstm_enhanced", "turtle", "turtle_first_order")
TRANSFER = ("scratch", "finetune", "baseline_pp")
METHODS = dict(zip(
    META_LEARNERS + TRANSFER,
    ("MAML", "FO-MAML", "Meta-learner LSTM", "Enhanced LSTM", "TURTLE", "FO-TURTLE", "TrainFromScratch",
     "Finetuning", "Baseline++"),
))  # fmt: skip
OTHER_DATA = {"mini_imagenet": "cub", "cub": "mini_imagenet"}
SMALLEST_UNPADDED = 46  # height and width of which conv4 without padding leaves something

_BASELINE = {"meta_batch": 1, "inner_steps": 100, "inner_lr": 0.001}
_IMAGES: dict[str, dict[str, Any]] = {
    "maml": {"meta_batch": 4, "inner_steps": 5, "test_inner_steps": 10},
    "fomaml": {"meta_batch": 4, "inner_steps": 5, "test_inner_steps": 10},
    "meta_lstm": {"meta_batch": 1, "inner_steps": 12},
    "meta_lstm_enhanced": {"meta_batch": 1, "inner_steps": 8},
    "turtle": {"meta_batch": 2, "inner_steps": 5},
    "turtle_first_order": {"meta_batch": 2, "inner_steps": 5},
    "scratch": _BASELINE | {"steps": 0},
    "finetune": _BASELINE | {"norm": "running"},
    "baseline_pp": _BASELINE | {"norm": "running"},
}
_IMAGES_5_SHOT = {"maml": {"meta_batch": 2}, "fomaml": {"meta_batch": 2}, "meta_lstm": {"inner_steps": 5}}
_SINE = {name: _IMAGES[name] for name in META_LEARNERS} | {
    "maml": {"meta_batch": 4, "inner_steps": 5},
    "fomaml": {"meta_batch": 4, "inner_steps": 5},
    "meta_lstm": {"meta_batch": 1, "inner_steps": 8},
}
_ANY_DATA: dict[str, dict[str, Any]] = {
    "maml": {"inner_lr": 0.01, "order": "exact"},
    "fomaml": {"inner_lr": 0.01, "order": "first"},
    "meta_lstm": {"order": "first", "inputs": "loss_and_gradient", "clip_norm": 0.25},
    "meta_lstm_enhanced": {"order": "exact", "inputs": "raw_gradient", "clip_norm": 0.25},
    "turtle": {"order": "exact"},
    "turtle_first_order": {"order": "first"},
}


def row(
    algorithm: str, dataset: str, way: int, shot: int, image_size: int | None, inner_steps: int | None
) -> dict[str, Any]:
    """Return the default row of an algorithm on a dataset.

    Raises UsageError for a transfer baseline on sine waves.
    """
    sine = dataset == "sinusoid"
    if sine and algorithm in TRANSFER:
        raise UsageError(f"--algorithm={algorithm} classifies images; give --dataset=cifar_fs or so")
    as_published = dataset in OTHER_DATA and (image_size or 84) >= SMALLEST_UNPADDED
    network = {"backbone": "mlp" if sine else "conv4", "filters": 40 if sine else 64}
    values = network | {"query": 15, "padded": not as_published} | _ANY_DATA.get(algorithm, {})
    values |= _by_data(algorithm, sine, shot)
    several_steps = (values["inner_steps"] if inner_steps is None else inner_steps) > 1
    if algorithm.startswith("turtle"):
        values["inputs"] = "gradient,gradient_history" if several_steps else "gradient"
    if algorithm.startswith("meta_lstm"):
        values["gradient_divisor"] = float(shot * (1 if sine else way))
    elif algorithm in META_LEARNERS and several_steps:  # as in the code
        values["inner_clip"] = 10.0
    return values


def _by_data(algorithm: str, sine: bool, shot: int) -> dict[str, Any]:
    """Return the paper's settings of an algorithm on sine waves, or on images by the examples of a class.

    The paper has 1 and 5 shots; from 5 shots on (as in the authors' code) they are those of 5.
    """
    if sine:
        return _SINE[algorithm]
    return {"query": 16} | _IMAGES[algorithm] | (_IMAGES_5_SHOT.get(algorithm, {}) if shot >= 5 else {})


def in_tasks(tasks: int, every: int, meta_batch: int) -> dict[str, int]:
    """Convert a budget and a period, both counted in tasks, to outer updates."""
    period = every // meta_batch
    return {"steps": tasks // meta_batch, "eval_every": period, "checkpoint_every": period,
            "log_every": max(period // 5, 1)}  # fmt: skip


def _sine(algorithm: str, **values: Any) -> dict[str, Any]:
    """Make a preset of 5-shot sine waves: 70,000 tasks, validation every 2,500 on 1,000, test on 2,000."""
    base = {"algorithm": algorithm, "dataset": "sinusoid", "shot": 5, "query": 50, "num_seeds": 30,
            "validation_tasks": 1000, "eval_tasks": 2000, "skip_nonfinite": True}  # fmt: skip
    base |= _by_data(algorithm, True, 5) | values
    return in_tasks(70000, 2500, base["meta_batch"]) | base


def _images(algorithm: str, dataset: str, shot: int) -> dict[str, Any]:
    """Make a preset of 5-way images: 60,000 tasks (5 shots: 40,000), 600 to validate and to test on."""
    base = {"algorithm": algorithm, "dataset": dataset, "shot": shot, "num_seeds": 5, "padded": False,
            "validation_tasks": 600, "eval_tasks": 600, "skip_nonfinite": algorithm != "scratch"}  # fmt: skip
    base |= _by_data(algorithm, False, shot)
    return in_tasks(60000 if shot == 1 else 40000, 2500, base["meta_batch"]) | base


def _tables() -> dict[str, dict[str, Any]]:
    """Make every row of Tables 3.1 and 3.4.

    A row of Table 3.4 names the row of Table 3.1 that it tests, as `--init_from`; scratch has learned nothing
    to test.
    """
    presets: dict[str, dict[str, Any]] = {}
    for data, other in OTHER_DATA.items():
        for shot in (1, 5):
            for algorithm in META_LEARNERS + TRANSFER:
                values = _images(algorithm, data, shot)
                start = f"table3_1_{data}_{shot}shot_{algorithm}"
                tested = {} if algorithm == "scratch" else {"eval_only": True, "init_from": start}
                presets[start] = values
                presets[f"table3_4_{data}_to_{other}_{shot}shot_{algorithm}"] = (
                    values | {"dataset": other} | tested
                )
    return presets


def _figures() -> dict[str, dict[str, Any]]:
    """Make every point of Figure 3.2 and every bar of Figure 3.3."""
    presets: dict[str, dict[str, Any]] = {}
    for steps in (1, 5, 10):
        for algorithm in ("maml", "fomaml"):
            presets[f"figure3_2_{algorithm}_{steps}steps"] = _sine(algorithm, inner_steps=steps, num_seeds=5)
        for algorithm in ("turtle", "turtle_first_order"):
            for depth in range(1, 7):
                presets[f"figure3_2_{algorithm}_{steps}steps_{depth}layers"] = _sine(
                    algorithm, inner_steps=steps, hidden_layers=depth, inputs="gradient",
                    learn_rates=False, num_seeds=5,
                )  # fmt: skip
    return presets | {f"figure3_3_{algorithm}": _sine(algorithm) for algorithm in META_LEARNERS}


PRESETS = _tables() | _figures()
