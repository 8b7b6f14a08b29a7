"""Settings of CL+LSTM, and the default rows of its three entry points.

Babu, Savarese & Maire, Online Meta-Learning via Learning with Layer-Distributed Memory, NeurIPS 2021.

    python -m experiments.online_few_shot --preset=table1_omniglot_cl_lstm --data_dir=DIR
    python -m experiments.online_continual --preset=figure4_cl_lstm --data_dir=DIR
    python -m experiments.supervised --preset=table5_cifar100_cl_resnet20_0.5 --data_dir=DIR

Expected test accuracies (%), mean +- 95 % interval over 3 runs (Table 3: 2). Tables 1 and 2, 5-way, by the
number of earlier presentations:

| preset of online_few_shot | 1 | 5 | 8 |
|---|---|---|---|
| table1_omniglot_lstm | 85.3 +- 0.23 | 94.4 +- 0.11 | 95.8 +- 0.68 |
| table1_omniglot_ntm | 88.7 +- 0.57 | 96.8 +- 0.11 | 97.3 +- 0.11 |
| table1_omniglot_apl | 89.1 | 94.9 | 95.7 +- 0.11 |
| table1_omniglot_opn | 91.2 +- 1.24 | 94.6 +- 1.24 | 95.8 +- 0.57 |
| table1_omniglot_cpm | 94.5 +- 0.11 | 97.0 +- 0.11 | 97.4 +- 0.45 |
| table1_omniglot_cl_lstm, table2_cl_lstm_first | 96.8 +- 0.57 | 99.4 +- 0.23 | 99.7 +- 0.23 |
| table1_cifar_fs_apl | 37.6 +- 0.68 | 45.8 +- 0.45 | 46.9 +- 0.79 |
| table1_cifar_fs_opn | 49.9 +- 0.23 | 54.9 +- 0.45 | 56.8 +- 0.11 |
| table1_cifar_fs_cpm | 50.2 +- 0.23 | 55.8 +- 0.45 | 57.8 +- 0.45 |
| table1_cifar_fs_cl_lstm | 47.6 +- 1.13 | 56.7 +- 1.81 | 61.0 +- 1.47 |
| table2_cnn_f_lstm | 89.1 +- 0.23 | 96.4 | 97.0 +- 0.23 |
| table2_cnn_lstm | 93.9 +- 0.11 | 97.9 +- 0.23 | 98.2 +- 0.45 |
| table2_cl_lstm_lstm | 94.7 +- 0.68 | 97.3 +- 0.79 | 97.9 +- 0.68 |

Table 3, CIFAR-FS with labels that arrive later; `_pretrained` goes on (--init_from) from a run with delay 1:

| preset of online_few_shot | 6 | 7 | 8 |
|---|---|---|---|
| table3_delay2 | 56.8 +- 0.14 | 58.4 +- 0.28 | 60.0 |
| table3_delay4 | 52.2 +- 0.55 | 53.1 +- 0.42 | 54.1 +- 0.55 |
| table3_delay4_pretrained | 56.1 +- 0.83 | 57.6 +- 0.42 | 59.0 +- 0.14 |
| table3_delay5 | 51.1 +- 1.11 | 51.7 +- 0.97 | 52.7 +- 0.42 |
| table3_delay5_pretrained | 55.2 +- 0.42 | 56.4 | 57.4 +- 0.55 |

Figure 4, 20 subtasks: 93.15 on the first 19 with figure4_cl_lstm, 91.78 with figure4_anml (56 on the last).
Figure 3 has no numbers in print. Table 5, supervised:

| preset of supervised, table5_<data>_ | cifar10 | cifar100 |
|---|---|---|
| vgg11 | 91.5 | 66.9 |
| cl_vgg11_0.5 | 91.5 | 67.3 |
| cl_vgg11_0.35 | 90.7 | 64.3 |
| resnet20 | 91.9 | 68.1 |
| cl_resnet20_0.5 | 90.9 | 63.2 |
| cl_resnet20_0.35 | 89.5 | 58.8 |

The paper has no LSTM and no NTM on CIFAR-FS. The `small_*` presets are ours: the same comparisons at a size
that a CPU trains.

Deviations. Sizes and training values that the paper does not give are flags; the defaults are those that its
cost and parameter counts imply. Presets of online streams standardize images; the paper does not say if it
does. Presets whose encoder was trained elsewhere do not, nor do OML and ANML, so the CNN rows of Table 2 and
the baselines of Figure 3 see other inputs than CL+LSTM. In Figure 3, OML is differentiated to second order
through 5 subtasks and to first order through 10 to 20, for its memory.
"""

