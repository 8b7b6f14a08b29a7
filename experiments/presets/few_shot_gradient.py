"""Settings of MAML's relatives, each of its own paper and released code.

    python -m experiments.few_shot --preset=boil_mini_imagenet_1shot --data_dir=DIR

Expected test accuracies (%) by shots, 5-way unless they say 20 (mini: miniImageNet; tiered: tieredImageNet):

| algorithm | Omniglot 1 | 5 | Omniglot 20-way 1 | 5 |
|---|---|---|---|---|
| meta_sgd | 99.53 +- 0.26 | 99.93 +- 0.09 | 95.9 | 99.0 |
| maml_pp | 99.47 | 99.93 | 97.65 +- 0.05 | 99.33 +- 0.03 |
| reptile, norm=batch | 97.68 +- 0.04 | 99.48 +- 0.06 | 89.43 +- 0.14 | 97.12 +- 0.32 |
| reptile, norm=support | 95.39 +- 0.09 | 98.90 +- 0.10 | 88.14 +- 0.15 | 96.65 +- 0.33 |
| mt_net | 99.5 +- 0.3 | | 96.2 +- 0.4 | |

| algorithm | mini 1 | 5 | tiered 1 | 5 |
|---|---|---|---|---|
| boil | 49.61 +- 0.16 | 66.45 +- 0.37 | 48.58 +- 0.27 | 69.37 +- 0.12 |
| meta_sgd | 50.47 +- 1.87 | 64.03 +- 0.94 | 52.80 +- 0.44 | 62.35 +- 0.26 |
| maml_pp | 52.15 +- 0.26 | 68.32 +- 0.44 | | |
| reptile, norm=batch | 49.97 +- 0.32 | 65.99 +- 0.58 | | |
| reptile, norm=support | 47.07 +- 0.26 | 62.74 +- 0.37 | | |
| meta_curvature | 54.23 +- 0.88 | 68.47 +- 0.69 | | |
| t_net | 50.86 +- 1.82 | | | |
| mt_net | 51.70 +- 1.84 | | | |
| shrinkage | 47.7 +- 0.5 | | | |

BOIL's ResNet-12 has 70.50 +- 0.28 on miniImageNet, 5 shots. Rows of Tables 1 and 2 of sparse-MAML, which
quote these papers, have its names too (sparse_maml_table1_1shot_boil). LEAP's own protocol has alphabets of
Omniglot as tasks (20 ways, 100 steps, 25 alphabets to train on: 75.5), and is not built: leap_omniglot_20way
has its settings on our tasks. Not checked against a paper's text: MAML++'s 20 ways, MT-net's Omniglot,
T-net's row, the budget of Meta-SGD (that of a replica), and all settings of shrinkage, whose code was never
released (shrinkage is its sigma-MAML; shrinkage_imaml and shrinkage_reptile are the other two forms).

The inner loss of Finn et al.'s code, on which those of meta-curvature and of T- and MT-nets build, is the sum
over the support set divided by the shots, as many times the mean that is minimized here as there are ways:
their rates 0.4 and 0.01 are 2.0 and 0.05, and of 20 ways 0.4 and 0.1 are 8.0 and 2.0.

Deviations. Networks are those of `jmeta.conv4`: normalization layers have a scale, which the code of Finn et
al. has not; Reptile's flattens the last of its strided layers, ours averages it, and its miniImageNet network
keeps odd rows when it pools; MAML++'s has leaky ReLUs. Each result is of one model, the best in validation:
MAML++'s is the average of five; its rate falls along a cosine on Omniglot, which is left out; its limit on
the gradient holds here for the rates too. Meta-curvature's miniImageNet was augmented in a way that the paper
does not tell: here it is cropped, flipped and jittered, and the other settings are those of T-nets. A test
has as many query images as a training task; in the code of Finn et al. and its descendants as many as shots.
"""

from __future__ import annotations

from typing import Any

PAPER_NAMES = {"boil": "BOIL", "meta_sgd": "Meta-SGD", "reptile": "Reptile", "maml_pp": "MAML++",
               "meta_curvature": "Meta-curvature", "t_net": "T-net", "mt_net": "MT-net",
               "shrinkage": "Shrinkage", "shrinkage_imaml": "sigma-iMAML",
               "shrinkage_reptile": "sigma-Reptile", "leap": "LEAP"}  # fmt: skip
