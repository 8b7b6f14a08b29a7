"""What runs over a continual stream have in common: lanes, the stream with its checkpoints, the results.

A lane is one run among those side by side: a seed at a point of the grid, seeds varying fastest. Whatever
differs between lanes has a leading axis [lane].
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import UsageError, strict, write_json
from experiments.workdir import finished_results, provenance, say, write_arrays
from jmeta.data.source import Dataset
from jmeta.outer.checkpoint import CheckpointError, Checkpoints
from jmeta.outer.finite import NonFiniteError
from jmeta.outer.metrics_log import MetricsLog, read_metrics
from jmeta.outer.signals import stop_on_signals
from jmeta.report import continual_figures, figures
from jmeta.types import Array, LearnerState, PyTree

RECORDS = "records.npz"


class Part(NamedTuple):
    """A part of the stream, after which `done` batches have been learned.

    `states` of the learners, and what was `kept` of earlier ones, both [lane, ...]; `report` {name: [lane]},
    the means of a line of the log, of which `loss` must be there; `fields` of that line that are no means;
    `records` {name: [lane, step]} of each of its steps.
    """

    states: PyTree
    kept: PyTree
    done: int
    report: Mapping[str, np.ndarray]
    fields: Mapping[str, Any] = {}
    records: Mapping[str, np.ndarray] = {}


class Ended(NamedTuple):
    """Where the stream ended: `done` batches, `seconds` of them in all parts of the run, and the number of
    the `signal` that stopped it."""

    state: LearnerState
    done: int
    seconds: float
    signal: int | None
    records: dict[str, np.ndarray]


def deadline(settings: SimpleNamespace) -> float:
    """When `--max_minutes` from now are over, by `time.monotonic()`."""
    return math.inf if settings.max_minutes is None else time.monotonic() + 60 * settings.max_minutes


def lane_seeds(settings: SimpleNamespace, points: Sequence[Mapping[str, float]]) -> Array:
    """The seed of each lane [lane]."""
    return jnp.asarray([settings.seed + index for _ in points for index in range(settings.num_seeds)])


def lane_values(settings: SimpleNamespace, points: Sequence[Mapping[str, float]]) -> dict[str, Array]:
    """The settings of the grid, each [lane]."""
    seeds = range(settings.num_seeds)
    return {
        name: jnp.asarray([point[name] for point in points for _ in seeds], jnp.float32) for name in points[0]
    }


def over_lanes(function: Callable[..., PyTree], *arguments: PyTree, in_turn: bool) -> PyTree:
    """`function` of every lane's arguments, one lane after another or all at once."""
    if in_turn:
        return jax.lax.map(lambda inputs: function(*inputs), arguments)
    return jax.vmap(function)(*arguments)


def compiled(program: Callable[..., Any], *arguments: PyTree) -> tuple[Callable[..., Any], float]:
    """A jitted program, compiled for these arguments, and the seconds that took."""
    begun = time.monotonic()
    made = program.lower(*arguments).compile()  # type: ignore[attr-defined]
    return made, time.monotonic() - begun


def learn_stream(
    settings: SimpleNamespace,
    advance: Callable[[PyTree, PyTree, int], Part],
    states: PyTree,
    kept: PyTree,
    steps: int,
    checkpoints: Checkpoints,
    workdir: Path,
    deadline: float,
) -> Ended:
    """Learn what is left of the `steps` batches of the stream, part by part, from the last checkpoint on, or
    what can be learned until `deadline` (of `time.monotonic()`).

    `advance(states, kept, done)` learns the part after `done` batches; its arguments may be donated. A
    checkpoint is written every `--checkpoint_every` batches, up to the end of a part, and at the end.
    """
    done, seconds, saved, records = 0, 0.0, None, {}
    found = checkpoints.restore(_checkpoint(0, states, kept))
    if found is not None:
        done, restored, meta = found
        states, kept, seconds, saved = restored.meta, restored.model_state, meta["seconds"], done
        records = _read_records(workdir, done)
        if done > steps:
            raise UsageError(
                f"{workdir} holds a checkpoint of step {done}, past --steps={steps}; "
                "ask for more steps or give another --workdir"
            )

    def save() -> None:
        if records:  # before the checkpoint, which must never be ahead of them
            write_arrays(workdir / RECORDS, records)
        checkpoints.save(done, _checkpoint(done, states, kept), {"seconds": seconds, "best": None})

    log = MetricsLog(workdir)
    with stop_on_signals() as stopped, contextlib.closing(log):
        log.start(done)
        while done < steps and not stopped() and time.monotonic() < deadline:
            before, begun = done, time.monotonic()
            states, kept, done, report, fields, new = advance(states, kept, done)
            report, new = jax.device_get((report, new))
            seconds += time.monotonic() - begun
            check_finite(settings, report["loss"], done, saved)
            records = {
                name: np.concatenate([records.get(name, new[name][:, :0]), new[name]], 1) for name in new
            }
            log.write(line(done, fields, report, seconds))
            say(f"step {done}/{steps}  {_told(report)}  {seconds:.1f} s")
            if done // settings.checkpoint_every > before // settings.checkpoint_every:
                save()
                saved = done
        signal = stopped()
        if saved != done and done:
            save()
            checkpoints.wait()
    state = _checkpoint(done, states, kept)
    return Ended(state, done, seconds, signal if done < steps else None, records)


