"""The command line: parsing, help, presets, messages in the words of flags, and exit codes.

Nothing here imports jax, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from absl import flags as absl_flags

from experiments.errors import Interrupted, UsageError, as_flags
from experiments.flags import range_error, unused
from experiments.settings import Experiment, Settings, foreign_flags, parse_drops

_DEFINE = {
    "string": absl_flags.DEFINE_string,
    "integer": absl_flags.DEFINE_integer,
    "float": absl_flags.DEFINE_float,
    "boolean": absl_flags.DEFINE_boolean,
}


def launch(experiment: Experiment, argv: Sequence[str] | None = None) -> NoReturn:
    """Parse the command line, run the experiment and exit with the contract's status."""
    argv = list(sys.argv if argv is None else argv)
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv[1:]):
        print(help_text(experiment))
        sys.exit(0)
    try:
        settings = parse(experiment, argv)
        if settings.get("preset") == "list":
            print(presets_text(experiment))
            sys.exit(0)
        if "workdir" in experiment.flags:
            from experiments import runner  # which imports jax

            status = runner.start(experiment, settings)
        else:  # a benchmark
            status = experiment.main(settings)
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        status = interruption.status
    except KeyboardInterrupt:
        print(f"experiments.{experiment.name}: interrupted", file=sys.stderr)
        status = 130
    except Exception as error:
        status = _exit_status(error)
        if status is None:
            raise
        line = as_flags(" ".join(str(error).split()), experiment.flags)
        print(f"experiments.{experiment.name}: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(status)


def parse(experiment: Experiment, argv: Sequence[str]) -> Settings:
    """Resolve every flag: explicit values go before the preset, that before the default row of the algorithm
    and dataset, and that before the flags' defaults.

    Raises UsageError for unknown, malformed, unused or positional arguments and numbers out of range.
    """
    explicit = explicit_flags(experiment, argv)
    settings = resolve(experiment, explicit)
    preset, reasons = settings.get("preset"), unused_flags(experiment, settings)
    for name, reason in reasons.items():
        if name in explicit:
            raise UsageError(f"--{name}={explicit[name]} has no meaning here: {reason}")
        if name in experiment.presets.get(preset or "", {}) and "algorithm" in explicit:
            _check_preset(experiment, settings, name, reason)
    for name, flag in experiment.flags.items():
        error = range_error(name, flag, settings[name])
        if error:
            raise UsageError(error)
    parse_drops(settings.get("learning_rate_drops") or "")
    if settings.get("eval_only") and not settings.init_from:
        raise UsageError("--eval_only needs --init_from=WORKDIR, the run to evaluate")
    return settings


def explicit_flags(experiment: Experiment, argv: Sequence[str]) -> dict[str, Any]:
    """Read the flags that the command line names. Raises UsageError as `parse` does."""
    values = absl_flags.FlagValues()
    for name, flag in experiment.flags.items():
        if flag.kind == "enum":
            absl_flags.DEFINE_enum(name, None, flag.choices, flag.help, flag_values=values)
        else:
            _DEFINE[flag.kind](name, None, flag.help, flag_values=values)
    try:
        rest = values(list(argv))[1:]
    except absl_flags.Error as error:
        raise UsageError(f"{error}; --help lists the flags") from None
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    explicit = {name: values[name].value for name in experiment.flags if values[name].present}
    preset = explicit.get("preset")
    if preset and preset != "list" and preset not in experiment.presets:
        raise UsageError(
            f"--preset={preset}: no such preset; --preset=list prints the {len(experiment.presets)}"
        )
    return explicit


def resolve(experiment: Experiment, explicit: Mapping[str, Any]) -> Settings:
    """Resolve the settings that these explicit flags ask for."""
    chosen = {**experiment.presets.get(explicit.get("preset") or "", {}), **explicit}
    values = {name: flag.default for name, flag in experiment.flags.items()} | chosen
    arguments = inspect.signature(experiment.defaults).parameters
    row = experiment.defaults(**{name: values[name] for name in arguments})
    return Settings(values | row | chosen)


def unused_flags(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, str]:
    """Find the flags that the chosen algorithm does not have or that mean nothing here, and why."""
    algorithm = settings.get("algorithm")
    foreign = dict.fromkeys(foreign_flags(experiment, algorithm), f"{algorithm} has none")
    return unused(experiment.flags, settings) | foreign


def _check_preset(experiment: Experiment, settings: Settings, name: str, reason: str) -> None:
    """Raise UsageError if a preset's value has a meaning for the preset's own algorithm alone."""
    preset = experiment.presets[settings.preset]
    own = preset.get("algorithm", settings.algorithm)
    if name not in unused_flags(experiment, {**settings, "algorithm": own}):
        raise UsageError(
            f"--algorithm={settings.algorithm} with --preset={settings.preset}, which has "
            f"--{name}={preset[name]}: {reason}; take a preset of {settings.algorithm}, or none"
        )


def help_text(experiment: Experiment) -> str:
    """Write usage, every flag with its choices and default, and the presets."""
    usage, summary = f"python -m experiments.{experiment.name} [--flags]", experiment.summary.strip()
    lines = [usage, "", summary, "", "Flags:"]
    defaults = resolve(experiment, {})
    owners = {
        name: [algorithm for algorithm, own in experiment.algorithms.items() if name in own]
        for name in experiment.flags
    }
    for name, flag in experiment.flags.items():
        few = owners[name] and len(owners[name]) < len(experiment.algorithms)
        of = f"{', '.join(owners[name])}: " if few else ""
        choices = f" ({'|'.join(flag.choices)})" if flag.choices else ""
        help, default = flag.help, ""
        if defaults[name] not in (None, ""):  # instead of the hint, in brackets, at what none means
            help, default = re.sub(r" \[[^]]*\]$", "", help), f" [{_as_text(defaults[name])}]"
        lines.append(f"  --{name}: {of}{help}{choices}{default}")
        lines += [f"      {choice}: {flag.meanings[choice]}" for choice in flag.choices
                  if choice in flag.meanings]  # fmt: skip
    if experiment.presets:
        lines += ["", "Presets (--preset=list shows their values):"]
        lines += [f"  {name}" for name in experiment.presets]
    return "\n".join(lines)


def presets_text(experiment: Experiment) -> str:
    """Write every preset with its values, as flags."""
    return "\n".join(
        f"{name}: " + " ".join(f"--{flag}={_as_text(value)}" for flag, value in values.items())
        for name, values in experiment.presets.items()
    )


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _exit_status(error: Exception) -> int | None:
    """Return 2 for errors that the user can mend, 3 for numbers that are not finite, None for a bug."""
    if isinstance(error, UsageError):
        return 2
    loaded = sys.modules
    for module, name, code in (
        ("jmeta.data.errors", "DataError", 2),
        ("jmeta.outer.checkpoint", "CheckpointError", 2),
        ("jmeta.outer.finite", "NonFiniteError", 3),
    ):
        if module in loaded and isinstance(error, getattr(loaded[module], name)):
            return code
    return None
