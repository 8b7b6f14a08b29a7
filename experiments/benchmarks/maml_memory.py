"""Memory and arithmetic of one exact second-order MAML meta-gradient against the number of inner steps.

    python -m experiments.benchmarks.maml_memory --output=maml_memory.json

Compiles, and does not run, the meta-gradient of one task through a Conv-4 with batch statistics and an SGD
inner rule; prints XLA's temporary memory for each way of differentiating the inner loop, and FLOPs. Since the
compiler's cost analysis counts the body of a loop once, FLOPs are those of the unrolled program, as written
and as compiled: there XLA merges what the reverse pass recomputes with the forward pass, which it cannot
across two loops. `--repeats` also runs the programs and reports the median time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jmeta
from experiments import flags
from experiments.benchmarks.timing import OUTPUT, time_in_turns, write_report
from experiments.cli import launch
from experiments.flags import Flag
from experiments.settings import Experiment, Settings
from jmeta.types import Batch, Model, PyTree, Task

WAYS = (("first", "step"), ("exact", "none"), ("exact", "step"), ("mixed", "none"))
MIB = 2**20


def main(settings: Settings) -> int:
    """Measure, print, write."""
    model = jmeta.conv4(filters=settings.filters, head=settings.way, weights="per_task")
    task = empty_task(settings.image_size, settings.way, settings.shot, settings.query)
    params, state = model.init(jax.random.key(0), task.support.x)
    arguments = ({"params": params, "rule": ()}, state, task)
    if not settings.repeats:
        arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    counts = [int(count) for count in settings.inner_step_counts.split(",")]
    print("steps  order remat  temporary memory   of first order")
    report = {"memory": measure_memory(model, arguments, counts, settings.keep_up_to, settings.repeats)}
    if settings.unrolled_steps:
        print("\nunrolled             as written  of exact    as compiled  of exact")
        report["flops"] = count_flops(model, arguments, settings.unrolled_steps)
    write_report(settings.output, setting=dict(settings), **report)
    return 0


def empty_task(image_size: int, way: int, shot: int, query: int) -> Task:
    """Make a task of zeros."""

    def batch(count: int) -> Batch:
        y = jnp.arange(way * count, dtype=jnp.int32) % way
        return Batch(jnp.zeros((y.size, image_size, image_size, 3)), y)

    return Task(batch(shot), batch(query))


def looped(model: Model, steps: int, order: str, remat: str) -> Callable[..., Any]:
    """Return the meta-gradient as training compiles it: `(meta, state, task) -> gradient`."""
    adapter = jmeta.gradient_adapter(
        model, jmeta.cross_entropy, jmeta.sgd(0.01), steps, order=order, remat=remat
    )

    def query_loss(meta: PyTree, state: PyTree, task: Task) -> Any:
        fast, state, _ = adapter.adapt(meta, state, task.support, None, train=True)
        outputs, _ = adapter.predict(meta, fast, state, task.query.x, None, train=True)
        return jmeta.cross_entropy(outputs, task.query)

    return jax.grad(query_loss)


def unrolled(model: Model, steps: int, order: str, remat: str) -> Callable[..., Any]:
    """Return the same as a chain of loops of one step each, in which the compiler sees every step."""

    def loss(params: PyTree, state: PyTree, batch: Batch) -> Any:
        return jmeta.cross_entropy(model.apply(params, state, batch.x, train=True)[0], batch)

    def query_loss(meta: PyTree, state: PyTree, task: Task) -> Any:
        params = meta["params"]
        for _ in range(steps):
            params, _ = jmeta.inner_loop(
                lambda p, step: loss(p, state, task.support),
                jmeta.sgd(0.01),
                (),
                params,
                1,
                order=order,
                remat=remat,
            )
        return loss(params, state, task.query)

    return jax.grad(query_loss)


def measure_memory(
    model: Model, arguments: tuple, counts: Sequence[int], keep_up_to: int, repeats: int
) -> list[dict[str, Any]]:
    """Print and return the temporary memory of the looped programs, and their median seconds if repeated."""
    rows = []
    for steps in counts:
        ways = [way for way in WAYS if way != ("exact", "none") or steps <= keep_up_to]
        programs = {way: jax.jit(looped(model, steps, *way)).lower(*arguments).compile() for way in ways}
        runs = {way: partial(program, *arguments) for way, program in programs.items()} if repeats else {}
        seconds = {way: statistics.median(times) for way, times in time_in_turns(runs, repeats).items()}
        memory = {way: p.memory_analysis().temp_size_in_bytes / MIB for way, p in programs.items()}
        for way, mib in memory.items():
            row = {
                "inner_steps": steps,
                "order": way[0],
                "remat": way[1],
                "temporary_mib": mib,
                "of_first_order": mib / memory["first", "step"],
                "seconds": seconds.get(way),
            }
            rows.append(row)
            timed = f"{row['seconds']:8.3f} s" if seconds else ""
            print(
                f"{steps:5d}  {way[0]:6}{way[1]:5}{mib:9.0f} MiB{row['of_first_order']:7.2f}{timed}",
                flush=True,
            )
    return rows


def count_flops(model: Model, arguments: tuple, steps: int) -> list[dict[str, Any]]:
    """Print and return the FLOPs of the programs of so many unrolled steps."""
    rows: list[dict[str, Any]] = []
    for way in WAYS[1:]:
        lowered = jax.jit(unrolled(model, steps, *way)).lower(*arguments)
        written, compiled = (stage.cost_analysis()["flops"] / 1e9 for stage in (lowered, lowered.compile()))
        row = {"order": way[0], "remat": way[1], "as_written_gflop": written, "as_compiled_gflop": compiled}
        rows.append(row)
        ratios = [row[name] / rows[0][name] for name in ("as_written_gflop", "as_compiled_gflop")]
        print(
            f"{steps:5d}  {way[0]:6}{way[1]:5}{written:9.2f} GFLOP {ratios[0]:6.3f}"
            f"{compiled:9.2f} GFLOP {ratios[1]:6.3f}",
            flush=True,
        )
    return rows


FLAGS = flags.pick(
    *"filters image_size way shot query".split(),
    defaults={"filters": 32, "image_size": 84, "shot": 5},
    helps={"filters": "channels of conv4", "image_size": "height and width of images"},
) | {
    "inner_step_counts": Flag("string", "1,5,10,50", "numbers of inner steps"),
    "keep_up_to": Flag("integer", 10, "most steps to keep all intermediates of (exact, none)", least=0),
    "unrolled_steps": Flag("integer", 5, "steps of the unrolled program; 0 leaves it out", least=0),
    "repeats": Flag("integer", 0, "runs of each program; 0 only compiles", least=0),
    **OUTPUT,
}
EXPERIMENT = Experiment("benchmarks.maml_memory", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