# Flags of an outer loop that is an algorithm's own.
OUTER = {
    "reptile": ("train_shot", "linear_steps"),
    "leap": ("train_shot", "linear_steps"),
    **dict.fromkeys(("shrinkage", "shrinkage_imaml", "shrinkage_reptile"),
                    ("mask_learning_rate", "mask_optimizer")),
}  # fmt: skip
_FINN_MINI: dict[str, Any] = {"inner_lr": 0.05, "inner_steps": 5, "test_inner_steps": 10}
_REPTILE: dict[str, Any] = {
    "optimizer": "plain_sgd", "learning_rate": 1.0, "meta_batch": 5, "inner_lr": 0.001, "inner_steps": 5,
    "adapt_batch": 10, "test_inner_steps": 50, "test_adapt_batch": 5, "train_shot": 10,
}  # fmt: skip
# What differs from the usual row of `experiments.presets.few_shot`.
ROWS: dict[str, dict[str, Any]] = {
    "boil": {"inner_lr": 0.5, "inner_steps": 1},
    "meta_sgd": {"inner_steps": 1},
    "reptile": _REPTILE,
    "maml_pp": {"inner_lr": 0.1},
    "meta_curvature": {"inner_lr": 0.05},
    "t_net": _FINN_MINI,
    "mt_net": _FINN_MINI,
    "shrinkage": {"inner_lr": 0.05, "mask_learning_rate": 0.01},
    **dict.fromkeys(("shrinkage_imaml", "shrinkage_reptile"),
                    {"inner_lr": 0.1, "inner_steps": 16, "mask_learning_rate": 0.01}),
    "leap": {"optimizer": "plain_sgd", "learning_rate": 0.1, "meta_batch": 20, "inner_lr": 0.1,
             "inner_steps": 100, "adapt_batch": 20},
}  # fmt: skip

_ADAM = {"optimizer": "adam", "learning_rate": 0.001}
_XAVIER = {"initialize": "glorot_uniform"}
_OMNIGLOT: dict[str, Any] = {"dataset": "omniglot", "rotations": True}
_FINN = _ADAM | _XAVIER | {"steps": 60000, "eval_every": 1000, "validation_tasks": 600}
_FINN_OMNIGLOT = _FINN | _OMNIGLOT | {"filters": 64, "pool": False}
_FINN_IMAGES = (
    _FINN | _FINN_MINI | {"dataset": "mini_imagenet", "filters": 32, "query": 15, "clip_value": 10.0}
)


def _boil(dataset: str, shot: int, backbone: str = "conv4") -> dict[str, Any]:
    residual = backbone != "conv4"
    values = {"algorithm": "boil", "dataset": dataset, "backbone": backbone, "shot": shot, "query": 15,
              "meta_batch": 4, "inner_lr": 0.3 if residual else 0.5, "inner_steps": 1, "eval_every": 500,
              "validation_tasks": 100, "eval_tasks": 1000, "num_seeds": 5}  # fmt: skip
    if residual:
        return values | _ADAM | {"learning_rate": 0.0006, "steps": 10000}
    return values | _ADAM | {"filters": 64, "initialize": "pytorch", "steps": 30000}


def _meta_sgd(data: dict[str, Any], shot: int) -> dict[str, Any]:
    return _ADAM | data | {"algorithm": "meta_sgd", "filters": 64, "shot": shot, "query": 10,
                           "meta_batch": 32, "inner_steps": 1, "steps": 10000}  # fmt: skip


def _maml_pp(data: dict[str, Any], shot: int) -> dict[str, Any]:
    values = _ADAM | _XAVIER | data | {
        "algorithm": "maml_pp", "shot": shot, "inner_lr": 0.1, "inner_steps": 5, "steps": 50000,
        "epoch_updates": 500, "eval_every": 500, "validation_tasks": 600, "eval_tasks": 600,
    }  # fmt: skip
    if data["dataset"] == "omniglot":
        return values | {"filters": 64, "query": 1, "meta_batch": 8, "multi_step_epochs": 10}
    return values | {"filters": 48, "query": 15, "meta_batch": 2, "multi_step_epochs": 15, "clip_value": 10.0}


