"""Settings of MAML (Finn et al., Model-Agnostic Meta-Learning, ICML 2017, App. A).

    python -m experiments.maml --preset=maml_mini_imagenet_5shot --data_dir=DIR

Expected test accuracies (%): Omniglot 98.7 +- 0.4 and 99.9 +- 0.1 (1 and 5 shots), miniImageNet 48.70 +- 1.84
and 63.11 +- 0.92. `encoder_*` are the networks that CNN+LSTM and CNN-F+LSTM of `experiments.online_few_shot`
start from (--encoder_from).
"""

from __future__ import annotations

# Omniglot with 64 filters, miniImageNet with 32.
_FINN = {"optimizer": "adam", "learning_rate": 0.001, "steps": 60000, "algorithm": "maml"}
_OMNIGLOT = {"dataset": "omniglot", "rotations": True, "meta_batch": 32, "inner_lr": 0.4, "inner_steps": 1}
_MINI_IMAGENET = {"dataset": "mini_imagenet", "filters": 32, "inner_lr": 0.01, "inner_steps": 5,
                  "test_inner_steps": 10, "clip_norm": 10.0}  # fmt: skip

PRESETS = {
    "maml_omniglot_1shot": _FINN | _OMNIGLOT | {"shot": 1, "query": 1, "test_inner_steps": 3},
    "maml_omniglot_5shot": _FINN | _OMNIGLOT | {"shot": 5, "query": 5, "test_inner_steps": 3},
    "maml_mini_imagenet_1shot": _FINN | _MINI_IMAGENET | {"shot": 1, "meta_batch": 4},
    "maml_mini_imagenet_5shot": _FINN | _MINI_IMAGENET | {"shot": 5, "meta_batch": 2},
    "encoder_omniglot": _FINN | _OMNIGLOT | {"split": "lake", "backbone": "conv_encoder", "shot": 5},
    "encoder_cifar_fs": _FINN | {"dataset": "cifar_fs", "backbone": "conv_encoder", "shot": 5,
                                 "inner_lr": 0.01, "inner_steps": 5},
    "maml_sinusoid": _FINN | {"dataset": "sinusoid", "shot": 10, "query": 10, "meta_batch": 25,
                              "inner_lr": 0.01, "filters": 40, "inner_steps": 1, "test_inner_steps": 10,
                              "steps": 70000},
}  # fmt: skip
