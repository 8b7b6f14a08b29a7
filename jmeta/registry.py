"""Everything that is built by name: models, rules, heads, adapters, memories, online learners, datasets.

A spec is plain JSON: a name, and keyword arguments of the factory of that name. An argument that is itself a
spec is built first; its key says of which kind it is:

    {"name": "gradient", "model": {"name": "conv4", "filters": 64, "head": 5}, "inner_steps": 5,
     "loss": {"name": "cross_entropy"}, "rule": {"name": "sgd", "rate": 0.01}}

Nothing is imported before it is built, so that MAML needs neither an ODE solver nor a memory. Adding an
algorithm is a page and a line here.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A factory by name.

    `factory`: "module:function" below jmeta. `settings`: the keyword arguments that stand for themselves, as
    plain values that a flag or a spec sets. `fixed`: the keyword arguments that make it what its name says.
    `outer`: of an adapter, the parts of its learner that do so, by name: a `loss` or `metrics` that takes the
    usual ones as its argument of that name, or a `task_grad`.
    """

    factory: str
    settings: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = MappingProxyType({})
    outer: Mapping[str, str] = MappingProxyType({})


MODELS = {
    "conv4": Entry("models.conv4:conv4", ("filters", "normalize_features", "padded", "pool", "initialize")),
    "conv_encoder": Entry("models.conv_encoder:conv_encoder", ("filters", "padded", "initialize")),
    "residual_encoder": Entry("models.residual_encoder:residual_encoder", ("filters",)),
    "resnet12": Entry("models.resnet12:resnet12", ("drop_block", "global_pool", "normalize_features")),
    "resnet12_boil": Entry("models.resnet12_boil:resnet12_boil"),
    "mlp": Entry("models.mlp:mlp", ("normalize_features", "initialize")),
    "identity": Entry("models.identity:identity"),
    "resnet20": Entry("models.resnet20:resnet20"),
    "cl_resnet20": Entry("models.resnet20:resnet20", fixed={"recurrent": True}),
    "vgg11": Entry("models.vgg11:vgg11"),
    "cl_vgg11": Entry("models.vgg11:vgg11", fixed={"recurrent": True}),
}
RULES = {
    "sgd": Entry("rules.sgd:sgd", ("rate", "learn", "steps")),
    "adam": Entry("rules.optax_bridge:adam", ("rate",)),
    "masked_sgd": Entry("rules.masked_sgd:masked_sgd", ("rate", "factor", "start", "shift")),
    "rectified_sgd": Entry("rules.masked_sgd:rectified_sgd", ("rate", "start")),
    "exponential_sgd": Entry("rules.masked_sgd:exponential_sgd", ("rate", "start")),
    "turtle": Entry(
        "rules.turtle:turtle_of_equal_layers",
        ("hidden_layers", "hidden_units", "inputs", "decay", "preprocess", "learn_rates"),
    ),
    "meta_lstm": Entry("rules.meta_lstm:meta_lstm", ("hidden_units", "inputs", "gradient_divisor")),
    "meta_curvature": Entry("rules.meta_curvature:meta_curvature", ("rate", "modes", "steps", "largest")),
    "subspace_sgd": Entry("rules.subspace_sgd:subspace_sgd", ("rate", "per", "temperature")),
    "proximal_sgd": Entry(
        "rules.proximal_sgd:proximal_sgd", ("rate", "log_variance", "learn", "implicit_step")
    ),
    "clip_gradients": Entry("rules.clip_gradients:clip_gradients", ("limit", "by")),
}
HEADS = {
    "comln": Entry(
        "adapters.heads.comln:comln_head",
        ("horizon", "learn_horizon", "task_horizon", "initial_scale", "method", "solver", "step_size", "rtol",
         "atol", "ridge", "solver_steps"),
    ),
    "anil": Entry(
        "adapters.heads.anil:anil_head", ("inner_lr", "inner_steps", "test_inner_steps", "order", "remat")
    ),
    "protonet": Entry("adapters.heads.protonet:protonet"),
    "r2d2": Entry("adapters.heads.r2d2:r2d2", ("penalty", "learn_penalty", "scale")),
}  # fmt: skip
_MAML = ("inner_lr", "inner_steps", "test_inner_steps", "order", "remat", "norm")
_MASKED = ("inner_lr", "inner_steps", "test_inner_steps", "adapt_norm", "norm")
_MASKS = ("mask_factor", "mask_start", "mask_shift")
_TRANSFER = ("inner_lr", "inner_steps", "adapt_batch")
_SHRINKAGE = ("inner_lr", "inner_steps", "test_inner_steps", "cg_steps", "log_variance", "norm")
_MINIBATCHES = (*_TRANSFER, "test_inner_steps", "test_adapt_batch", "norm")
# Whole networks that adapt to an episode, as `experiments.few_shot` runs them, beside the heads.
WHOLE = {
    "maml": Entry("adapters.named:maml", _MAML),
    "fomaml": Entry(
        "adapters.named:maml",
        ("inner_lr", "inner_steps", "test_inner_steps", "norm"),
        {"order": "first", "remat": "none"},
    ),
    "sparse_maml": Entry("adapters.sparse_maml:sparse_maml", (*_MASKED, *_MASKS)),
    "sparse_maml_plus": Entry(
        "adapters.sparse_maml_plus:sparse_maml_plus", (*_MASKED, "mask_dimension", *_MASKS)
    ),
    "sparse_relu_maml": Entry("adapters.sparse_maml:sparse_relu_maml", (*_MASKED, "rate_start")),
    "exp_maml": Entry("adapters.sparse_maml:exp_maml", (*_MASKED, "rate_start")),
    "boil": Entry("adapters.named:boil", _MAML),
    "meta_sgd": Entry("adapters.named:meta_sgd", ("lowest_rate", "highest_rate", *_MAML[1:])),
    "reptile": Entry("adapters.reptile:reptile", (*_MINIBATCHES, "inner_optimizer", "shared_moments"),
                     outer={"task_grad": "reptile"}),
    "maml_pp": Entry("adapters.maml_pp:maml_pp",
                     (*_MAML, "multi_step_epochs", "first_order_epochs", "epoch_updates"),
                     outer={"loss": "multi_step", "metrics": "of_last_step"}),
    "meta_curvature": Entry("adapters.named:maml_with_curvature",
                            (*_MAML, "modes", "step_curvature", "largest_curvature")),
    "t_net": Entry("adapters.t_net:t_net", _MAML),
    "mt_net": Entry("adapters.t_net:mt_net", (*_MAML, "mask_per", "temperature", "deterministic_test")),
    "shrinkage": Entry("adapters.named:shrinkage", (*_MAML, "log_variance", "implicit_step")),
    "shrinkage_imaml": Entry("adapters.shrinkage:implicit_shrinkage", _SHRINKAGE),
    "shrinkage_reptile": Entry("adapters.shrinkage:implicit_shrinkage", _SHRINKAGE,
                               outer={"task_grad": "sigma_reptile"}),
    "leap": Entry("adapters.leap:leap",
                  (*_MINIBATCHES, "path_metric", "path_loss", "stabilizer", "last_segment"),
                  outer={"task_grad": "leap"}),
}  # fmt: skip
ADAPTERS = {
    **WHOLE,
    "on_features": Entry("adapters.on_features:on_features", ("norm",)),
    "gradient": Entry("adapters.named:by_rule", _MAML[1:]),
    "oml": Entry("adapters.oml:oml", ("filters", "hidden", "order")),
    "anml": Entry("adapters.anml:anml", ("filters", "modulator_filters", "order")),
    "from_memory": Entry("adapters.from_memory:from_memory", ("remat_every", "truncate_every")),
    "metacog": Entry("adapters.metacog:metacog", (*_MAML[:2], "order", "mask_initial", "mask_penalty")),
    "plain": Entry("adapters.plain:plain"),
    "scratch": Entry("adapters.transfer:scratch", _TRANSFER),
    "finetune": Entry("adapters.transfer:finetune", _TRANSFER),
    "baseline_pp": Entry("adapters.transfer:finetune", _TRANSFER, {"cosine": True}),
    "standardize_inputs": Entry("outer.standardize:standardize_inputs"),
}
MEMORIES = {
    "cl_lstm": Entry("memory.cl_lstm:cl_lstm", ("filters", "hidden", "inject", "skip")),
    "lstm": Entry("memory.lstm:lstm", ("hidden",)),
    "cnn_lstm": Entry("memory.lstm:lstm", ("hidden",)),
    "cnn_f_lstm": Entry("memory.lstm:lstm", ("hidden",), {"frozen": True}),
    "ntm": Entry("memory.ntm:ntm", ("hidden",)),
    "apl": Entry("memory.apl:apl", ("delay",)),
    "opn": Entry("memory.prototypes:opn", ("delay",)),
    "cpm": Entry("memory.prototypes:cpm", ("delay", "hidden")),
}
_META_REPLAY = ("glances", "capacity", "replay", "clip_norm", "meta_loss")
_BELIEF = ("learning_rate", "deviation", "samples")
_PHASES = ("threshold", "modulation", "prolonged", "restart")
# Built on a model up to sparse_la_maml, and on an adapter from online_adam on.
ONLINE = {
    "sgd": Entry("online.sgd:online_sgd", ("learning_rate",)),
    "er": Entry("online.experience_replay:experience_replay", ("learning_rate", "capacity", "replay")),
    "gem": Entry("online.gem:gem", ("learning_rate", "margin", "slots", "clip_norm")),
    "agem": Entry("online.agem:agem", ("learning_rate", "slots", "replay")),
    "mer": Entry(
        "online.mer:mer", ("learning_rate", "within", "across", "replay_batches", "capacity", "replay")
    ),
    "la_maml": Entry("online.la_maml:la_maml", ("initial_rate", "rate_learning_rate", *_META_REPLAY)),
    "la_maml_sync": Entry(
        "online.la_maml:la_maml_sync",
        ("initial_rate", "rate_learning_rate", "learning_rate", *_META_REPLAY),
    ),
    "replay_maml": Entry("online.replay_maml:replay_maml", ("inner_rate", "learning_rate", *_META_REPLAY)),
    "sparse_la_maml": Entry(
        "online.sparse_la_maml:sparse_la_maml",
        ("rate", "mask_learning_rate", "initial_score", *_META_REPLAY),
    ),
    "online_adam": Entry("online.online_adam:online_adam"),
    "frozen": Entry("online.frozen:frozen"),
    "bgd": Entry("online.bgd:bgd", _BELIEF),
    "meta_bgd": Entry("online.meta_bgd:meta_bgd", _BELIEF),
    "c_maml": Entry("online.c_maml:c_maml", _PHASES),
}
_INNER = ("inner_lr", "inner_steps", "order")
_SPARSE = ("learning_rate", "mask_learning_rate", *_INNER, *_PHASES)
OSAKA = {
    "online_adam": Entry("online.osaka_methods:osaka_online_adam", ("learning_rate",)),
    "finetuning": Entry("online.osaka_methods:osaka_finetuning", ("learning_rate", "order")),
    "maml": Entry("online.osaka_methods:osaka_maml", ("learning_rate", *_INNER)),
    "anil": Entry("online.osaka_methods:osaka_anil", ("learning_rate", *_INNER)),
    "bgd": Entry("online.osaka_methods:osaka_bgd", _BELIEF),
    "metacog": Entry(
        "online.osaka_methods:osaka_metacog", (*_BELIEF, *_INNER, "mask_initial", "mask_penalty")
    ),
    "metabgd": Entry("online.osaka_methods:osaka_metabgd", (*_BELIEF, *_INNER)),
    "c_maml": Entry("online.osaka_methods:osaka_c_maml", ("learning_rate", *_INNER, "learn_rates", *_PHASES)),
    "sparse_c_maml": Entry("online.osaka_methods:osaka_sparse_c_maml", _SPARSE),
    "sparse_relu_c_maml": Entry(
        "online.osaka_methods:osaka_sparse_c_maml", _SPARSE, fixed={"rectified": True}
    ),
}
_IMAGES = ("data_dir", "image_size", "cache")
DATASETS = {
    "glyphs": Entry("data.sources.glyphs:glyph_dataset"),
    "sinusoid": Entry("data.sources.sinusoid:sinusoid_dataset"),
    "omniglot": Entry("data.sources.omniglot:omniglot", (*_IMAGES, "split", "download")),
    "cifar10": Entry("data.sources.cifar:cifar10", (*_IMAGES, "download")),
    "cifar100": Entry("data.sources.cifar:cifar100", (*_IMAGES, "download")),
    "cifar_fs": Entry("data.sources.cifar:cifar_fs", (*_IMAGES, "download")),
    "fc100": Entry("data.sources.cifar:fc100", (*_IMAGES, "download")),
    "mini_imagenet": Entry("data.sources.class_folders:mini_imagenet", _IMAGES),
    "tiered_imagenet": Entry("data.sources.class_folders:tiered_imagenet", _IMAGES),
    "cub": Entry("data.sources.class_folders:cub", _IMAGES),
    "mnist": Entry("data.sources.mnist:mnist", ("data_dir", "download")),
    "fashion_mnist": Entry("data.sources.mnist:fashion_mnist", ("data_dir", "download")),
    "folder": Entry("data.sources.folder:folder", (*_IMAGES, "split", "seed", "color")),
    "features": Entry("data.sources.features:features", ("data_dir", "split", "seed")),
}
# Of data sets that are read: find their files, without loading them.
LOCATORS = {
    "omniglot": Entry("data.sources.omniglot:locate_omniglot"),
    **{name: Entry("data.sources.cifar:locate_cifar", fixed={"name": name})
       for name in ("cifar10", "cifar100", "cifar_fs", "fc100")},
    **{name: Entry("data.sources.class_folders:locate_class_folders", fixed={"name": name})
       for name in ("mini_imagenet", "tiered_imagenet", "cub")},
    **{name: Entry("data.sources.mnist:locate_mnist", fixed={"name": name})
       for name in ("mnist", "fashion_mnist")},
    "features": Entry("data.sources.features:locate_features"),
}  # fmt: skip
DOWNLOADERS = {
    "tensorflow_datasets": Entry("data.sources.download:prepare_dataset", ("archives", "data_dir")),
}
LOSSES = {
    "multi_step": Entry("adapters.maml_pp:multi_step"),
    "cross_entropy": Entry("losses:cross_entropy"),
    "mean_squared_error": Entry("losses:mean_squared_error"),
}
METRICS = {
    "of_last_step": Entry("adapters.maml_pp:of_last_step"),
    "accuracy": Entry("metrics:accuracy"),
    "accuracy_and_by_subtask": Entry("metrics:accuracy_and_by_subtask"),
    "squared_error": Entry("metrics:squared_error"),
    "stream_accuracy": Entry("memory.readout:stream_accuracy"),
}
OPTIMIZERS = {
    "plain_sgd": Entry("outer.optimizer:optimizer", fixed={"name": "sgd", "momentum": 0.0}),
    "sgd": Entry("outer.optimizer:optimizer", fixed={"name": "sgd"}),
    "adam": Entry("outer.optimizer:optimizer", fixed={"name": "adam"}),
    "by_part": Entry("outer.by_part:by_part"),
}
LEARNERS = {
    "learner": Entry("outer.learner:learner"),
    "skip_nonfinite": Entry("outer.skip_nonfinite:skip_nonfinite"),
    "vmap_seeds": Entry("outer.seeds:vmap_seeds"),
}
TASK_GRADS = {
    "clip_task_gradients": Entry("outer.estimators:clip_task_gradients"),
    "reptile": Entry("adapters.reptile:reptile_gradient"),
    "leap": Entry("adapters.leap:leap_gradient"),
    "sigma_reptile": Entry("adapters.shrinkage:sigma_reptile_gradient"),
}

