"""Random sets of flags that pass parsing: python -m tests.fuzz.flag_sets --count=320 --seed=0

Fifteen of sixteen are composed and traced (`tests.fuzz.tracing`), the sixteenth runs to its end at a tiny
size. Each ends with status 0, or with status 2 or 3 and one line. Values are drawn from the entry points' own
flags. Published data sets are made up, in their shapes, so that no archive is needed.
"""

import functools
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.source_helpers import write_tree
from tests.fuzz import entry_points, small_data, verdicts

SECONDS = 400
EVERY = 16  # of which one runs to the end
# Classes and images of each in the splits, side and channels.
_SHAPES = {
    "omniglot": (((1000, 20), (60, 20), (60, 20)), 28, 1),
    "cifar_fs": (((64, 40), (16, 40), (20, 40)), 32, 3),
    "fc100": (((60, 40), (20, 40), (20, 40)), 32, 3),
    "mini_imagenet": (((64, 32), (16, 32), (20, 32)), 84, 3),
    "tiered_imagenet": (((80, 32), (20, 32), (30, 32)), 84, 3),
    "cub": (((100, 32), (50, 32), (50, 32)), 84, 3),
    "mnist": (((10, 200), (10, 10)), 28, 1),
    "fashion_mnist": (((10, 200), (10, 10)), 28, 1),
    "cifar10": (((10, 30), (10, 30)), 32, 3),
    "cifar100": (((100, 4), (100, 3)), 32, 3),
}
_INTEGERS = (0, 1, 2, 3, 4, 5, 7, 10, 16, 20)
_FLOATS = (0.0, 1e-6, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.98, 1.0, 1.5, 10.0, math.inf)
_POOLS = { "image_size": (4, 8, 12, 16, 28, 33, 84), "num_seeds": (1, 1, 2, 3),
    "solver_steps": (16, 4096), "samples": (2, 10, 20, 40), "tasks": (1, 2, 5), "batch": (1, 2,
    5, 10), "seed": (0, 1, 7, 2**31, 2**32), "transform_seed": (0, 3, 2**32), "held_out": (0,
    10, 100, 200), "validation_tasks": (2, 3, 60), "eval_tasks": (2, 3, 60), "steps": (0, 1, 2,
    100), "max_minutes": (0.001, math.inf), "shrink": (0.0625, 0.1, 0.5, 1.0), "stay": (0.0,
    0.5, 0.9, 0.98, 1.0), "way": (2, 3, 5, 10, 20), "curriculum": ("2", "2,3", "2,4,10", "3,2",
    "a", ","), "learning_rate_drops": ("1:0.1", "2:0.01,4:0.001", "5:0,1:1"),
    "inputs": ("gradient", "gradient,loss,step", "gradient_history,update_history",
    "loss_and_gradient", "raw_gradient", "a"), "split": ("vinyals", "lake", "split.json",
    "ravi"), "hidden_layers": (0, 1, 3), "decay": (0.0, 0.5, 0.9, 1.0, -1.0, 2.0),
    "initial_score": (0.0, 0.05, -1.0), "mask_initial": (0.0, 0.5, -2.0),
    "mask_learning_rate": (0.0, 0.003, 0.1), }  # fmt: skip
_LEFT_OUT = ("workdir", "preset", "distributed", "download", "data_dir", "grid", "init_from",
    "encoder_from", "eval_only", "dataset", "precision")  # fmt: skip
# The size of a run to the end, where a flag has a meaning.
_TINY = { "steps": 2, "eval_every": 1, "checkpoint_every": 1, "log_every": 1,
    "validation_tasks": 2, "eval_tasks": 2, "meta_batch": 2, "filters": 8, "hidden": 8,
    "modulator_filters": 4, "num_seeds": 1, "inner_steps": 1, "test_inner_steps": 1,
    "image_size": 16, "pretrain_steps": 2, "tasks": 2, "samples": 20, "batch": 10,
    "glances": 2, "presentations": 3, "subtasks": 2, "shrink": 0.0625, "subtask_shot": 1,
    "query": 2, "test_query": 2, "hidden_layers": 1, "pretrain_batch": 4, "curriculum": "",
    "cosine_steps": 2, "matrix": "ends", }  # fmt: skip


