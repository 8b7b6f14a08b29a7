"""The tables and figures of the five papers: their titles, the data they need, and the presets of their rows.

    python -m experiments.reproduce --list
    python -m experiments.reproduce --table=sparse_maml/5 --data_dir=DIR

The expected numbers stand in `jmeta/report/published.json` and in the docstrings of the papers' presets.
"""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    """A table or figure of a paper.

    `rows` is the number of its results, one for each method and setting: 0 if there is nothing to run, None
    if the paper does not tell. `data` names the data sets. `entry_point` plays it or, if it is one of the
    benchmarks, measures it; None if it is not built yet. `presets` are the patterns of the presets that are
    rows of the paper, `more` of those that are played beside them.
    """

    title: str
    rows: int | None
    data: tuple[str, ...] = ()
    entry_point: str | None = None
    presets: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


class Paper(NamedTuple):
    """A paper, with its tables by number and its figures as "figure" and number."""

    title: str
    tables: dict[str, Table]


_BASELINES = ("scratch", "finetune", "baseline_pp")
_META_LEARNERS = ("meta_lstm", "meta_lstm_enhanced", "fomaml", "maml", "turtle_first_order", "turtle")
_OSAKA = ("online_adam", "finetuning", "maml", "anil", "bgd", "metacog", "metabgd", "c_maml",
          "sparse_c_maml", "sparse_relu_c_maml")  # fmt: skip
_MINI, _BIRDS, _SEGMENTATION = ("mini_imagenet",), ("mini_imagenet", "cub"), ("fss1000",)