REGISTRY: dict[str, dict[str, Entry]] = {
    "model": MODELS, "rule": RULES, "head": HEADS, "adapter": ADAPTERS, "memory": MEMORIES, "online": ONLINE,
    "osaka": OSAKA, "dataset": DATASETS, "locator": LOCATORS, "downloader": DOWNLOADERS, "loss": LOSSES,
    "metrics": METRICS, "optimizer": OPTIMIZERS, "learner": LEARNERS, "task_grad": TASK_GRADS,
}  # fmt: skip
# The keys of a spec whose values are specs, beside those that are called as their kind.
_KIND_OF_KEY = {
    "body": "model", "encoder": "model", "test_rule": "rule", "test_loss": "loss", "tx": "optimizer",
    "rule_tx": "optimizer",
}  # fmt: skip
# An outer loop takes any of these.
_ADAPTERS = ("adapter", "memory", "model")
_TITLES = {"online": "online learner", "osaka": "OSAKA method"}
# Kinds whose entries are functions of data, not factories of them.
_FUNCTIONS = ("loss", "metrics")


def entry(kind: str, name: str) -> Entry:
    """Look up a name among the entries of a kind; of "adapter", among memories and models too.

    Raises ValueError for an unknown name, with the nearest known ones.
    """
    if kind not in REGISTRY:
        raise ValueError(f"no kind is called {kind!r}; expected one of {', '.join(REGISTRY)}")
    kinds = _ADAPTERS if kind == "adapter" else (kind,)
    entries = {known: named for of in kinds for known, named in REGISTRY[of].items()}
    if name not in entries:
        others = [other for other in REGISTRY if name in REGISTRY[other]]
        if others:
            raise ValueError(f"{name!r} is no {kind}; give kind={' or '.join(map(repr, others))}")
        near = difflib.get_close_matches(name, entries, 3) or entries
        title = _TITLES.get(kind, kind)
        raise ValueError(f"no {title} is called {name!r}; expected one of {', '.join(near)}")
    return entries[name]


