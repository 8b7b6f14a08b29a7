"""jmeta: the JAX toolkit for meta-learning.

The public names, each resolved from its module when first used, so that importing jmeta stays light.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "jmeta.types": ("Adapter Batch FlowInfo Learner LearnerState Memory Model Online Rule Stream Task"),
    "jmeta.losses": "cross_entropy mask_absent_ways mean_squared_error present_ways",
    "jmeta.metrics": "accuracy accuracy_by_shot accuracy_by_subtask summarise",
    "jmeta.data.catalog": "dataset",
    "jmeta.data.class_dataset": "ClassDataset from_arrays",
    "jmeta.data.sources.folder": "from_folder",
    "jmeta.data.online_streams": "continual_few_shot online_few_shot",
    "jmeta.data.episodes": "episodes flat_batches",
    "jmeta.data.sources.sinusoid": "sinusoids",
    "jmeta.models.bridge": "from_linen from_nnx from_pair",
    "jmeta.models.conv4": "conv4",
    "jmeta.models.conv_encoder": "conv_encoder",
    "jmeta.models.mlp": "mlp",
    "jmeta.models.resnet12": "resnet12",
    "jmeta.models.resnet20": "resnet20",
    "jmeta.models.vgg11": "vgg11",
    "jmeta.models.heads": "cosine_head",
    "jmeta.rules.bridge": "as_optax from_optax",
    "jmeta.rules.coordinates": "clip_gradients",
    "jmeta.rules.masked_sgd": "masked_sgd rectified_sgd",
    "jmeta.rules.masks": "straight_through",
    "jmeta.rules.meta_lstm": "meta_lstm",
    "jmeta.rules.sgd": "sgd",
    "jmeta.rules.turtle": "turtle",
    "jmeta.inner.flow": "gradient_flow gradient_flow_with_info",
    "jmeta.inner.implicit": "gradient_flow_limit",
    "jmeta.inner.gradient": "inner_loop",
    "jmeta.inner.recurrent": "unroll",
    "jmeta.memory.apl": "apl",
    "jmeta.memory.cl_lstm": "cl_lstm",
    "jmeta.memory.lstm": "lstm",
    "jmeta.memory.ntm": "ntm",
    "jmeta.memory.prototypes": "cpm opn",
    "jmeta.adapters.gradient": "anil gradient_adapter",
    "jmeta.adapters.comln": "comln",
    "jmeta.adapters.from_memory": "from_memory",
    "jmeta.adapters.oml": "oml",
    "jmeta.adapters.anml": "anml",
    "jmeta.adapters.transfer": "from_scratch pretrained",
    "jmeta.adapters.metacog": "metacog",
    "jmeta.online.agem": "agem",
    "jmeta.online.bgd": "bgd",
    "jmeta.online.c_maml": "c_maml",
    "jmeta.online.experience_replay": "experience_replay",
    "jmeta.online.frozen": "frozen",
    "jmeta.online.gem": "gem",
    "jmeta.online.la_maml": "la_maml la_maml_sync",
    "jmeta.online.mer": "mer",
    "jmeta.online.meta_bgd": "meta_bgd",
    "jmeta.online.online_adam": "online_adam",
    "jmeta.online.replay_maml": "replay_maml",
    "jmeta.online.sparse_la_maml": "sparse_la_maml",
    "jmeta.outer.estimators": "clamped",
    "jmeta.outer.learner": "learner",
    "jmeta.outer.evaluate": "evaluate",
    "jmeta.outer.mesh": "task_mesh",
    "jmeta.outer.load": "load load_rule",
    "jmeta.outer.optimiser": "optimiser",
    "jmeta.outer.play": "predict",
    "jmeta.outer.seeds": "side_by_side",
    "jmeta.outer.skipping": "skipping",
    "jmeta.outer.standardised": "standardised",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*sorted(_MODULE_OF)]  # noqa: PLE0604, PLE0605
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jmeta' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
