"""Settings of COMLN (Deleu et al., Continuous-Time Meta-Learning, ICLR 2022).

    python -m experiments.comln --preset=table2_mini_imagenet_conv4_5shot --data_dir=DIR

Expected test accuracies (%), mean +- 95 % interval over 1,000 tasks:

| preset | 1 shot | 5 shots |
|---|---|---|
| table2_mini_imagenet_conv4 | 53.01 +- 0.62 | 70.54 +- 0.54 |
| table2_mini_imagenet_resnet12 | 59.26 +- 0.65 | 77.26 +- 0.49 |
| table2_tiered_imagenet_conv4 | 54.30 +- 0.69 | 71.35 +- 0.57 |
| table2_tiered_imagenet_resnet12 | 62.93 +- 0.71 | 81.13 +- 0.53 |
| table4_rk | 53.01 +- 0.62 | 70.54 +- 0.54 |
| table4_euler | 53.00 +- 0.83 | 70.50 +- 0.72 |
| table5 (LEO's embeddings) | 50.39 +- 0.63 | 70.06 +- 0.52 |

The paper has no Omniglot and no CIFAR-FS; `demo` and those presets are ours.

Deviations. The paper does not give the outer task batch for images: 8 here, as in Lee et al. (2019). It does
not say if training images were augmented: they are not, unless --augment=crop_flip_jitter. It does not name
the normalization policy of its test numbers; every result here names its own (`norm`).
"""

from __future__ import annotations

# Lee et al. 2019, which App. E.5 follows.
_SCHEDULE = "20000:0.006,40000:0.0012,50000:0.00024"
_PAPER = {
    "way": 5, "query": 15, "steps": 60000, "learning_rate": 0.1, "learning_rate_drops": _SCHEDULE,
    "weight_decay": 5e-4, "optimizer": "sgd", "eval_every": 1000, "validation_tasks": 600,
    "checkpoint_every": 1000, "eval_tasks": 1000,
}  # fmt: skip
_DEMO = {
    "dataset": "glyphs", "filters": 32, "query": 5, "meta_batch": 4, "steps": 600, "weight_decay": 5e-4,
    "learning_rate_drops": "400:0.02", "log_every": 20, "eval_every": 200, "validation_tasks": 100,
    "eval_tasks": 500,
}  # fmt: skip

_DATA, _NETWORKS, _SHOTS = ("mini_imagenet", "tiered_imagenet"), ("conv4", "resnet12"), (1, 5)
_MINI_IMAGENET = _PAPER | {"dataset": "mini_imagenet", "backbone": "conv4"}
_EMBEDDED = _PAPER | {
    "dataset": "features", "backbone": "identity", "meta_batch": 16, "steps": 2000, "learning_rate_drops": "",
    "eval_every": 200,
}  # fmt: skip
_OMNIGLOT = {
    "dataset": "omniglot", "split": "lake", "rotations": True, "query": 5, "weight_decay": 5e-4,
    "eval_every": 200, "checkpoint_every": 200,
}  # fmt: skip
_BY_SHOT = {
    1: {"steps": 2600, "learning_rate_drops": "1500:0.02,2200:0.004"},
    5: {"steps": 2400, "learning_rate_drops": "1400:0.02,2000:0.004"},
}

PRESETS = {
    **{f"table2_{data}_{network}_{shot}shot":
       _PAPER | {"dataset": data, "backbone": network, "shot": shot}
       for data in _DATA for network in _NETWORKS for shot in _SHOTS},
    **{f"table4_rk_{shot}shot": _MINI_IMAGENET | {"shot": shot, "solver": "dopri5"} for shot in _SHOTS},
    **{f"table4_euler_{shot}shot":
       _MINI_IMAGENET | {"shot": shot, "solver": "euler", "step_size": 0.01, "solver_steps": 2**20}
       for shot in _SHOTS},
    **{f"table5_{shot}shot": _EMBEDDED | {"shot": shot} for shot in _SHOTS},
    **{f"cifar_fs_{shot}shot": _PAPER | {"dataset": "cifar_fs", "backbone": "conv4", "shot": shot}
       for shot in _SHOTS},
    **{f"omniglot_{shot}shot": _OMNIGLOT | _BY_SHOT[shot] | {"shot": shot} for shot in _SHOTS},
    "demo": _DEMO,
}  # fmt: skip
