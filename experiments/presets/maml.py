"""Settings of MAML (Finn et al., Model-Agnostic Meta-Learning, ICML 2017, App. A).

    python -m experiments.maml --preset=maml_mini_imagenet_5shot --data_dir=DIR

Expected test accuracies (%): Omniglot 98.7 +- 0.4 and 99.9 +- 0.1 (1 and 5 shots), miniImageNet 48.70 +- 1.84
and 63.11 +- 0.92. The released code's inner loss is the sum over the support set divided by the shots, 5
times the mean that is minimized here: its rates 0.4 and 0.01 are 2.0 and 0.05. Its Omniglot network is
strided.

Deviations. Batch normalization has a scale, which the released code leaves out, and adapts its offset, which
the released code does not; kernels are initialized by LeCun's rule, not Xavier's (the last layer of Omniglot:
normal with deviation 1).

`encoder_*` are the networks that CNN+LSTM and CNN-F+LSTM of `experiments.online_few_shot`
start from (--encoder_from).
"""

from __future__ import annotations

# Omniglot with 64 filters, miniImageNet with 32.
_FINN = {"optimizer": "adam", "learning_rate": 0.001, "steps": 60000, "algorithm": "maml"}
_OMNIGLOT = {"dataset": "omniglot", "rotations": True, "meta_batch": 32, "inner_steps": 1}
_STRIDED = {"backbone": "conv4", "pool": False, "inner_lr": 2.0, "test_inner_steps": 3}
_MINI_IMAGENET = {"dataset": "mini_imagenet", "filters": 32, "inner_lr": 0.05, "inner_steps": 5,
                  "test_inner_steps": 10, "clip_value": 10.0}  # fmt: skip

PRESETS = {
    "maml_omniglot_1shot": _FINN | _OMNIGLOT | _STRIDED | {"shot": 1, "query": 1},
    "maml_omniglot_5shot": _FINN | _OMNIGLOT | _STRIDED | {"shot": 5, "query": 5},
    "maml_mini_imagenet_1shot": _FINN | _MINI_IMAGENET | {"shot": 1, "meta_batch": 4},
    "maml_mini_imagenet_5shot": _FINN | _MINI_IMAGENET | {"shot": 5, "meta_batch": 2},
    "encoder_omniglot": _FINN | _OMNIGLOT | {"split": "lake", "backbone": "conv_encoder", "shot": 5,
                                             "inner_lr": 0.4},
    "encoder_cifar_fs": _FINN | {"dataset": "cifar_fs", "backbone": "conv_encoder", "shot": 5,
                                 "inner_lr": 0.01, "inner_steps": 5},
    "maml_sinusoid": _FINN | {"dataset": "sinusoid", "shot": 10, "query": 10, "meta_batch": 25,
                              "inner_lr": 0.01, "filters": 40, "inner_steps": 1, "test_inner_steps": 10,
                              "steps": 70000},
}  # fmt: skip
