"""The command line: parsing, help, presets, messages in the words of flags, and exit codes.

Nothing here imports jax, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from experiments.arguments import did_you_mean, read_flags
from experiments.errors import Interrupted, UsageError, as_flags, describe_os_error, error_text, remedy
from experiments.flags import range_error
from experiments.help import help_text, short_help_text
from experiments.preset_list import list_presets, pattern_of
from experiments.settings import Experiment, Settings, parse_drops, resolve, unused_flags
from experiments.terminal import end_process, exit_with
from jmeta.outer.screen import show
from jmeta.outer.signals import Stopped, end_on_signals

_HELP = ("h", "help", "helpshort", "helpfull")
_PROCESS_IDS = ("JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")


def launch(experiment: Experiment, argv: Sequence[str] | None = None) -> NoReturn:
    """Parse the command line, run the experiment and exit with the contract's status."""
    arguments = list(sys.argv if argv is None else argv)
    exit_with(lambda: _leave_cluster(_run(experiment, arguments)), f"experiments.{experiment.name}")


def _leave_cluster(status: int) -> int:
    """Part from the other processes, if this is one of several, and return the exit status."""
    if "jmeta.outer.cluster" in sys.modules:
        sys.modules["jmeta.outer.cluster"].leave_cluster(status)
    return status


def _run(experiment: Experiment, argv: Sequence[str]) -> int:
    """Run the experiment; the exit status. Errors that the user can mend are printed on one line."""
    if any(argument.startswith("-") and argument.lstrip("-") in _HELP for argument in argv[1:]):
        return _print_help(experiment, argv)
    try:
        pattern = pattern_of(explicit_flags(experiment, argv).get("preset"))
        if pattern is not None:
            return _list_presets(experiment, pattern)
        settings = parse(experiment, argv)
        if "workdir" not in experiment.flags:
            return experiment.main(settings)  # a benchmark
        with end_on_signals(lambda: f"experiments.{experiment.name}: stopped before it began"):
            _say_hello(experiment, settings)
            from experiments import runner  # which imports jax

            return runner.start(experiment, settings)
    except Stopped as stop:  # the compiler's threads, which may still run, would crash an ordinary exit
        end_process(_leave_cluster(128 + stop.number))
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return interruption.status
    except KeyboardInterrupt:
        print(f"experiments.{experiment.name}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        status = _exit_status(error)
        if status is None:
            raise
        text = error_text(error)
        if isinstance(error, OSError):
            text = "; ".join(filter(None, [describe_os_error(error), remedy(error)]))
        print(f"experiments.{experiment.name}: {as_flags(text, experiment.flags)}", file=sys.stderr)
        return status


def _say_hello(experiment: Experiment, settings: Settings) -> None:
    """Print what runs and where, once whatever the number of processes, before seconds of imports."""
    if any(os.environ.get(name, "0") != "0" for name in _PROCESS_IDS) and settings.get("distributed"):
        return
    data, way, shot = (settings.get(name) for name in ("dataset", "way", "shot"))
    about = [settings.get("algorithm") or experiment.name, *([f"on {data}"] if data else [])]
    about += [f"{way}-way"] if way and data != "sinusoid" else []
    about += [f"{shot}-shot"] if shot else []
    show(f"experiments.{experiment.name}: {' '.join(about)}, seed {settings.get('seed')}")
    from experiments.workdir import default_workdir  # which imports numpy

    show(f"workdir {default_workdir(experiment, settings)}; loading jax")


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
    explicit = read_flags(experiment.flags, argv)
    preset = explicit.get("preset")
    if preset and preset not in experiment.presets and pattern_of(preset) is None:
        raise UsageError(_no_preset(experiment, preset))
    return explicit


def _no_preset(experiment: Experiment, name: str) -> str:
    near = did_you_mean(name.strip("*?"), experiment.presets)
    elsewhere = "" if near else ", and python -m experiments PATTERN those of all entry points"
    count = len(experiment.presets)
    return f"--preset={name}: no such preset; --preset=list shows the {count}{elsewhere}{near}"


def _list_presets(experiment: Experiment, pattern: str) -> int:
    """Print the presets that match a pattern; the exit status."""
    lines = list_presets(experiment, pattern)
    if not lines:
        raise UsageError(_no_preset(experiment, pattern))
    print(
        "\n".join([*lines, "", "--preset=NAME --help shows the values of one; explicit flags override them."])
    )
    return 0


def _print_help(experiment: Experiment, argv: Sequence[str]) -> int:
    """Print the flags with the values that the rest of the command line gives them; the exit status.

    What cannot be read is named, and left out, as help must not be refused.
    """
    rest = [argument for argument in argv if argument.lstrip("-") not in _HELP]
    short = any(argument.lstrip("-") == "helpshort" for argument in argv)
    write = short_help_text if short else help_text
    try:
        explicit = explicit_flags(experiment, rest)
        text = write(experiment, {} if pattern_of(explicit.get("preset")) else explicit)
    except UsageError as error:
        print(f"{error}; shown are the defaults", file=sys.stderr)
        text = write(experiment)
    print(text)
    return 0


def _check_preset(experiment: Experiment, settings: Settings, name: str, reason: str) -> None:
    """Raise UsageError if a preset's value has a meaning for the preset's own algorithm alone."""
    preset = experiment.presets[settings.preset]
    own = preset.get("algorithm", settings.algorithm)
    if name not in unused_flags(experiment, {**settings, "algorithm": own}):
        raise UsageError(
            f"--algorithm={settings.algorithm} with --preset={settings.preset}, which has "
            f"--{name}={preset[name]}: {reason}; take a preset of {settings.algorithm}, or none"
        )


def _exit_status(error: Exception) -> int | None:
    """Return 2 for errors that the user can mend, 3 for numbers that are not finite, None for a bug."""
    if isinstance(error, UsageError | OSError):
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
