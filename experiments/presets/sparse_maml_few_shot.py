"""Settings of sparse-MAML's few-shot learning (von Oswald et al., Learning where to learn, NeurIPS 2021).

    python -m experiments.few_shot --preset=sparse_maml_table1_5shot_sparse_maml --data_dir=DIR
    python -m experiments.few_shot --preset=sparse_maml_table4_5shot_to_cub_sparse_maml --data_dir=DIR \\
        --init_from=WORKDIR  # of the row of Table 1

Expected test accuracies (%) on miniImageNet, 5-way, mean +- deviation over 5 seeds (Table 2: 3 seeds):

| sparse_maml_table1_{shot}shot_{algorithm} | 1 shot | 5 shots | sparsity (Table 3), 1 | 5 |
|---|---|---|---|---|
| maml (literature) | 48.07 +- 1.75 | 63.15 +- 0.91 | | |
| anil (literature) | 46.70 +- 0.40 | 61.50 +- 0.50 | | |
| boil (literature) | 49.61 +- 0.16 | 66.45 +- 0.37 | | |
| exp_maml | 48.38 +- 0.45 | 65.21 +- 0.62 | | |
| sparse_relu_maml | 49.84 +- 0.49 | 66.80 +- 0.43 | 77.53 +- 0.73 | 73.53 +- 0.85 |
| sparse_maml | 50.35 +- 0.39 | 67.03 +- 0.74 | 79.04 +- 1.61 | 74.98 +- 0.10 |
| sparse_maml_plus | 51.04 +- 0.59 | 68.05 +- 0.84 | 78.05 +- 1.67 | 76.66 +- 1.13 |

| sparse_maml_table2_{shot}shot_{algorithm} (ResNet-12) | 1 shot | 5 shots |
|---|---|---|
| anil | 55.25 +- 0.33 | 70.03 +- 0.58 |
| sparse_maml | 55.02 +- 0.46 | 70.02 +- 1.12 |
| sparse_relu_maml | 56.39 +- 0.38 | 73.01 +- 0.24 |

| sparse_maml_table4_{shot}shot_to_{data}_{algorithm} | tiered 1 | 5 | CUB 1 | 5 | Cars 1 | 5 |
|---|---|---|---|---|---|---|
| maml | 51.61 | 65.76 | 40.51 | 53.09 | 33.57 | 44.56 |
| anil | 52.82 | 66.52 | 41.12 | 55.82 | 34.77 | 46.55 |
| boil | 53.23 | 69.37 | 44.20 | 60.92 | 36.12 | 50.64 |
| boil | 53.23 | 69.37 | 44.20 | 60.92 | 36.12 | 50.64 |
| sparse_relu_maml | 53.18 | 69.06 | 41.86 | 59.55 | 35.46 | 51.21 |
| sparse_maml | 53.47 | 68.83 | 41.37 | 60.58 | 35.90 | 52.63 |
| sparse_maml_plus | 53.91 | 69.92 | 43.43 | 62.02 | 37.14 | 53.18 |

The rows to Cars read class folders of your own (--data_dir) and a file cars.json there that divides them, see
`jmeta.data.sources.folder`: as in the released code the images of `cars_train`, cut to their boxes, with
class c of the devkit in training if c is odd, in validation if c % 4 is 2, in the test if c % 4 is 0.

Figure 1 is drawn from sparse_maml_figure1_{percent}percent (initial sparsity), and Figure 2 from
sparse_maml_figure2_{algorithm}_{steps}steps and _rate{rate}; the paper prints no numbers for them.

Deviations. Where the paper gives no value its released code is followed. Neither has the ConvNet's settings
of sparse-ReLU-MAML and exp-MAML, which are here those of sparse-MAML, nor those of MAML, ANIL and BOIL, which
have the same steps and an inner rate of 0.1 (ResNet-12: 0.05). The code's scripts for 1 shot run 5 shots; its
ConvNet rows here have an inner rate of 0.1 and 4 tasks an update. The code sums the loss over the tasks of an
update, and we take the mean: of sparse-MAML+, whose SGD sees the difference, the outer rates are twice as
large. Images are not normalized by ImageNet's mean, and the batch normalization after the first layer sees to
that. Validation begins with the first update, not after a quarter of them.
"""

from __future__ import annotations

from typing import Any

from experiments.presets.few_shot_gradient import QUOTED

ALGORITHMS = ("sparse_maml", "sparse_maml_plus", "sparse_relu_maml", "exp_maml")
PAPER_NAMES = {"sparse_maml": "sparse-MAML", "sparse_maml_plus": "sparse-MAML-plus",
               "sparse_relu_maml": "sparse-ReLU-MAML", "exp_maml": "exp-MAML"}  # fmt: skip
# The flags of the optimizer that masks and learned rates have for themselves.
OUTER = ("mask_learning_rate", "mask_optimizer")
RESNET = "resnet12_boil"
_BASELINES = ("maml", "anil", "boil")
_ADAM: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.001}
_BY_SHOT: dict[int, dict[str, Any]] = {
    1: {"inner_lr": 0.1, "meta_batch": 4},
    5: {"inner_lr": 0.25, "meta_batch": 2},
}
# Of the code: outer rates 0.001 and 0.0075 on the sum over two tasks, and a factor of 1/2.
_PLUS = {"optimizer": "sgd", "learning_rate": 0.002, "mask_learning_rate": 0.015, "inner_lr": 0.1,
         "meta_batch": 2}  # fmt: skip