def factory(kind: str, name: str) -> Callable[..., Any]:
    """Import the factory of a name, with the keyword arguments that make it what the name says."""
    named = entry(kind, name)
    module, _, function = named.factory.partition(":")
    return functools.partial(getattr(import_module(f"jmeta.{module}"), function), **named.fixed)


def parameters(kind: str, name: str) -> tuple[str, ...]:
    """List the arguments that a name leaves to a spec, those that its factory forwards included."""
    named = entry(kind, name)
    keywords = inspect.signature(factory(kind, name)).parameters
    own = [word for word in keywords if keywords[word].kind is not inspect.Parameter.VAR_KEYWORD]
    return tuple(word for word in dict.fromkeys((*own, *named.settings)) if word not in named.fixed)


def build(spec: Mapping[str, Any], kind: str = "adapter", **objects: Any) -> Any:
    """Build what a spec describes, its parts first.

    Args:
      spec: {"name": name, argument: value, ...}; values that are specs are built too.
      kind: the kind of `spec`, a key of `REGISTRY`.
      **objects: further keyword arguments of the outermost factory, such as arrays, which a spec cannot hold.

    Returns:
      What the factory returns; of a loss or metric the function itself, with the spec's settings.

    Raises:
      ValueError: for an unknown name, an argument that the name fixes or that its factory does not have, and
        for a required one that is missing.
    """
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise ValueError(f"{kind}: {spec!r} is no spec; expected a dictionary with a name")
    fixed = entry(kind, spec["name"]).fixed
    if overridden := fixed.keys() & ({*spec, *objects} - {"name"}):
        facts = ", ".join(f"{word}={fixed[word]!r}" for word in sorted(overridden))
        raise ValueError(f"{spec['name']}: {facts} is what the name says; leave {sorted(overridden)} out")
    parts = {
        key: build(value, _KIND_OF_KEY.get(key, key)) if _is_spec(key, value) else value
        for key, value in spec.items()
        if key != "name"
    }
    _check_arguments(kind, spec["name"], {**parts, **objects})
    function = functools.partial(factory(kind, spec["name"]), **parts, **objects)
    if kind in _FUNCTIONS:
        return function
    try:
        return function()
    except TypeError as error:  # of an argument that the factory forwards
        stray = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if stray and stray[1] in spec:
            raise ValueError(_unknown_argument(kind, spec["name"], stray[1])) from error
        raise


def _check_arguments(kind: str, name: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that the factory of a name does not have, or one that is missing."""
    words = inspect.signature(factory(kind, name)).parameters
    forwards = any(word.kind is word.VAR_KEYWORD for word in words.values())
    unknown = [word for word in given if word not in words]
    if unknown and not forwards:
        raise ValueError(_unknown_argument(kind, name, unknown[0]))
    required = [
        word for word, of in words.items() if of.default is of.empty and of.kind is not of.VAR_KEYWORD
    ]
    missing = [word for word in required if word not in given]
    if missing and kind not in _FUNCTIONS:
        raise ValueError(f"{kind} {name!r}: its spec has no {', '.join(map(repr, missing))}")


def _unknown_argument(kind: str, name: str, word: str) -> str:
    known = [own for own in parameters(kind, name) if own != word]
    near = difflib.get_close_matches(word, known, 3) or known
    return f"{kind} {name!r}: its spec has {word!r}, which is no argument of it; expected {', '.join(near)}"


def _is_spec(key: str, value: Any) -> bool:
    return _KIND_OF_KEY.get(key, key) in REGISTRY and isinstance(value, Mapping)
