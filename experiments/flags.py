"""Every flag once: its type, default, choices, range, and when it means something.

An entry point picks flags by name (`pick`). The flags of an algorithm are the settings of its registry entry;
the defaults that belong to an algorithm or a dataset are its default row in `experiments/presets/`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_NONE: Mapping[str, Any] = MappingProxyType({})


class Unless(NamedTuple):
    """A flag means nothing if `flag` has one of the `values`, for the reason `why` ({} is the value)."""

    flag: str
    values: tuple[Any, ...]
    why: str


class OnlyIf(NamedTuple):
    """A flag means nothing unless `flag` has one of the `values`, for the reason `why` ({} is the value)."""

    flag: str
    values: tuple[Any, ...]
    why: str


class Flag(NamedTuple):
    """A flag of a `kind`: string, integer, float, boolean or enum, which has `choices` and their `meanings`.

    Numbers are at least `least`, or greater than `above`, and at most `most`, or less than `below`; only an
    `endless` one may be infinite. A flag with `identity` changes the numbers of a run. `when` lists the
    conditions under which it means something. For reports: `fact`, the fact about the test tasks that it
    decides; and `words` ("delay {}"), which tell runs apart by what they are `about`, "tasks" or "learner".
    Its `usual` value goes without saying, and so does a value that is `said_elsewhere` in a report.
    """

    kind: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    meanings: Mapping[str, str] = _NONE
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    endless: bool = False
    identity: bool = True
    when: tuple[Unless | OnlyIf, ...] = ()
    fact: str | None = None
    words: str | None = None
    about: str = "learner"
    usual: Any = None
    said_elsewhere: bool = False


_MADE = Unless("dataset", ("glyphs", "sinusoid"), "{} is generated, not read")
_IMAGES = Unless("dataset", ("features", "sinusoid"), "{} has no images")
_LABELS = Unless("dataset", ("sinusoid",), "a {} is a regression")
_TRAINS = Unless("eval_only", (True,), "--eval_only trains nothing")
_SCRATCH = Unless("algorithm", ("scratch",), "{} trains nothing before its test")
_ODE = (
    Unless("solver", ("euler",), "--solver={} has a fixed step"),
    Unless("horizon", (math.inf,), "an infinite horizon is solved for its equilibrium"),
)
_PRETRAINS = (Unless("pretrain", (False,), "--nopretrain trains nothing before the stream"),)
_ORDERS = ("exact", "mixed", "first")


def _count(help: str, default: int | None = None, least: int = 1, **facts: Any) -> Flag:
    return Flag("integer", default, help, least=least, **facts)


def _rate(help: str, default: float | None = None, **facts: Any) -> Flag:
    return Flag("float", default, help, above=0, **facts)


def _where_to(help: str, **facts: Any) -> Flag:
    return Flag("string", None, help, identity=False, **facts)


_DATA = {
    "dataset": Flag(
        "enum", "glyphs", "source of the tasks",
        ("glyphs", "sinusoid", "omniglot", "cifar_fs", "fc100", "mini_imagenet", "tiered_imagenet", "cub",
         "folder", "features"),
        {"glyphs": "characters of random strokes, made on the fly", "sinusoid": "sine waves, made on the fly",
         "folder": "your images, class folders", "features": "your vectors, .npz"},
        fact="dataset", words="{}", about="tasks", said_elsewhere=True,
    ),
    "images": Flag("enum", "mnist", "images that the stream shows", ("mnist", "fashion_mnist")),
    "data_dir": _where_to("the dataset's folder or its parent; before JMETA_DATA", when=(_MADE,)),
    "split": Flag(
        "string", None, "published split of the dataset [its usual one]",
        when=(OnlyIf("dataset", ("omniglot", "folder", "features"), "{} has one split"),),
        words="split {}", about="tasks", said_elsewhere=True,
    ),
    "download": Flag("boolean", False, "download the dataset's archives if they are missing", identity=False,
                     when=(_MADE,)),
    "image_size": _count(
        "height and width of images [the dataset's usual size]", least=4,
        when=(_IMAGES, Unless("dataset", ("glyphs",), "{} are drawn at 28x28")),
        words="{0}x{0}", about="tasks",
    ),
    "color": Flag(
        "enum", "auto", "channels of your images", ("auto", "rgb", "gray"),
        {"auto": "rgb if any image has color", "rgb": "three", "gray": "one"},
        when=(OnlyIf("dataset", ("folder",), "the images of {} have channels of their own"),),
        words="read as {}", about="tasks", usual="auto",
    ),
    "rotations": Flag("boolean", False, "rotations by 90 degrees as new classes while training",
                      when=(_IMAGES, _TRAINS)),
    "augment": Flag("enum", "none", "augmentation of training images",
                    ("none", "crop_flip", "crop_flip_jitter"), when=(_IMAGES, _TRAINS)),
    "standardize": Flag(
        "boolean", False, "subtract the mean of each channel and divide by its deviation, both of the "
        "training split",
        when=(Unless("dataset", ("glyphs",), "{} are drawn anew for each task and have no mean"),),
        words="standardize {}", said_elsewhere=True,
    ),
    "held_out": _count("training images kept back to validate with, the last of each class", 0, 0,
                       when=(_TRAINS,)),
    "batch": _count("images of a step", when=(_TRAINS,)),
}  # fmt: skip

_TASKS = {
    "way": _count("classes of an episode", 5, 2, when=(_LABELS,), fact="way"),
    "shot": _count("support examples of a class", 1, fact="shot"),
    "train_shot": _count("support examples of a class in training [--shot]", when=(_TRAINS,)),
    "query": _count("query examples of a class", 15, fact="query"),
    "test_query": _count("query examples of a class at validation and test", 15, fact="query"),
    "presentations": _count("examples of a class in a stream", 10, 2, fact="presentations",
                            words="{} presentations", about="tasks"),
    "delay": _count("steps after which a label arrives", 1, words="delay {}", about="tasks", usual=1),
    "subtasks": _count("classes of a task, learned one after another", 5, 2, fact="subtasks",
                       words="{} subtasks", about="tasks"),
    "subtask_shot": _count("examples of a class in the stream", 5, fact="subtask_shot",
                           words="{} examples of each", about="tasks", usual=5),
    "slots": _count("labels, of which a task uses as many as it has subtasks", 20, fact="slots",
                    words="{} slots", about="tasks", usual=20),
    "curriculum": Flag("string", "", "shorter streams to begin with, as 2,4,6,8 (presentations or subtasks)"),
    "curriculum_every": _count("outer updates with each stage of --curriculum", 5000,
                               when=(Unless("curriculum", ("",), "there is no --curriculum"),)),
}  # fmt: skip

_NETWORK = {
    "backbone": Flag(
        "enum", None, "the network; by default conv4, mlp for sine waves, identity for features",
        ("conv4", "conv_encoder", "resnet12", "resnet12_boil", "mlp", "identity"),
        {"conv_encoder": "conv4 with group normalization, in which no image sees another",
         "resnet12_boil": "of 64 to 512 channels, as in BOIL's code", "identity": "none, for features"},
    ),
    "filters": _count(
        "channels of conv4 and conv_encoder; width of mlp", 64,
        when=(Unless("backbone", ("resnet12", "resnet12_boil", "identity"), "the widths of {} are fixed"),),
        words="filters {}", usual=64,
    ),
    "drop_block": Flag("float", 0.0, "share of resnet12's values that DropBlock drops while training",
                       least=0, below=1, when=(OnlyIf("backbone", ("resnet12",), "{} has none"),)),
    "global_pool": Flag("boolean", False, "average resnet12's features over space (640, not 16,000)",
                        when=(OnlyIf("backbone", ("resnet12",), "{} has none"),)),
    "padded": Flag(
        "boolean", None, "pad conv4's convolutions with zeros [not on the paper's data, mini_imagenet and "
        "cub, unless they are smaller than 46x46]",
        when=(OnlyIf("backbone", ("conv4",), "only conv4 may leave padding out"),),
    ),
    "pool": Flag(
        "boolean", True, "pool conv4's layers; --nopool strides them and averages over space, as Finn et al. "
        "do for Omniglot", when=(OnlyIf("backbone", ("conv4",), "only conv4 may leave pooling out"),),
    ),
    "normalize_features": Flag(
        "boolean", False, "divide features by the root of their number",
        when=(Unless("backbone", ("identity",), "the features are those of the data"),
              Unless("backbone", ("conv_encoder", "resnet12_boil"), "{} has no such option")),
    ),
    "norm": Flag(
        "enum", "batch", "batch-norm statistics", ("batch", "support", "running", "per_step"),
        {"batch": "of the batch itself, also at test (transductive)", "support": "of the support set",
         "running": "running averages at test", "per_step": "running averages of each inner step"},
        when=(Unless("backbone", ("mlp", "identity", "conv_encoder"), "{} has no batch normalization"),),
    ),
    "hidden": _count("size of the LSTM, or of the hidden layers", words="hidden {}", usual=256),
    "modulator_filters": _count("channels of anml's neuromodulatory network", 64,
                                words="modulator filters {}", usual=64),
    "network": Flag(
        "enum", "lite", "form of oml and anml", ("lite", "paper"),
        {"lite": "padded convolutions; oml four of stride 2, anml four blocks with pooling (of images below "
                 "16x16 three)",
         "paper": "unpadded convolutions; oml of strides 1, 1, 1, 2, anml three blocks"},
        words="{} network", usual="lite",
    ),
    "inject": Flag("enum", "first", "layers of cl_lstm that see the label, beside its LSTM",
                   ("first", "all", "lstm"), words="labels to {}", usual="first"),
    "skip": Flag("enum", "add", "how cl_lstm's layer 2 joins layer 4", ("add", "concat", "none"),
                 words="skip {}", usual="add"),
    "encoder_from": Flag("string", None, "start from the network of this workdir, of a run of "
                         "experiments.maml --backbone=conv_encoder"),
    "shrink": Flag("float", None, "factor of the plain network's widths [0.5 of cl_*; 1]", least=0.0625,
                   words="{}x", usual=1.0),
    "initialize": Flag(
        "enum", None, "initial weights; pytorch is uniform, of biases too [lecun_normal]",
        ("he_normal", "glorot_uniform"),
        when=(Unless("backbone", ("resnet12", "resnet12_boil", "identity"), "{} has a rule of its own"),),
    ),
}  # fmt: skip

_FLOW = {
    "horizon": _rate("initial horizon T; inf, with --ridge, adapts to the equilibrium", 1.0, endless=True),
    "learn_horizon": Flag("boolean", True, "learn T; --nolearn_horizon keeps it (Fig. 5, right)",
                          when=_ODE[1:]),
    "task_horizon": Flag("boolean", False, "a learned horizon for each task (section 7)"),
    "initial_scale": Flag("enum", "way", "deviation of W0: 1/sqrt(way) or 1/sqrt(feature)",
                          ("way", "feature")),
    "method": Flag("enum", "adjoint", "how the flow is differentiated", ("adjoint", "forward", "full"),
                   when=_ODE[1:]),
    "solver": Flag(
        "enum", None, "ODE solver [tsit5; auto, which hands over to a stiff one, for soft labels or a ridge]",
        ("auto", "tsit5", "dopri5", "euler", "rodas", "kvaerno5"), when=_ODE[1:],
    ),
    "step_size": _rate(
        "step of --solver=euler; T / step_size gradient steps (ANIL)",
        when=(OnlyIf("solver", ("euler",), "only --solver=euler has a fixed step"), *_ODE[1:]),
    ),
    "rtol": _rate("relative tolerance of the solver", 1e-5, when=_ODE),
    "atol": _rate("absolute tolerance of the solver", 1e-6, when=_ODE),
    "ridge": Flag("float", 0.0, "strength of the proximal term ridge/2 |W - W0|^2", least=0),
    "solver_steps": _count("most steps of the solver; a flow that needs more is an error", 4096,
                           when=_ODE[1:]),
}  # fmt: skip

_INNER = {
    "inner_lr": _rate("inner learning rate", 0.01, words="inner rate {}", said_elsewhere=True),
    "inner_steps": _count("inner gradient steps", 5, 0),
    "test_inner_steps": _count("inner gradient steps at evaluation [as in training]", least=0),
    "order": Flag("enum", "mixed", "how the inner loop is differentiated", _ORDERS),
    "remat": Flag(
        "enum", "step", "what --order=exact recomputes, for memory independent of the steps",
        ("step", "none"), when=(OnlyIf("order", ("exact",), "only --order=exact recomputes"),),
    ),
    "adapt_norm": Flag("boolean", True, "adapt scales and offsets of normalization layers too",
                       when=(Unless("backbone", ("mlp", "identity"), "{} has no normalization layers"),)),
    "rate_start": Flag("enum", "constant", "initial learned rates", ("constant", "uniform"),
                       {"constant": "--inner_lr", "uniform": "uniform in 0.005 to 0.1, as in Meta-SGD"}),
    "mask_factor": _rate("derivative of a mask in its score, straight through; 0.5 in the code", 1.0),
    "mask_start": Flag(
        "enum", "he_uniform", "initial scores of the masks, less their mean", ("he_uniform", "uniform"),
        {"he_uniform": "in +-sqrt(6 / fan in) for kernels, in +-1/2 for vectors", "uniform": "in +-1/2"},
    ),
    "mask_shift": Flag("float", 0.0, "added to the scores; with --mask_start=uniform the share of closed "
                       "masks is 0.5 - mask_shift"),
    "mask_dimension": _count("dimension of the Gaussian that masks are drawn from; 1600 in the code", 64),
    "penalty": _rate("initial strength of r2d2's ridge", 50.0),
    "learn_penalty": Flag("boolean", False, "learn the strength of r2d2's ridge"),
    "scale": _rate("initial scale of r2d2's outputs", 10.0),
    "inner_clip": _rate("largest inner gradient by value, and outer one of the initial weights [10 with more "
                        "than one inner step]", endless=True),
    "test_inner_optimizer": Flag("enum", None, "inner rule at test [as in training]", ("sgd", "adam"),
                                 words="{} at test", said_elsewhere=True),
    "test_inner_lr": _rate("its learning rate [as in training]", words="inner rate {} at test",
                           said_elsewhere=True),
    "adapt_batch": _count("support examples of a step", 4),
    "pretrain_batch": _count("images of a pre-training step", 16),
    "test_adapt_batch": _count("support examples of a step at evaluation [as in training]"),
    "inner_optimizer": Flag("enum", "adam", "reptile's inner optimizer; adam is without momentum",
                            ("adam", "sgd"), words="inner {}", usual="adam"),
    "shared_moments": Flag("boolean", False, "let reptile's Adam run on over the tasks, as in the code",
                           when=(OnlyIf("inner_optimizer", ("adam",), "{} has no moments"),)),
    "lowest_rate": _rate("least initial rate of meta_sgd's weights", 0.005),
    "highest_rate": _rate("largest initial rate of meta_sgd's weights", 0.1),
    "multi_step_epochs": _count("epochs in which maml_pp's losses after all inner steps count", 10, 0),
    "first_order_epochs": _count("epochs of maml_pp that begin in first order; 50 in the paper, 0 in the "
                                 "code", 0, 0),
    "epoch_updates": _count("outer updates of an epoch of maml_pp", 500),
    "modes": Flag("string", "filter,in,out", "axes of a gradient that meta_curvature multiplies by a matrix"),
    "step_curvature": Flag("boolean", False, "matrices for each inner step"),
    "largest_curvature": _count("longest axis with a whole matrix, beyond it a diagonal [no limit]"),
    "mask_per": Flag("enum", "unit", "what mt_net chooses", ("unit", "weight"),
                     {"unit": "the units of a layer, once a task", "weight": "each weight, at each step"}),
    "temperature": _rate("temperature of mt_net's Gumbel-softmax", 1.0),
    "deterministic_test": Flag("boolean", False, "draw nothing at test; adapt the likelier units"),
    "cg_steps": _count("steps of conjugate gradients of an implicit gradient", 5),
    "log_variance": Flag("float", 0.0, "initial logarithm of the variance of shrinkage's priors"),
    "implicit_step": Flag("boolean", True, "take the prior's gradient at the end of a step, which is stable "
                          "for every variance"),
    "path_metric": Flag("enum", "length", "what leap minimizes along a path", ("length", "energy")),
    "path_loss": Flag("boolean", True, "measure the path on the loss surface, not among weights alone"),
    "stabilizer": Flag("boolean", True, "count a rise of the loss like a fall",
                       when=(OnlyIf("path_loss", (True,), "a path among weights has no loss"),)),
    "last_segment": Flag("boolean", True, "measure the last inner step too; the code does not"),
}  # fmt: skip

_RULES = {
    "hidden_layers": _count("hidden layers of TURTLE's network", 5, 0),
    "hidden_units": _count("units of TURTLE's layers, or of the LSTM", 20),
    "inputs": Flag(
        "string", None, "inputs of the learned rule, separated by commas; turtle: gradient, loss, step, "
        "gradient_history, update_history [gradient,gradient_history; one step: gradient]; the LSTM: "
        "loss_and_gradient [meta_lstm], gradient, raw_gradient [meta_lstm_enhanced]",
    ),
    "decay": Flag("float", 0.9, "decay of TURTLE's moving histories"),
    "preprocess": Flag("boolean", False, "show TURTLE logarithm and sign instead of raw numbers"),
    "learn_rates": Flag("boolean", True, "learn a rate for every parameter (turtle) or parameter array "
                        "(c_maml)"),
    "gradient_divisor": _rate("divisor of the LSTM's gradients [the support set's size, as in the code]"),
}  # fmt: skip

_ONLINE = {
    "tasks": _count("tasks of the stream [20; 100 of many permutations]"),
    "samples": _count("training images of a task [1000; 200 of many permutations]"),
    "passes": _count("times that a task's images are shown before the next task", 1),
    "transform_seed": _count("angles or permutations, the same for all seeds [the seed's]", least=0,
                             most=10**9),
    "initial_rate": _rate("initial value of the learned rates"),
    "rate_learning_rate": Flag("float", None, "learning rate of the learned rates", least=0),
    "inner_rate": _rate("rate of the steps that look ahead"),
    "rate": _rate("rate of all steps"),
    "mask_learning_rate": Flag("float", None, "learning rate of the masks' scores, or learned rates",
                               least=0, when=(_TRAINS,)),
    "mask_optimizer": Flag("enum", None, "their optimizer [as --optimizer]", ("sgd", "adam"),
                           when=(_TRAINS,)),
    "initial_score": Flag("float", None, "initial scores of the masks"),
    "glances": _count("meta-updates on a batch"),
    "meta_loss": Flag("enum", None, "steps that look ahead whose loss is judged", ("mean", "last")),
    "capacity": _count("slots of the replay reservoir"),
    "replay": _count("replayed examples of a step"),
    "margin": Flag("float", None, "least multiplier of a past task's gradient", least=0),
    "within": _rate("how far a replay batch moves the weights (beta)"),
    "across": _rate("how far an example moves the weights (gamma)"),
    "replay_batches": _count("replay batches of an example"),
    "matrix": Flag(
        "enum", None, "how much of the accuracy matrix: the whole, or its diagonal and last row, which the "
        "metrics need [whole; ends of many permutations, a fiftieth of the time]", ("whole", "ends"),
    ),
    "stay": Flag("float", 0.98, "probability that the next batch is of the same task; defaults are of the "
                 "nearer of 0.98 and 0.9", least=0, most=1),
    "threshold": Flag("float", None, "drop of a batch's loss by adapting that shows a switch; inf sees none",
                      least=0, endless=True),
    "modulation": Flag("float", None, "strength of update modulation, "
                       "1 - exp(-modulation loss); inf does without",
                       least=0, endless=True),
    "prolonged": Flag("boolean", None, "adapt on from batch to batch until a switch is seen"),
    "restart": Flag("enum", None, "a phase starts after a switch was seen, or with it",
                    ("code", "immediate"),
                    when=(Unless("prolonged", (False,), "without prolonged phases none starts"),)),
    "deviation": _rate("initial standard deviation of the weights"),
    "mask_initial": Flag("float", None, "initial logits of the masks"),
    "mask_penalty": Flag("float", None, "weight of the masks' L1 norm", least=0),
    "pretrain": Flag("boolean", None, "meta-train on 900 classes of Omniglot first"),
    "shared_pretraining": Flag("boolean", True, "one pre-trained start for all seeds, as in the code",
                               when=(Unless("num_seeds", (1,), "there is one seed"), *_PRETRAINS)),
    "pretrain_steps": _count("most meta-updates of the pre-training", when=_PRETRAINS),
    "patience": _count("validations without a better one that end the pre-training", least=0,
                       when=_PRETRAINS),
    "grid": Flag(
        "string", "", "points to run side by side, as learning_rate=0.001:0.0001,threshold=1:2; the best "
        "point is reported first, and all of them under grid",
    ),
}  # fmt: skip

_OUTER = {
    "optimizer": Flag("enum", "sgd", "outer optimizer; sgd has Nesterov momentum 0.9",
                      ("sgd", "adam", "plain_sgd"), {"plain_sgd": "without momentum"},
                      when=(_TRAINS,)),
    "learning_rate": _rate("outer learning rate", 0.1, when=(_TRAINS, _SCRATCH), words="outer rate {}",
                           said_elsewhere=True),
    "learning_rate_drops": Flag("string", "", "later learning rates as step:rate,step:rate",
                                when=(_TRAINS, _SCRATCH)),
    "linear_steps": _count("steps in which the learning rate falls to 0 in a straight line [never]",
                           when=(_TRAINS,)),
    "cosine_steps": _count("steps in which the learning rate falls to 0, 0 for never", 78200, 0,
                           when=(_TRAINS,)),
    "weight_decay": Flag("float", 0.0, "added to the gradient of every array (not of single learned numbers)",
                         least=0, when=(_TRAINS,)),
    "clip_norm": _rate("largest global norm of an outer gradient [no limit]", endless=True,
                       when=(_TRAINS, _SCRATCH)),
    "clip_value": _rate("largest entry of an outer gradient [no limit]", endless=True,
                        when=(_TRAINS, _SCRATCH)),
    "skip_nonfinite": Flag(
        "boolean", False, "leave out updates that are not finite (of several seeds: for that seed) and go on",
        identity=False, when=(_TRAINS, _SCRATCH),
    ),
    "label_smoothing": Flag(
        "float", 0.0, "share of a label spread over the ways while training, in the inner and the outer loss",
        least=0, below=1, when=(_LABELS,),
    ),
    "meta_batch": _count("tasks of an outer update", 8, when=(_TRAINS, *_PRETRAINS)),
    "chunk": _count("tasks adapted at a time, for less memory, on a CPU often faster [all]", identity=False),
    "remat_every": _count("steps between the states that backpropagation keeps [all]"),
    "truncate_every": _count("steps between cuts of the gradient through time [never]"),
    "steps": _count("outer updates", 2000, 0, identity=False, when=(_TRAINS, _SCRATCH)),
    "eval_every": _count("outer updates between validations, the best of which is tested, 0 for none", 500, 0,
                         when=(_TRAINS, _SCRATCH)),
    "validation_tasks": _count(
        "tasks of a validation", 200, 2,
        when=(_TRAINS, _SCRATCH, *_PRETRAINS,
              Unless("eval_every", (0,), "--eval_every=0 validates nothing")),
    ),
    "eval_tasks": _count("test tasks, drawn from a fixed key", 1000, 2),
    "checkpoint_every": _count("outer updates between checkpoints", 500, identity=False, when=(_TRAINS,)),
    "log_every": _count("outer updates between lines of metrics.jsonl", 50, identity=False, when=(_TRAINS,)),
    "max_minutes": _rate(
        "stop training in good order so many minutes after the start, then test what was learned",
        endless=True, identity=False, when=(_TRAINS,),
    ),
}  # fmt: skip

_RUNNING = {
    "seed": _count("seed of initial parameters and training episodes", 0, 0, most=10**9),
    "num_seeds": _count("seeds trained side by side, --seed and those after it", 1),
    "init_from": Flag("string", None, "start from the learned parameters of this workdir", when=(_SCRATCH,)),
    "eval_only": Flag("boolean", False, "evaluate --init_from and train nothing", when=(_SCRATCH,)),
    "workdir": _where_to("folder of the run [runs/<experiment>/<hash of its identity>]"),
    "preset": _where_to("a published row's values, which explicit flags override; list, or a pattern such as "
                        "'table5*', shows the names"),
    "distributed": Flag("boolean", False, "join the processes of a cluster (jax.distributed.initialize)",
                        identity=False),
    "precision": Flag("enum", "float32", "precision of matmuls on accelerators", ("float32", "bfloat16")),
}  # fmt: skip

FLAGS: Mapping[str, Flag] = MappingProxyType(
    _DATA | _TASKS | _NETWORK | _FLOW | _INNER | _RULES | _ONLINE | _OUTER | _RUNNING
    | {"algorithm": Flag("enum", None, "the algorithm")}
)  # fmt: skip

# Groups that entry points share, in this order.
DATA = "dataset data_dir split download image_size color rotations augment".split()
EPISODES = "way shot query".split()
NETWORK = "backbone filters drop_block global_pool norm".split()
OUTER = "meta_batch chunk steps eval_every validation_tasks eval_tasks".split()
RUNNING = (
    "checkpoint_every log_every max_minutes seed num_seeds init_from eval_only workdir preset distributed "
    "precision"
).split()

# The headings of --help, in their order.
_GROUPS = {
    "Data": _DATA, "Tasks": _TASKS, "Network": _NETWORK, "Flow": _FLOW, "Inner loop": _INNER,
    "Learned rule": _RULES, "Online learning": _ONLINE, "Outer loop": _OUTER, "Running": _RUNNING,
}  # fmt: skip
HEADINGS = {
    "algorithm": "Algorithm",
    **{name: title for title, group in _GROUPS.items() for name in group},
    **dict.fromkeys(RUNNING, "Running"),
}


def pick(
    *names: str,
    choices: Mapping[str, Iterable[str]] = _NONE,
    helps: Mapping[str, str] = _NONE,
    defaults: Mapping[str, Any] = _NONE,
    when: Mapping[str, Iterable[Unless | OnlyIf]] = _NONE,
) -> dict[str, Flag]:
    """Pick flags by name, in this order, with an entry point's own `choices`, words of help, defaults and
    further conditions. An own default takes the place of the words in brackets that name the usual one."""
    flags = {}
    for name in dict.fromkeys(names):
        flag = FLAGS[name]
        flags[name] = flag._replace(
            choices=tuple(choices.get(name, flag.choices)),
            help=helps.get(name, re.sub(r" \[[^]]*\]$", "", flag.help) if name in defaults else flag.help),
            default=defaults.get(name, flag.default),
            when=(*flag.when, *when.get(name, ())),
        )
    return flags


def without(name: str, *excluded: str) -> tuple[str, ...]:
    """List the choices of a flag but for those excluded."""
    return tuple(choice for choice in FLAGS[name].choices if choice not in excluded)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|nan", re.ASCII | re.IGNORECASE)


def number(text: str) -> float:
    """Read a number in ASCII digits, as 0.1, 1e-3 or inf. Raises ValueError."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is no number")
    return float(text)