from __future__ import annotations

from typing import Any

Presets = dict[str, dict[str, Any]]

PAPER_NAMES = {
    "cl_lstm": "CL+LSTM", "cnn_lstm": "CNN+LSTM", "cnn_f_lstm": "CNN-F+LSTM", "lstm": "LSTM", "ntm": "NTM",
    "apl": "APL", "opn": "OPN", "cpm": "CPM", "oml": "OML", "anml": "ANML", "vgg11": "VGG-11",
    "cl_vgg11": "CL-VGG-11", "resnet20": "ResNet-20", "cl_resnet20": "CL-ResNet-20",
}  # fmt: skip
OMNIGLOT = {"dataset": "omniglot", "split": "lake", "rotations": True}
CIFAR_FS = {"dataset": "cifar_fs", "augment": "crop_flip"}

_STREAMS = {
    "way": 5, "presentations": 10, "meta_batch": 16, "steps": 100000, "learning_rate": 0.001,
    "learning_rate_drops": "60000:0.0001,85000:0.00001", "clip_norm": 1.0, "eval_every": 1000,
    "validation_tasks": 200, "checkpoint_every": 1000, "eval_tasks": 1000, "standardize": True,
}  # fmt: skip
# Ren et al. 2021, Ramalho & Garnelo 2019, and memories of pixels.
_REN = {"steps": 80000, "learning_rate_drops": "40000:0.0001,60000:0.00001", "clip_norm": 5.0,
        "weight_decay": 1e-5}  # fmt: skip
_APL = {"meta_batch": 32, "learning_rate": 0.0001, "steps": 20000, "clip_norm": 5.0,
        "learning_rate_drops": ""}  # fmt: skip
_PIXELS = {"steps": 80000, "learning_rate_drops": "", "clip_norm": 5.0}
_OWN = {"opn": _REN, "cpm": _REN, "apl": _APL, "lstm": _PIXELS, "ntm": _PIXELS | {"steps": 100000}}
_COMPARED = ("cl_lstm", "lstm", "ntm", "apl", "opn", "cpm")


def online_few_shot_row(algorithm: str) -> dict[str, Any]:
    """Return the default row of a memory: the size of its LSTM, if it has one."""
    sizes = {"lstm": 200, "ntm": 200, "apl": None, "opn": None}
    return {"hidden": sizes.get(algorithm, 256)}


def _online_few_shot() -> Presets:
    """Make every row of Tables 1, 2 and 3, and the same comparison at the size of a CPU."""
    presets: Presets = {}
    for data, values in (("omniglot", OMNIGLOT), ("cifar_fs", CIFAR_FS)):
        for algorithm in _COMPARED:
            own = _OWN.get(algorithm, {})
            presets[f"table1_{data}_{algorithm}"] = _STREAMS | values | {"algorithm": algorithm} | own
    for algorithm in ("cnn_f_lstm", "cnn_lstm"):  # whose encoder starts from one that saw images in 0..1
        own = {"algorithm": algorithm, "standardize": False}
        presets[f"table2_{algorithm}"] = _STREAMS | OMNIGLOT | own
    for inject in ("lstm", "first", "all"):
        presets[f"table2_cl_lstm_{inject}"] = _STREAMS | OMNIGLOT | {"inject": inject}
    for delay in (2, 4, 5):
        presets[f"table3_delay{delay}"] = _STREAMS | CIFAR_FS | {"delay": delay}
        if delay > 2:
            halved = {"steps": 50000, "learning_rate_drops": "30000:0.0001,42500:0.00001"}
            presets[f"table3_delay{delay}_pretrained"] = presets[f"table3_delay{delay}"] | halved
    small = _STREAMS | OMNIGLOT | {
        "image_size": 14, "filters": 16, "hidden": 64, "steps": 16000, "learning_rate": 0.003,
        "learning_rate_drops": "", "curriculum": "2,4,6,8", "curriculum_every": 3000, "eval_every": 500,
        "checkpoint_every": 500, "chunk": 4,
    }  # fmt: skip
    for algorithm in _COMPARED:
        presets[f"small_{algorithm}"] = small | {"algorithm": algorithm}
    presets["small_cl_lstm_only_lstm"] = small | {"inject": "lstm"}
    presets["small_delay3"] = small | {"delay": 3}
    return presets


ONLINE_FEW_SHOT = _online_few_shot()