def _checkpoint(step: int, states: PyTree, kept: PyTree) -> LearnerState:
    return LearnerState(jnp.asarray(step, jnp.int32), states, kept, (), jax.random.key(0))


def _read_records(workdir: Path, done: int) -> dict[str, np.ndarray]:
    """What the steps up to a checkpoint recorded, {} where nothing is recorded."""
    path = workdir / RECORDS
    if not path.exists():
        return {}
    try:
        with np.load(path) as held:
            records = {name: held[name][:, :done] for name in held.files}
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove {workdir} to start anew") from error
    if any(value.shape[1] < done for value in records.values()):
        raise CheckpointError(f"{path} ends before step {done}; remove {workdir} to start anew")
    return records


def check_finite(settings: SimpleNamespace, loss: np.ndarray, step: int, saved: int | None) -> None:
    """Raise NonFiniteError where a lane's loss [lane] is not finite; of a grid, only where none is left that
    is."""
    finite = np.isfinite(loss)
    if finite.all() or (settings.grid and finite.any()):
        return
    back = "there is no checkpoint before it" if not saved else f"the checkpoint of step {saved} is before it"
    seed = settings.seed + int(np.argmin(finite)) % settings.num_seeds
    raise NonFiniteError(f"up to step {step}: the loss of seed {seed} is not finite; {back}; lower the rates")


def line(
    done: int, fields: Mapping[str, Any], report: Mapping[str, np.ndarray], seconds: float
) -> dict[str, Any]:
    """A line of the log: of each number the mean over lanes, and of several lanes each one's."""
    found: dict[str, Any] = {"step": done, "split": "train", **fields}
    for name, values in report.items():
        finite = values[np.isfinite(values)]
        found[name] = float(finite.mean()) if finite.size else None
        if values.size > 1:
            found[f"{name}_by_lane"] = [float(v) if math.isfinite(v) else None for v in values]
    return {name: value for name, value in found.items() if value is not None} | {
        "seconds": round(seconds, 3)
    }


def of_lanes(logged: Mapping[str, Any], lanes: slice) -> dict[str, Any]:
    """A line of the log as it were if there had been these lanes alone."""
    found = dict(logged)
    for name, values in logged.items():
        if name.endswith("_by_lane"):
            finite = [value for value in values[lanes] if value is not None]
            found[name] = values[lanes]
            found[name.removesuffix("_by_lane")] = float(np.mean(finite)) if finite else None
    return found


def _told(report: Mapping[str, np.ndarray]) -> str:
    return "  ".join(
        f"{name} {np.nanmean(report[name]):.4g}" for name in ("loss", "accuracy") if name in report
    )