def main(argv: list[str]) -> int:
    """Try the cases of the command line."""
    return verdicts.main("flag_sets", cases, count=320, argv=argv)


def cases(seed: int) -> Callable[[int], tuple[str, verdicts.Verdict]]:
    """Make `case(index)`."""
    entry_points.import_all()
    import_module("tests.fuzz.tracing")
    scratch = tempfile.TemporaryDirectory(prefix="fuzz-flags-", ignore_cleanup_errors=True)
    root = Path(scratch.name)
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    for folder, files in small_data.own_data(classes=32, each=40).items():
        write_tree(root / folder, files)
    origin = root / "origin"

    def case(index: int) -> tuple[str, verdicts.Verdict]:
        rng = np.random.default_rng([seed, index])
        name, whole = entry_points.NAMES[index % len(entry_points.NAMES)], index % EVERY == EVERY - 1
        workdir = root / f"case{index}"
        arguments = draw(name, rng, root, whole)
        if not origin.exists() and any(argument.endswith(str(origin)) for argument in arguments):
            _train(origin)
        command = functools.partial(_run if whole else _trace, name, [*arguments, f"--workdir={workdir}"])
        outcome = verdicts.in_a_process(command, seconds=SECONDS, address_space=8 * verdicts.GIGABYTE)
        shutil.rmtree(workdir, ignore_errors=True)
        words = " ".join([name, *("run to the end:" if whole else "").split(), *arguments])
        return words.replace(str(root), "ROOT"), judge(outcome, name, whole)

    case.scratch = scratch  # which lasts as long as the cases
    return case


def judge(outcome: verdicts.Outcome, name: str, whole: bool) -> verdicts.Verdict:
    """Judge a run; one that was only traced prints no results."""
    if outcome.kind == "hang":
        return verdicts.Verdict("hang", outcome.value)
    if outcome.peak > 4 * verdicts.GIGABYTE:
        return verdicts.Verdict("memory", f"{outcome.peak / verdicts.GIGABYTE:.1f} GB")
    if not whole and (outcome.kind, outcome.value) == ("exit", 0) and "Traceback" not in outcome.printed:
        return verdicts.Verdict("traced")
    verdict = entry_points.of_exit(outcome, name) or verdicts.Verdict("ended")
    if verdict.kind == "refused" and "(raised by " in verdict.line:
        return verdicts.Verdict("foreign refusal", verdict.line)
    return verdict


def _train(workdir: Path) -> None:
    """Run what `--init_from` and `--encoder_from` name."""
    flags = "--dataset=glyphs --backbone=conv_encoder --filters=8 --query=2 --steps=0 --eval_tasks=2".split()
    outcome = verdicts.in_a_process(
        functools.partial(entry_points.launch, "maml", [*flags, f"--workdir={workdir}"]),
        seconds=SECONDS,
        address_space=8 * verdicts.GIGABYTE,
    )
    assert (outcome.kind, outcome.value) == ("exit", 0), outcome


def _run(name: str, arguments: list[str]) -> None:
    import experiments.parts

    experiments.parts.dataset = functools.partial(made_up, experiments.parts.dataset)
    entry_points.launch(name, arguments)


def _trace(name: str, arguments: list[str]) -> None:
    from tests.fuzz.tracing import trace_only

    trace_only()
    _run(name, arguments)


def made_up(load: Callable[..., Any], name: str, **options: Any) -> Any:
    """Make up a published data set of images; load the others."""
    from jmeta.data.class_dataset import ClassDataset
    from jmeta.data.episodes import from_splits
    from jmeta.data.source import DatasetInfo, check_split
    from jmeta.data.sources.authors import PUBLISHED_SPLITS

    if name not in _SHAPES:
        return load(name, **options)
    check_split(options.get("split") or next(iter(PUBLISHED_SPLITS[name])), PUBLISHED_SPLITS[name])
    sizes, side, channels = _SHAPES[name]
    side = options.get("image_size") or side
    splits, classes = {}, {}
    few = np.random.default_rng(0).integers(0, 256, (32, side, side, channels), np.uint8)
    parts = ("train", "validation", "test") if len(sizes) == 3 else ("train", "test")
    for part, (number, each) in zip(parts, sizes):
        counts = np.full(number, each, np.int32)
        examples = np.resize(few, (number * each, side, side, channels))
        splits[part] = ClassDataset(examples, (np.cumsum(counts) - counts).astype(np.int32), counts)
        classes[part] = tuple(f"{'' if len(sizes) == 2 else part}{label}" for label in range(number))
    return from_splits(DatasetInfo(name, "none", "made up", classes, (side, side, channels)), splits)