def whole_number(text: str) -> int:
    """Read a whole number of 64 bits in ASCII digits, as 1000 or 1e3. Raises ValueError."""
    value = number(text)
    if not (value.is_integer() and abs(value) < 2**63):
        raise ValueError(f"{text!r} is no whole number")
    return int(text) if text.lstrip("+-").isdigit() else int(value)


def range_error(name: str, flag: Flag, value: Any) -> str | None:
    """Say what is wrong with a number of a flag, None if nothing is."""
    if value is None or flag.kind not in ("integer", "float"):
        return None
    bounds = {
        "at least {}": (flag.least, lambda bound: value >= bound),
        "more than {}": (flag.above, lambda bound: value > bound),
        "at most {}": (flag.most, lambda bound: value <= bound),
        "less than {}": (flag.below, lambda bound: value < bound),
    }
    bounded = [
        words.format(f"{bound:g}" if abs(bound) < 1e6 else f"{bound:,}")
        for words, (bound, _) in bounds.items()
        if bound is not None
    ]
    within = all(bound is None or holds(bound) for bound, holds in bounds.values())
    if within and not math.isnan(value) and (flag.endless or not math.isinf(value)):
        return None
    kind = "a finite number" if not flag.endless else "a number"
    return f"--{name}={value}; expected {' and '.join([*bounded]) or kind}" + (
        ", and finite" if bounded and not flag.endless and math.isinf(value) else ""
    )


def unused(flags: Mapping[str, Flag], settings: Mapping[str, Any]) -> dict[str, str]:
    """Find the flags that mean nothing beside the other settings, and why."""
    reasons = {}
    for name, flag in flags.items():
        for condition in flag.when:
            if condition.flag not in settings:
                continue
            value = settings[condition.flag]
            if (value in condition.values) == isinstance(condition, Unless):
                reasons[name] = condition.why.format(value)
    return reasons