def over_seeds(summaries: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Of each seed's numbers: the mean, deviation and 95 % interval of each that all of the seeds have."""
    found = {}
    for name in [name for name in summaries[0] if all(name in summary for summary in summaries)]:
        values = np.asarray([summary[name] for summary in summaries])
        deviation = float(values.std(ddof=1)) if len(values) > 1 else None
        interval = None if deviation is None else 1.96 * deviation / len(values) ** 0.5
        found[name] = {"mean": float(values.mean()), "std": deviation, "ci95": interval}
    return found


class Chosen(NamedTuple):
    """The best point of a grid: its `index`, its `lanes`, its `metrics` over seeds and those of each of its
    `seeds`; and the metrics of every point, `grid`."""

    index: int
    lanes: slice
    metrics: dict[str, dict[str, float | None]]
    seeds: dict[str, list[float | None]]
    grid: list[dict[str, Any]]


def choose(
    points: Sequence[Mapping[str, float]], summaries: Sequence[Sequence[Mapping[str, float]]], metric: str
) -> Chosen:
    """The point whose mean `metric` is highest, of summaries [point][seed]."""
    by_point = [over_seeds(of_seeds) for of_seeds in summaries]
    best = int(np.argmax([metrics[metric]["mean"] for metrics in by_point]))
    seeds = {name: [seed.get(name) for seed in summaries[best]] for name in summaries[best][0]}
    count = len(summaries[best])
    grid = [{"values": point, "metrics": metrics} for point, metrics in zip(points, by_point)]
    return Chosen(best, slice(best * count, (best + 1) * count), by_point[best], seeds, grid)


def results(
    experiment: str,
    settings: SimpleNamespace,
    ended: Ended,
    compile_seconds: float,
    chosen: Chosen,
    evaluation: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """results.json: of the `chosen` point, with what else is to be said of its `evaluation`, among it the
    "tasks" that a lane learned, and `more` of its fields."""
    lanes = len(chosen.grid) * settings.num_seeds
    return {
        "experiment": experiment,
        "algorithm": settings.algorithm,
        "preset": settings.preset,
        "dataset": None,
        "way": None,
        "shot": None,
        "seed": settings.seed,
        "steps": ended.done,
        "train": {
            "seconds": round(ended.seconds, 3),
            "compile_seconds": round(compile_seconds, 3),
            "tasks_per_second": round(lanes * evaluation["tasks"] / ended.seconds, 3)
            if ended.seconds
            else None,
        },
        "eval": {**evaluation, "metrics": chosen.metrics, "seeds": chosen.seeds},
        "grid": chosen.grid if settings.grid else None,
        **more,
    }


def finished_before(workdir: Path, identified: dict[str, Any], steps: int) -> bool:
    """Whether a run of this identity has learned all its batches; then its results are printed again."""
    found = finished_results(workdir, identified, steps)
    if found:
        say(f"finished before, in {workdir}")
        print(json.dumps(found))
    return found is not None


def interrupted(ended: Ended, workdir: Path, *, least: int = 1) -> int | None:
    """The exit status of a stream that a signal stopped, or that the time ended before there were results,
    after the `least` number of batches; None of others."""
    if not ended.signal and ended.done >= least:
        return None
    say(f"stopped after batch {ended.done}; the same command goes on from {workdir}")
    return 128 + ended.signal if ended.signal else 0


def conclude(
    workdir: Path,
    found: Mapping[str, Any],
    arrays: dict[str, np.ndarray],
    lanes: slice,
    draw: Callable[[Path], None],
) -> int:
    """Write eval.npz, figures and results.json, and print the results; the exit status.

    The curves are of these `lanes`; `draw(folder)` draws into the folder of the figures what the log's lines
    do not say.
    """
    write_arrays(workdir / "eval.npz", arrays)
    try:
        folder = workdir / "figures"
        folder.mkdir(exist_ok=True)
        lines = [of_lanes(line, lanes) for line in read_metrics(workdir / "metrics.jsonl")]
        figures.learning_curves(lines, folder / "learning_curves.png", against="batches seen")
        if any("sparsity" in line for line in lines):
            continual_figures.sparsity_by_layer(lines, folder / "sparsity.png")
        draw(folder)
    except (OSError, ValueError, RuntimeError) as error:  # a figure must not cost a run its results
        say(f"no figures: {error}")
    write_json(workdir / "results.json", found)
    say(f"figures in {workdir / 'figures'}, results in {workdir / 'results.json'}")
    print(json.dumps(strict(found)))
    return 0


def config(
    settings: SimpleNamespace, identified: Mapping[str, Any], steps: int, *sources: Dataset
) -> dict[str, Any]:
    """config.json of a stream of `steps` batches."""
    facts = [source.info._asdict() for source in sources]
    return {
        "flags": vars(settings),
        "identity": identified,
        "steps": steps,
        "dataset": facts[0] if len(facts) == 1 else facts,
        **provenance(),
    }
