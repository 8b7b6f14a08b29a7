"""What every entry point shares: flags, presets, identity, the workdir and the exit codes.

Nothing here imports jax, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple, NoReturn

from absl import flags


class UsageError(Exception):
    """A request that cannot be met as it stands; its message is one line: what, where, what to do."""


class Flag(NamedTuple):
    """One flag: `kind` is string, integer, float, boolean or enum (with `choices`).

    `meanings` explains choices, in `--help` only those that an entry point leaves.
    """

    kind: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    meanings: Mapping[str, str] = MappingProxyType({})


class Experiment(NamedTuple):
    """An entry point.

    `flags` in the order of `--help`; `presets` name -> values; `run(settings) -> exit code` may import jax;
    `stray(settings) -> {flag: why}` names flags without a meaning for the other flags' values.
    """

    name: str
    summary: str
    flags: dict[str, Flag]
    presets: dict[str, dict[str, Any]]
    run: Callable[[SimpleNamespace], int]
    stray: Callable[[SimpleNamespace], dict[str, str]] = lambda settings: {}


DATASETS = (
    "glyphs", "sinusoid", "omniglot", "cifar_fs", "fc100", "mini_imagenet", "tiered_imagenet", "cub",
    "folder", "features",
)  # fmt: skip

SHARED = {
    "algorithm": Flag("enum", None, "the algorithm"),
    "dataset": Flag(
        "enum",
        "glyphs",
        "where tasks come from",
        DATASETS,
        {
            "glyphs": "characters of random strokes, made on the fly",
            "sinusoid": "sine waves, made on the fly",
            "folder": "your images, class folders",
            "features": "your vectors, .npz",
        },
    ),
    "data_dir": Flag("string", None, "the dataset's folder or its parent; before JMETA_DATA"),
    "way": Flag("integer", 5, "classes of an episode"),
    "shot": Flag("integer", 1, "support examples of a class"),
    "query": Flag("integer", 15, "query examples of a class"),
    "meta_batch": Flag("integer", 8, "tasks of an outer update"),
    "steps": Flag("integer", 2000, "outer updates"),
    "eval_every": Flag("integer", 500, "outer updates between validations, 0 for none"),
    "eval_tasks": Flag("integer", 1000, "test tasks, drawn from a fixed key"),
    "checkpoint_every": Flag("integer", 500, "outer updates between checkpoints"),
    "learning_rate": Flag("float", 0.1, "outer learning rate"),
    "inner_lr": Flag("float", 0.01, "inner learning rate"),
    "inner_steps": Flag("integer", 5, "inner gradient steps"),
    "test_inner_steps": Flag("integer", None, "inner gradient steps at evaluation [as in training]"),
    "order": Flag("enum", "mixed", "how the inner loop is differentiated", ("exact", "mixed", "first")),
    "norm": Flag(
        "enum",
        "batch",
        "batch-norm statistics",
        ("batch", "support", "running", "per_step"),
        {
            "batch": "of the batch itself, also at test (transductive)",
            "support": "of the support set",
            "running": "running averages at test",
            "per_step": "running averages of each inner step",
        },
    ),
    "image_size": Flag("integer", None, "height and width of images [the dataset's usual size]"),
    "seed": Flag("integer", 0, "seed of initial parameters and training episodes"),
    "num_seeds": Flag("integer", 1, "seeds trained side by side, --seed and those after it"),
    "init_from": Flag("string", None, "start from the learned parameters of this workdir"),
    "eval_only": Flag("boolean", False, "evaluate --init_from and train nothing"),
    "max_minutes": Flag(
        "float",
        None,
        "stop training in good order so many minutes after the start, then test what was learned",
    ),
    "workdir": Flag("string", None, "where the run is written [runs/<experiment>/<hash of its identity>]"),
    "preset": Flag("string", None, "a published experiment's values, which explicit flags override; or list"),
    "distributed": Flag("boolean", False, "join the processes of a cluster (jax.distributed.initialize)"),
    "precision": Flag("enum", "float32", "precision of matmuls on accelerators", ("float32", "bfloat16")),
    # Not of the shared contract, but of more than one entry point.
    "split": Flag("string", None, "which published split of the dataset [its usual one]"),
    "rotations": Flag("boolean", False, "rotations by 90 degrees as new classes while training"),
    "standardise": Flag(
        "boolean", False, "images less their channel's mean, by its deviation, both of the training split"
    ),
    "augment": Flag(
        "enum", "none", "augmentation of training images", ("none", "crop_flip", "crop_flip_jitter")
    ),
    "download": Flag("boolean", False, "download the dataset's archives where they are missing"),
    "validation_tasks": Flag("integer", 200, "tasks of a validation"),
    "log_every": Flag("integer", 50, "outer updates between lines of metrics.jsonl"),
    "backbone": Flag(
        "enum",
        None,
        "the network [conv4; for data that are no images what suits them]",
        ("conv4", "conv_encoder", "resnet12", "mlp", "identity"),
        {
            "conv_encoder": "conv4 with group normalisation, in which no image sees another",
            "identity": "none, for features",
        },
    ),
    "filters": Flag("integer", 64, "channels of conv4 and conv_encoder; width of mlp"),
    "drop_block": Flag("float", 0.0, "share of resnet12's values that DropBlock drops while training"),
    "global_pool": Flag("boolean", False, "average resnet12's features over space (640, not 16,000)"),
    "optimizer": Flag("enum", "sgd", "outer optimiser; sgd has Nesterov momentum 0.9", ("sgd", "adam")),
    "learning_rate_drops": Flag("string", "", "later learning rates as step:rate,step:rate"),
    "weight_decay": Flag("float", 0.0, "added to the gradient of every array (not of scalars such as log T)"),
    "clip_norm": Flag("float", None, "largest global norm of an outer gradient [no limit]"),
    "skip_nonfinite": Flag(
        "boolean", False, "leave out updates that are not finite (of several seeds: for that seed) and go on"
    ),
    "label_smoothing": Flag(
        "float",
        0.0,
        "share of a label spread over the ways while training, in the inner and the outer loss",
    ),
    "chunk": Flag("integer", None, "tasks played at a time, for less memory, on a CPU often faster [all]"),
    "inject": Flag(
        "enum", "first", "layers of cl_lstm that see the label, beside its LSTM", ("first", "all", "lstm")
    ),
    "skip": Flag("enum", "add", "how cl_lstm's layer 2 joins layer 4", ("add", "concat", "none")),
    "curriculum_every": Flag("integer", 5000, "outer updates with each stage of --curriculum"),
    "remat_every": Flag("integer", None, "steps between the states that backpropagation keeps [all]"),
    "truncate_every": Flag("integer", None, "steps between cuts of the gradient through time [never]"),
}

# Flags that say where, how long or how often, and change no number (of a run that stays finite).
_WITHOUT_IDENTITY = {
    "steps", "workdir", "data_dir", "preset", "max_minutes", "checkpoint_every", "log_every", "distributed",
    "download", "chunk", "skip_nonfinite",
}  # fmt: skip

_DEFINE = {
    "string": flags.DEFINE_string,
    "integer": flags.DEFINE_integer,
    "float": flags.DEFINE_float,
    "boolean": flags.DEFINE_boolean,
}


def shared(*names: str, **defaults: Any) -> dict[str, Flag]:
    """The shared flags of these names, with an entry point's own defaults, whose help then leaves out what
    none would mean."""
    own = {
        name: SHARED[name]._replace(default=default, help=re.sub(r" \[[^]]*\]$", "", SHARED[name].help))
        for name, default in defaults.items()
    }
    return {name: own.get(name, SHARED[name]) for name in names}


def without(flag: Flag, *choices: str) -> Flag:
    """A flag that does not offer these of its choices."""
    return flag._replace(choices=tuple(choice for choice in flag.choices if choice not in choices))


def launch(experiment: Experiment, argv: Sequence[str] | None = None) -> NoReturn:
    """Parse the command line, run the experiment and exit with the contract's status."""
    argv = list(sys.argv if argv is None else argv)
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv[1:]):
        print(help_text(experiment))
        sys.exit(0)
    try:
        settings = parse(experiment, argv)
        if getattr(settings, "preset", None) == "list":
            print(presets_text(experiment))
            sys.exit(0)
        code = experiment.run(settings)
    except KeyboardInterrupt:
        print(f"experiments.{experiment.name}: interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        status = _exit_code(error)
        if status is None:
            raise
        line = in_flags(" ".join(str(error).split()), experiment.flags)
        print(f"experiments.{experiment.name}: {line}", file=sys.stderr)
        code = status
    sys.stdout.flush()
    sys.exit(code)


def parse(experiment: Experiment, argv: Sequence[str]) -> SimpleNamespace:
    """Every flag's value as an attribute; explicit flags go before the preset, and that before defaults.

    Raises UsageError for unknown, malformed, stray or positional arguments.
    """
    values = flags.FlagValues()
    for name, flag in experiment.flags.items():
        if flag.kind == "enum":
            flags.DEFINE_enum(name, flag.default, flag.choices, flag.help, flag_values=values)
        else:
            _DEFINE[flag.kind](name, flag.default, flag.help, flag_values=values)
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        raise UsageError(f"{error}; --help lists the flags") from None
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    explicit = {name: values[name].value for name in experiment.flags if values[name].present}
    settings = SimpleNamespace(**{name: flag.default for name, flag in experiment.flags.items()})
    preset = explicit.get("preset")
    if preset and preset != "list":
        if preset not in experiment.presets:
            raise UsageError(
                f"--preset={preset}: no such preset; --preset=list prints the {len(experiment.presets)}"
            )
        vars(settings).update(experiment.presets[preset])
    vars(settings).update(explicit)
    for name, why in experiment.stray(settings).items():
        if name in explicit:
            raise UsageError(f"--{name}={explicit[name]} has no meaning here: {why}")
    _check_numbers(settings)
    return settings


def _check_numbers(settings: SimpleNamespace) -> None:
    least = {"way": 2, "shot": 1, "query": 1, "meta_batch": 1, "steps": 0, "eval_every": 0, "eval_tasks": 2,
             "validation_tasks": 2, "checkpoint_every": 1, "log_every": 1, "inner_steps": 0, "filters": 1,
             "image_size": 4, "seed": 0, "chunk": 1, "solver_steps": 1, "num_seeds": 1, "hidden_layers": 0,
             "hidden_units": 1, "adapt_batch": 1, "pretrain_batch": 1,
             "presentations": 2, "delay": 1, "hidden": 1, "curriculum_every": 1, "remat_every": 1,
             "batch": 1, "cosine_steps": 0, "held_out": 0,
             "truncate_every": 1, "subtasks": 2, "subtask_shot": 1, "slots": 1, "test_query": 1,
             "modulator_filters": 1}  # fmt: skip
    for name, smallest in least.items():
        value = getattr(settings, name, None)
        if value is not None and value < smallest:
            raise UsageError(f"--{name}={value}; expected at least {smallest}")
    check_numbers(
        vars(settings),
        positive=("learning_rate", "max_minutes", "inner_lr", "test_inner_lr", "clip_norm", "rtol", "atol",
                  "step_size", "horizon", "inner_clip", "gradient_divisor"),
        not_negative=("weight_decay", "ridge"),
        endless=("horizon", "max_minutes", "clip_norm", "inner_clip"),
    )  # fmt: skip
    for name in ("label_smoothing", "drop_block"):
        if not 0 <= getattr(settings, name, 0) < 1:
            raise UsageError(f"--{name}={getattr(settings, name)}; expected a share, at least 0 and below 1")
    parse_drops(getattr(settings, "learning_rate_drops", ""))
    if getattr(settings, "solver", None) == "euler" and settings.step_size is None:
        raise UsageError("--solver=euler needs --step_size, the learning rate of its gradient steps")
    if getattr(settings, "eval_only", False) and not settings.init_from:
        raise UsageError("--eval_only needs --init_from=WORKDIR, the run to evaluate")


def check_numbers(
    settings: Mapping[str, Any],
    *,
    positive: Collection[str],
    not_negative: Collection[str],
    endless: Collection[str] = (),
) -> None:
    """Raise UsageError for a setting that is not `positive` or is below zero, is no number, or is infinite
    where it is not one of the `endless` ones; settings that are missing or None are passed over."""
    for name in (*positive, *not_negative):
        value = settings.get(name)
        if value is None:
            continue
        what = "a positive number" if name in positive else "a number of at least 0"
        enough = value > 0 if name in positive else value >= 0
        if not enough or (math.isinf(value) and name not in endless):
            raise UsageError(f"--{name}={value}; expected {what}")


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """While a run is composed, what the library calls wrong is wrong in the flags, or in a file they name.

    Data that do not fit a network are refused by flax or jax, so their ValueErrors count too; but they may be
    bugs, so that the line says where they come from.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        raise UsageError(f"{error}{_foreign_origin(error)}") from error


def _foreign_origin(error: BaseException) -> str:
    """The line that raised it, where that is neither jmeta's nor of the experiments."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    ours = module.partition(".")[0] in ("jmeta", "experiments", "__main__")
    return "" if ours else f" (raised by {module}, line {line})"


def in_flags(message: str, flags: Iterable[str]) -> str:
    """The library's message with the arguments that it names written as flags of these names.

    Rewritten are `name=True`, `name=value`, and names that are no words, for their underscore; not within a
    path, a list or quotes.
    """
    for name in flags:
        whole = r"(?![\w/.-])" if "_" in name else "(?==)"
        message = re.sub(rf"(?<![\w/.,:='-]){name}(?:=True\b|{whole})", f"--{name}", message)
    return message


def help_text(experiment: Experiment) -> str:
    """Usage, every flag with its choices and default, and the presets."""
    lines = [f"python -m experiments.{experiment.name} [--flags]", "", experiment.summary, "", "Flags:"]
    for name, flag in experiment.flags.items():
        choices = f" ({'|'.join(flag.choices)})" if flag.choices else ""
        default = "" if flag.default in (None, "") else f" [{_shown(flag.default)}]"
        meanings = [
            f"{choice}: {flag.meanings[choice]}" for choice in flag.choices if choice in flag.meanings
        ]
        lines.append(f"  --{name}: {flag.help}{choices}{default}")
        lines += [f"      {meaning}" for meaning in meanings]
    if experiment.presets:
        lines += ["", "Presets (--preset=list shows their values):"]
        lines += [f"  {name}" for name in experiment.presets]
    return "\n".join(lines)


def presets_text(experiment: Experiment) -> str:
    """Every preset with its values, as flags."""
    return "\n".join(
        f"{name}: " + " ".join(f"--{flag}={_shown(value)}" for flag, value in values.items())
        for name, values in experiment.presets.items()
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def identity(experiment: str, settings: SimpleNamespace) -> dict[str, Any]:
    """The experiment and the flags that change its numbers."""
    kept = {name: value for name, value in vars(settings).items() if name not in _WITHOUT_IDENTITY}
    if kept.get("dataset") in ("folder", "features") and settings.data_dir:
        kept["data_dir"] = str(Path(settings.data_dir).resolve())  # here the folder is the data
    return strict({"experiment": experiment, **kept})


def default_workdir(experiment: str, settings: SimpleNamespace) -> Path:
    """`--workdir`, or runs/<experiment>/<hash of the identity>."""
    if settings.workdir:
        return Path(settings.workdir)
    digest = hashlib.sha256(json.dumps(identity(experiment, settings), sort_keys=True).encode())
    return Path("runs") / experiment / digest.hexdigest()[:12]


def strict(value: Any) -> Any:
    """A value for JSON with "inf", "-inf" or "nan" where it has a float that JSON has no number for."""
    if isinstance(value, Mapping):
        return {name: strict(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole: under a temporary name, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(strict(value), indent=1, allow_nan=False) + "\n")
    temporary.replace(path)


def parse_drops(text: str) -> tuple[tuple[int, float], ...]:
    """`--learning_rate_drops`: "20000:0.006,40000:0.0012" as ((20000, 0.006), (40000, 0.0012))."""
    try:
        pairs = [part.split(":") for part in text.split(",") if part]
        return tuple((int(step), float(rate)) for step, rate in pairs)
    except ValueError:
        raise UsageError(f"--learning_rate_drops={text}; expected step:rate,step:rate") from None


def _exit_code(error: Exception) -> int | None:
    """2 for what the user can mend, 3 for numbers that are not finite, None for a bug."""
    if isinstance(error, UsageError):
        return 2
    loaded = sys.modules
    for module, name, code in (
        ("jmeta.data.errors", "DataError", 2),
        ("jmeta.outer.checkpoint", "CheckpointError", 2),
        ("jmeta.outer.loop", "NonFiniteError", 3),
    ):
        if module in loaded and isinstance(error, getattr(loaded[module], name)):
            return code
    return None