def _rows(start: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{start}_{name}" for name in names)


CL_LSTM = {
    "1": Table(
        "Online few-shot classification, 5-way", 10, ("omniglot", "cifar_fs"), "online_few_shot",
        ("table1_omniglot_*", *_rows("table1_cifar_fs", ("cl_lstm", "apl", "opn", "cpm"))),
        _rows("table1_cifar_fs", ("lstm", "ntm")),
    ),
    "2": Table(
        "The layers that see the labels", 4, ("omniglot",), "online_few_shot",
        _rows("table2", ("cnn_f_lstm", "cnn_lstm", "cl_lstm_lstm", "cl_lstm_first")), ("table2_cl_lstm_all",),
    ),
    "3": Table("Delayed labels", 5, ("cifar_fs",), "online_few_shot", ("table3_*",)),
    "4": Table("Segmenting and masking with distractors, CL U-Net", 3, _SEGMENTATION),
    "5": Table("Supervised classification", 12, ("cifar10", "cifar100"), "supervised", ("table5_*",)),
    "figure1": Table("Diagram of adaptation in activation space", 0),
    "figure2": Table("Diagram of the architecture", 0),
    "figure3": Table("Continual learning of 5 to 20 subtasks", 12, ("omniglot",), "online_continual",
                     ("figure3_*",)),
    "figure4": Table("Accuracy by subtask, of 20", 3, ("omniglot",), "online_continual", ("figure4_*",)),
    "figure5": Table("A task of segmenting and masking", None, _SEGMENTATION),
}  # fmt: skip
SPARSE_MAML = {
    "1": Table("5-way few-shot classification, Conv-4", 20, _MINI, "few_shot", ("sparse_maml_table1_*",)),
    "2": Table("5-way few-shot classification, ResNet-12", 11, _MINI, "few_shot", ("sparse_maml_table2_*",)),
    "3": Table("Gradient sparsity after meta-learning, Conv-4", 6, _MINI, "few_shot",
               _rows("sparse_maml_table1_*shot", ("sparse_relu_maml", "sparse_maml", "sparse_maml_plus"))),
    "4": Table("Across domains from miniImageNet, from the runs of Table 1", 36,
               (*_MINI, "tiered_imagenet", "cub", "folder"), "few_shot", ("sparse_maml_table4_*",)),
    "5": Table(
        "Continual MNIST: retained accuracy and backward transfer", 15, ("mnist",), "continual",
        _rows("table5_*", ("sgd", "gem", "mer", "la_maml", "sparse_la_maml")),
        _rows("table5_*", ("er", "agem", "la_maml_sync", "replay_maml")),
    ),
    "6": Table(
        "OSAKA: cumulative online accuracy", 20, ("omniglot", "mnist", "fashion_mnist"), "osaka",
        _rows("table6_stay??", _OSAKA), ("table6_stay??_c_maml_*",),
    ),
    "figure1": Table("Gradient sparsity in training (benchmarks.sparse_maml_figures)", None, _MINI,
                     "few_shot", ("sparse_maml_figure1_*",)),
    "figure2": Table("By inner steps and rate (benchmarks.sparse_maml_figures)", None, _MINI, "few_shot",
                     ("sparse_maml_figure2_*",)),
    "figure3": Table("Sparsity of La-MAML and sparse-La-MAML, and by width", None, ("mnist",),
                     "continual", ("figure3_*",)),
    "figure4": Table("Sparsity with ten passes over each task", 1, ("mnist",), "continual",
                     ("figure4_la_maml",), ("figure4_sparse_la_maml",)),
}  # fmt: skip
EFFICIENTLAB = {
    "1": Table("Ablations of EfficientLab", 4, _SEGMENTATION),
    "2": Table("Training paradigms, 1 and 5 shots", 17, _SEGMENTATION),
    "3": Table("Hyperparameters of meta-training", 0),
    "4": Table("Tuned update hyperparameters, EfficientLab-3", 4, _SEGMENTATION),
    "5": Table("Tuned update hyperparameters, EfficientLab-6-3", 1, _SEGMENTATION),
    "6": Table("Classes of PASCAL-5i that FSS-1000 has too", 0),
    "figure1": Table("Diagram of EfficientLab-3", 0),
    "figure2": Table("Predictions from 5 shots", None, _SEGMENTATION),
    "figure3": Table("IoU by learning rate and number of steps", None, _SEGMENTATION),
    "figure4": Table("IoU by size of the training set, FP-k", None, (*_SEGMENTATION, "pascal_5i")),
    "figure5": Table("More predictions from 5 shots", None, _SEGMENTATION),
    "figure6": Table("Distances of adapted weights from the initial ones", None, _SEGMENTATION),
    "figure7": Table("Differences of the weights by block", None, _SEGMENTATION),
}
COMLN = {
    "1": Table("Asymptotic memory of the meta-gradient", 0),
    "2": Table("Few-shot classification, Conv-4 and ResNet-12", 52, (*_MINI, "tiered_imagenet"), "few_shot",
               ("table2_*", "maml_mini_imagenet_*")),
    "3": Table("References for Table 2", 0),
    "4": Table("The numerical solver: Runge-Kutta and Euler", 4, _MINI, "few_shot", ("table4_*",)),
    "5": Table("A linear classifier on LEO's embeddings", 20, ("features",), "few_shot", ("table5_*",)),
    "figure1": Table("Diagram of adaptation", 0),
    "figure2": Table("The adjoint method going astray on a quadratic loss", None),
    "figure3": Table("Memory and time of a meta-gradient, Conv-4", None, (), "benchmarks.comln_scaling"),
    "figure4": Table("Memory and time of a meta-gradient, ResNet-12", None),
    "figure5": Table("The horizon in training; fixed horizons have no preset", None,
                     (*_MINI, "tiered_imagenet"), "few_shot", ("table2_*_resnet12_*",)),
}  # fmt: skip
TURTLE = {
    "3.1": Table("Few-shot classification", 36, _BIRDS, "learned_optimizers",
                 _rows("table3_1_*shot", (*_BASELINES, *_META_LEARNERS))),
    "3.2": Table("The meta-learners of Table 3.1", 24, _BIRDS, "learned_optimizers",
                 _rows("table3_1_*shot", _META_LEARNERS)),
    "3.3": Table("Three of the meta-learners of Table 3.1", 12, _BIRDS, "learned_optimizers",
                 _rows("table3_1_*shot", ("meta_lstm", "maml", "turtle"))),
    "3.4": Table("Across domains, from the runs of Table 3.1", 36, _BIRDS, "learned_optimizers",
                 _rows("table3_4_*shot", (*_BASELINES, *_META_LEARNERS))),
    "3.5": Table("The meta-learners of Table 3.4", 24, _BIRDS, "learned_optimizers",
                 _rows("table3_4_*shot", _META_LEARNERS)),
    "figure3.1": Table("Diagram of the meta-learner LSTM", 0),
    "figure3.2": Table("Sine waves by order, steps and depth (benchmarks.sine_study)", None,
                       ("sinusoid",), "learned_optimizers", ("figure3_2_*",)),
    "figure3.3": Table("Sine waves: test errors (benchmarks.sine_study)", None,
                       ("sinusoid",), "learned_optimizers", ("figure3_3_*",)),
    "figure3.4": Table("Running times and accuracies", None, _MINI, "benchmarks.learned_optimizers_time"),
}  # fmt: skip

PAPERS = {
    "cl_lstm": Paper("Babu, Savarese & Maire, Learning with Layer-Distributed Memory, NeurIPS 2021", CL_LSTM),
    "sparse_maml": Paper("von Oswald et al., Learning where to learn, NeurIPS 2021", SPARSE_MAML),
    "efficientlab": Paper("Hendryx et al., Meta-Learning Initializations for Image Segmentation, 2019",
                          EFFICIENTLAB),
    "comln": Paper("Deleu et al., Continuous-Time Meta-Learning, ICLR 2022", COMLN),
    "turtle": Paper("Huisman et al., Stateless Neural Meta-Learning, Machine Learning 2022", TURTLE),
}  # fmt: skip