_CODE_OF_PLUS = {"mask_factor": 0.5, "mask_dimension": 1600}
_RESNET = _ADAM | {"inner_steps": 35, "meta_batch": 1, "clip_value": 10.0}
_RESNET_RATE = {("sparse_relu_maml", 1): 0.01}


def row(algorithm: str, backbone: str, shot: int) -> dict[str, Any]:
    """Return the default row of an algorithm: the paper's, those of 5 shots from 5 shots on."""
    shot = 5 if shot >= 5 else 1
    if backbone == RESNET:
        start = {"mask_start": "uniform"} if algorithm.startswith("sparse_maml") else {}
        rate = {"inner_lr": _RESNET_RATE.get((algorithm, shot), 0.05), "mask_learning_rate": 0.01}
        return _RESNET | rate | {"adapt_norm": False} | start
    own = _PLUS if algorithm == "sparse_maml_plus" else _ADAM | {"mask_learning_rate": 0.0075}
    return {"inner_steps": 35} | _BY_SHOT[shot] | own


def _values(algorithm: str, backbone: str, shot: int) -> dict[str, Any]:
    """Return the flags of a row of Table 1 or 2."""
    values = {"algorithm": algorithm, "dataset": "mini_imagenet", "backbone": backbone, "shot": shot,
              "query": 15, "num_seeds": 5, "steps": 40_000, "log_every": 100, "eval_every": 500,
              "validation_tasks": 500, "eval_tasks": 500}  # fmt: skip
    if backbone == RESNET:
        values |= {"num_seeds": 3, "eval_every": 1000}
    else:
        values["initialize"] = "pytorch"
    if algorithm == "sparse_maml_plus":
        values |= {"steps": 60_000} | _CODE_OF_PLUS
    if algorithm not in _BASELINES:
        return values | row(algorithm, backbone, shot)
    if backbone == RESNET:
        return values | _RESNET | {"inner_lr": 0.05}
    return values | _ADAM | {"inner_steps": 35, "inner_lr": 0.1, "meta_batch": _BY_SHOT[shot]["meta_batch"]}


# Flags that mean something to a run that only tests.
_OF_TEST = ("algorithm", "shot", "backbone", "query", "num_seeds", "eval_tasks", "inner_lr", "inner_steps",
            "adapt_norm", "mask_factor", "mask_dimension")  # fmt: skip
_TARGETS: dict[str, dict[str, Any]] = {
    "tiered_imagenet": {"dataset": "tiered_imagenet"},
    "cub": {"dataset": "cub"},
    "cars": {"dataset": "folder", "image_size": 84, "split": "cars.json"},
}


def target(preset: str, dataset: str) -> str | None:
    """Return the data set that a row of Table 4 tests on; None for another preset, or on other data."""
    if not preset.startswith("sparse_maml_table4") or PRESETS[preset]["dataset"] != dataset:
        return None
    return next(name for name in _TARGETS if f"_to_{name}_" in preset)


def _tables() -> dict[str, dict[str, Any]]:
    presets = dict(QUOTED)
    for shot in (1, 5):
        for algorithm in (*_BASELINES, "exp_maml", "sparse_relu_maml", "sparse_maml", "sparse_maml_plus"):
            presets[f"sparse_maml_table1_{shot}shot_{algorithm}"] = _values(algorithm, "conv4", shot)
        for algorithm in ("anil", "sparse_maml", "sparse_relu_maml"):
            presets[f"sparse_maml_table2_{shot}shot_{algorithm}"] = _values(algorithm, RESNET, shot)
    for shot in (1, 5):
        for name, data in _TARGETS.items():
            for algorithm in (*_BASELINES, "boil", "sparse_relu_maml", "sparse_maml", "sparse_maml_plus"):
                start = f"sparse_maml_table1_{shot}shot_{algorithm}"
                values = {flag: value for flag, value in presets[start].items() if flag in _OF_TEST}
                presets[f"sparse_maml_table4_{shot}shot_to_{name}_{algorithm}"] = (
                    values | data | {"eval_only": True, "init_from": start}
                )
    return presets


def _figures() -> dict[str, dict[str, Any]]:
    presets: dict[str, dict[str, Any]] = {}
    for percent in (10, 30, 50, 70, 90):
        presets[f"sparse_maml_figure1_{percent}percent"] = _values("sparse_maml", "conv4", 5) | {
            "mask_start": "uniform", "mask_shift": round(0.5 - percent / 100, 2)}  # fmt: skip
    for algorithm in ("maml", "sparse_maml"):
        values, start = _values(algorithm, "conv4", 5), f"sparse_maml_figure2_{algorithm}"
        for steps in (5, 15, 25):
            presets[f"{start}_{steps}steps"] = values | {"inner_lr": 0.1, "inner_steps": steps}
        for rate in (0.01, 0.05, 0.1, 0.25, 0.5):
            presets[f"{start}_rate{rate:g}"] = values | {"inner_lr": rate}
    return presets


PRESETS = _tables() | _figures()