LENGTHS = (5, 10, 15, 20)
SLOTS = 20
# The networks of Figures 3 and 4, and those of the size of a CPU.
NETWORKS: Presets = {
    "cl_lstm": {"filters": 64, "hidden": 256},
    "oml": {"network": "paper", "filters": 256, "hidden": 1024},
    "anml": {"network": "paper", "filters": 256, "modulator_filters": 112},
}
_SMALL_NETWORKS: Presets = {
    "cl_lstm": {"filters": 16, "hidden": 64},
    "oml": {"filters": 64, "hidden": 256},
    "anml": {"filters": 32, "modulator_filters": 32},
}
_TASKS = OMNIGLOT | {
    "subtask_shot": 5, "slots": SLOTS, "query": 5, "test_query": 15, "meta_batch": 8, "chunk": 8,
    "eval_every": 1000, "validation_tasks": 200, "checkpoint_every": 1000, "eval_tasks": 1000,
}  # fmt: skip
_TRAINING: Presets = {
    "cl_lstm": {"clip_norm": 1.0, "learning_rate": 0.001, "standardize": True},
    "oml": {"clip_norm": 10.0, "learning_rate": 0.0001, "steps": 40000, "chunk": 2},
    "anml": {"order": "first", "clip_norm": 10.0, "learning_rate": 0.001, "steps": 20000},
}
_SMALL_TRAINING: Presets = {
    "cl_lstm": {"clip_norm": 1.0, "learning_rate": 0.003, "standardize": True},
    "oml": {"clip_norm": 10.0, "learning_rate": 0.001},
    "anml": {"order": "first", "clip_norm": 10.0, "learning_rate": 0.001},
}


def online_continual_row(algorithm: str) -> dict[str, Any]:
    """Return the default row of a continual learner: its hidden layer and its inner loop, if it has them."""
    return {
        "hidden": {"cl_lstm": 256, "oml": 256}.get(algorithm),
        "order": {"oml": "mixed", "anml": "first"}.get(algorithm),
        "inner_lr": {"oml": 0.03, "anml": 0.1}.get(algorithm),
    }


def _online_continual() -> Presets:
    """Figures 3 and 4, and the same comparison at the size of a CPU."""
    presets: Presets = {}
    for algorithm, network in NETWORKS.items():
        for subtasks in LENGTHS:
            tasks = _TASKS | {"algorithm": algorithm, "subtasks": subtasks}
            own = tasks | network | _TRAINING[algorithm]
            if algorithm == "cl_lstm":
                steps = 45000 + 1000 * (subtasks - 5)
                drops = f"{steps * 60 // 100}:0.0001,{steps * 85 // 100}:0.00001"
                own |= {"steps": steps, "learning_rate_drops": drops} | _curriculum(subtasks, 5000)
            if algorithm == "oml":
                own["order"] = "mixed" if subtasks == 5 else "first"
            presets[f"figure3_{algorithm}_{subtasks}"] = own
        presets[f"figure4_{algorithm}"] = presets[f"figure3_{algorithm}_20"]
        for subtasks in LENGTHS:
            tasks = _TASKS | {"algorithm": algorithm, "subtasks": subtasks, "image_size": 14, "meta_batch": 4}
            often = {"steps": 10000, "eval_every": 500, "checkpoint_every": 500}
            own = tasks | _SMALL_NETWORKS[algorithm] | _SMALL_TRAINING[algorithm] | often
            if algorithm == "cl_lstm":
                own |= _curriculum(subtasks, 2000)
            presets[f"small_{algorithm}_{subtasks}"] = own
    return presets


def _curriculum(subtasks: int, every: int) -> dict[str, Any]:
    """List the lengths below `subtasks`, to begin with one after another."""
    shorter = [length for length in LENGTHS if length < subtasks]
    return {"curriculum": ",".join(map(str, shorter)), "curriculum_every": every} if shorter else {}


ONLINE_CONTINUAL = _online_continual()


def supervised_row(algorithm: str) -> dict[str, Any]:
    """Return the default row of a network: the factor of its widths."""
    return {"shrink": 0.5 if algorithm.startswith("cl_") else 1.0}


def _supervised() -> Presets:
    """Make every row of Table 5."""
    presets: Presets = {}
    for dataset in ("cifar10", "cifar100"):
        for algorithm in ("vgg11", "cl_vgg11", "resnet20", "cl_resnet20"):
            row = {"algorithm": algorithm, "dataset": dataset,
                   "learning_rate": 0.05 if "vgg" in algorithm else 0.1}  # fmt: skip
            if algorithm.startswith("cl_"):
                for shrink in (0.5, 0.35):
                    presets[f"table5_{dataset}_{algorithm}_{shrink}"] = row | {"shrink": shrink}
            else:
                presets[f"table5_{dataset}_{algorithm}"] = row
    return presets


SUPERVISED = _supervised()