def draw(name: str, rng: np.random.Generator, root: Path, whole: bool) -> list[str]:
    """Draw flags of an entry point until they pass parsing."""
    from experiments.cli import parse
    from experiments.errors import UsageError

    experiment = import_module(f"experiments.{name}").EXPERIMENT
    while True:
        try:
            arguments = _draw(experiment, rng, root, whole)
            parse(experiment, [name, *arguments])
            return arguments
        except UsageError:
            continue


def _draw(experiment: Any, rng: np.random.Generator, root: Path, whole: bool) -> list[str]:
    from experiments.cli import resolve, unused_flags

    flags, chosen = experiment.flags, {}
    if experiment.presets and rng.random() < 0.15:
        chosen["preset"] = str(rng.choice(list(experiment.presets)))
    if "algorithm" in flags and ("preset" not in chosen or rng.random() < 0.2):
        chosen["algorithm"] = str(rng.choice(flags["algorithm"].choices))
    if "dataset" in flags and rng.random() < 0.7:
        chosen["dataset"] = str(rng.choice(flags["dataset"].choices))
    own = experiment.algorithms.get(chosen.get("algorithm", ""), ())
    names = [flag for flag in flags if flag not in _LEFT_OUT and flag != "algorithm"]
    weights = np.array([3.0 if flag in own else 1.0 for flag in names])
    number = min(len(names), int(rng.integers(1, 10)))
    for flag in rng.choice(names, number, replace=False, p=weights / weights.sum()):
        chosen[str(flag)] = _value(str(flag), flags[flag], rng)
    if rng.random() < 0.08:
        chosen |= {
            flag: str(root / "origin")
            for flag in ("init_from", "encoder_from")
            if flag in flags and rng.random() < 0.7
        }
    if chosen.get("init_from") and "eval_only" in flags:
        chosen["eval_only"] = bool(rng.random() < 0.5)
    if "grid" in flags and rng.random() < 0.2:
        rates = [flag for flag in own if flags[flag].kind == "float"]
        chosen["grid"] = ",".join(f"{rate}=0.1:0.01" for rate in rates[: rng.integers(1, 3)])
    if whole:
        chosen |= {flag: value for flag, value in _TINY.items() if flag in flags}
        chosen |= {"eval_every": 0} if "held_out" in flags else {}
    settings = resolve(experiment, chosen)
    if settings.get("dataset") in ("folder", "features"):
        chosen["data_dir"] = str(root / settings["dataset"])
        if chosen.get("split"):
            chosen["split"] = str(root / settings["dataset"] / "split.json")
    idle = unused_flags(experiment, resolve(experiment, chosen))
    return [_word(flag, value) for flag, value in chosen.items() if flag not in idle]


def _word(flag: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no{flag}"
    return f"--{flag}={value}"


def _value(name: str, flag: Any, rng: np.random.Generator) -> Any:
    """Draw a value that a flag may have, its limits more often than others."""
    if flag.kind == "enum":
        return str(rng.choice(flag.choices))
    if flag.kind == "boolean":
        return bool(rng.random() < 0.5)
    pool = _POOLS.get(name, _INTEGERS if flag.kind == "integer" else _FLOATS)
    if flag.kind == "string":
        return pool[rng.integers(len(pool))] if name in _POOLS else ""
    from experiments.flags import range_error

    pool = [
        value
        for value in (*pool, flag.least, flag.least)
        if value is not None and not range_error(name, flag, value)
    ]
    value = pool[rng.integers(len(pool))]
    return int(value) if flag.kind == "integer" else float(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