def _reptile(data: dict[str, Any], shot: int, way: int, norm: str) -> dict[str, Any]:
    values = _REPTILE | _XAVIER | data | {"algorithm": "reptile", "shot": shot, "query": 1, "norm": norm,
                                          "shared_moments": True, "eval_tasks": 10000}  # fmt: skip
    steps = 200000 if way == 20 else 100000
    values |= {"steps": steps, "linear_steps": steps, "eval_every": 5000}
    if data["dataset"] == "mini_imagenet":
        return values | {
            "filters": 32,
            "inner_steps": 8,
            "train_shot": 15,
            "test_adapt_batch": 5 if shot == 1 else 15,
        }
    values |= {"filters": 64, "pool": False}
    if way == 20:
        values |= {"inner_lr": 0.0005, "adapt_batch": 20, "inner_steps": 10, "test_adapt_batch": 10}
    return values


def _metric(algorithm: str, way: int) -> dict[str, Any]:
    """Return the settings of meta-curvature and MT-nets on Omniglot."""
    if algorithm == "meta_curvature":
        return {"inner_lr": 0.4 * way, "inner_steps": 1, "meta_batch": 32}
    few = way == 5
    return {"inner_lr": 2.0, "inner_steps": 1, "test_inner_steps": 10, "meta_batch": 32 if few else 16,
            "steps": 40000}  # fmt: skip


def _presets() -> dict[str, dict[str, Any]]:
    presets: dict[str, dict[str, Any]] = {}
    mini = {"dataset": "mini_imagenet"}
    for shot in (1, 5):
        for dataset in ("mini_imagenet", "tiered_imagenet"):
            presets[f"boil_{dataset}_{shot}shot"] = _boil(dataset, shot)
            presets[f"meta_sgd_{dataset}_{shot}shot"] = _meta_sgd({"dataset": dataset}, shot)
        presets[f"maml_pp_mini_imagenet_{shot}shot"] = _maml_pp(mini, shot)
        presets[f"meta_curvature_mini_imagenet_{shot}shot"] = _FINN_IMAGES | {
            "algorithm": "meta_curvature", "shot": shot, "meta_batch": 4 if shot == 1 else 2,
            "augment": "crop_flip_jitter"}  # fmt: skip
        for way in (5, 20):
            data, name = _OMNIGLOT | {"way": way}, f"omniglot_{way}way_{shot}shot"
            presets[f"meta_sgd_{name}"] = _meta_sgd(data, shot)
            presets[f"maml_pp_{name}"] = _maml_pp(data, shot)
            for algorithm in ("meta_curvature", "mt_net"):
                presets[f"{algorithm}_{name}"] = _FINN_OMNIGLOT | _metric(algorithm, way) | {
                    "algorithm": algorithm, "way": way, "shot": shot, "query": shot}  # fmt: skip
            for norm in ("batch", "support"):
                presets[f"reptile_{name}_{norm}"] = _reptile(data, shot, way, norm)
        for norm in ("batch", "support"):
            presets[f"reptile_mini_imagenet_{shot}shot_{norm}"] = _reptile(mini, shot, 5, norm)
    for algorithm in ("t_net", "mt_net"):
        presets[f"{algorithm}_mini_imagenet_1shot"] = _FINN_IMAGES | {
            "algorithm": algorithm, "shot": 1, "meta_batch": 4, "eval_tasks": 4000}  # fmt: skip
    presets["boil_mini_imagenet_5shot_resnet12"] = _boil("mini_imagenet", 5, "resnet12_boil")
    presets["shrinkage_mini_imagenet_1shot"] = _ADAM | mini | {
        "algorithm": "shrinkage", "shot": 1, "query": 15, "filters": 32, "meta_batch": 16, "inner_lr": 0.1,
        "inner_steps": 10, "mask_learning_rate": 0.01, "steps": 60000}  # fmt: skip
    presets["leap_omniglot_20way"] = ROWS["leap"] | _OMNIGLOT | {
        "algorithm": "leap", "filters": 64, "way": 20, "shot": 10, "query": 5, "steps": 1000}  # fmt: skip
    return presets


PRESETS = _presets()
# Rows that sparse-MAML's Tables 1 and 2 quote.
QUOTED = {
    **{f"sparse_maml_table1_{shot}shot_{algorithm}": PRESETS[f"{algorithm}_mini_imagenet_{shot}shot"]
       for shot in (1, 5) for algorithm in ("boil", "meta_sgd", "mt_net", "meta_curvature", "shrinkage")
       if f"{algorithm}_mini_imagenet_{shot}shot" in PRESETS},
    "sparse_maml_table2_5shot_boil": PRESETS["boil_mini_imagenet_5shot_resnet12"],
}  # fmt: skip
