"""Memory and arithmetic of one exact second-order MAML meta-gradient against the number of inner steps.

    python -m experiments.benchmarks.maml_memory --output=maml_memory.json

Compiles, and does not run, the meta-gradient of one task through a Conv-4 with batch statistics and an SGD
inner rule; prints XLA's temporary memory for each way of differentiating the inner loop, and FLOPs. Since the
compiler's cost analysis counts the body of a loop once, FLOPs are those of the unrolled program, as written
and as compiled: there XLA merges what the reverse pass recomputes with the forward pass, which it cannot
across two loops. `--repeats` also runs the programs and reports the median time.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

import jmeta

FILTERS = flags.DEFINE_integer("filters", 32, "channels of the Conv-4")
IMAGE_SIZE = flags.DEFINE_integer("image_size", 84, "height and width of the images")
WAY = flags.DEFINE_integer("way", 5, "classes of the episode")
SHOT = flags.DEFINE_integer("shot", 5, "support images of a class")
QUERY = flags.DEFINE_integer("query", 15, "query images of a class")
INNER_STEPS = flags.DEFINE_list("inner_steps", ["1", "5", "10", "50"], "numbers of inner steps")
KEEP_UP_TO = flags.DEFINE_integer("keep_up_to", 10, "most steps to keep all intermediates of (exact, none)")
UNROLLED_STEPS = flags.DEFINE_integer("unrolled_steps", 5, "steps of the unrolled program; 0 leaves it out")
REPEATS = flags.DEFINE_integer("repeats", 0, "runs of each program; 0 only compiles")
OUTPUT = flags.DEFINE_string("output", None, "write the figures to this file as JSON")

WAYS = (("first", "step"), ("exact", "none"), ("exact", "step"), ("mixed", "none"))
MIB = 2**20


def setting() -> tuple[jmeta.Model, jmeta.Task]:
    """The network and a task of zeros."""

    def batch(count: int) -> jmeta.Batch:
        y = jnp.arange(WAY.value * count, dtype=jnp.int32) % WAY.value
        return jmeta.Batch(jnp.zeros((y.size, IMAGE_SIZE.value, IMAGE_SIZE.value, 3)), y)

    model = jmeta.conv4(filters=FILTERS.value, head=WAY.value, weights="per_task")
    return model, jmeta.Task(batch(SHOT.value), batch(QUERY.value))


def looped(model: jmeta.Model, steps: int, order: str, remat: str) -> Callable[..., Any]:
    """The meta-gradient as training compiles it: `(meta, state, task) -> gradient`."""
    adapter = jmeta.gradient_adapter(
        model, jmeta.cross_entropy, jmeta.sgd(0.01), steps, order=order, remat=remat
    )

    def query_loss(meta: Any, state: Any, task: jmeta.Task) -> jax.Array:
        fast, state, _ = adapter.adapt(meta, state, task.support, None, train=True)
        outputs, _ = adapter.predict(meta, fast, state, task.query.x, None, train=True)
        return jmeta.cross_entropy(outputs, task.query)

    return jax.grad(query_loss)


def unrolled(model: jmeta.Model, steps: int, order: str, remat: str) -> Callable[..., Any]:
    """The same as a chain of loops of one step each, in which the compiler sees every step."""

    def loss(params: Any, state: Any, batch: jmeta.Batch) -> jax.Array:
        return jmeta.cross_entropy(model.apply(params, state, batch.x, train=True)[0], batch)

    def query_loss(meta: Any, state: Any, task: jmeta.Task) -> jax.Array:
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


def start(model: jmeta.Model, task: jmeta.Task) -> tuple[Any, Any]:
    """Initial meta-parameters and model state."""
    params, state = model.init(jax.random.key(0), task.support.x)
    return {"params": params, "rule": ()}, state


def median_seconds(programs: dict[tuple, Any], arguments: tuple) -> dict[tuple, float]:
    """Median time of each compiled program, run in turn so that a busy machine slows all alike."""
    seconds: dict[tuple, list[float]] = {name: [] for name in programs}
    for _ in range(REPEATS.value):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def measure_memory(model: jmeta.Model, arguments: tuple) -> list[dict[str, Any]]:
    """Print and return the temporary memory of the looped programs."""
    rows = []
    for steps in map(int, INNER_STEPS.value):
        ways = [w for w in WAYS if w != ("exact", "none") or steps <= KEEP_UP_TO.value]
        programs = {way: jax.jit(looped(model, steps, *way)).lower(*arguments).compile() for way in ways}
        seconds = median_seconds(programs, arguments) if REPEATS.value else {}
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


def count_flops(model: jmeta.Model, arguments: tuple) -> list[dict[str, Any]]:
    """Print and return the FLOPs of the unrolled programs."""
    rows: list[dict[str, Any]] = []
    for way in WAYS[1:]:
        lowered = jax.jit(unrolled(model, UNROLLED_STEPS.value, *way)).lower(*arguments)
        written, compiled = (stage.cost_analysis()["flops"] / 1e9 for stage in (lowered, lowered.compile()))
        row = {"order": way[0], "remat": way[1], "as_written_gflop": written, "as_compiled_gflop": compiled}
        rows.append(row)
        ratios = [row[name] / rows[0][name] for name in ("as_written_gflop", "as_compiled_gflop")]
        print(
            f"{UNROLLED_STEPS.value:5d}  {way[0]:6}{way[1]:5}{written:9.2f} GFLOP {ratios[0]:6.3f}"
            f"{compiled:9.2f} GFLOP {ratios[1]:6.3f}",
            flush=True,
        )
    return rows


def main(argv: list[str]) -> None:
    """Measure, print, write."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    model, task = setting()
    arguments = (*start(model, task), task)
    if not REPEATS.value:
        arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    print("steps  order remat  temporary memory   of first order")
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    result["setting"] = {flag.name: flag.value for flag in (FILTERS, IMAGE_SIZE, WAY, SHOT, QUERY)}
    result["memory"] = measure_memory(model, arguments)
    if UNROLLED_STEPS.value:
        print("\nunrolled             as written  of exact    as compiled  of exact")
        result["flops"] = count_flops(model, arguments)
    if OUTPUT.value:
        Path(OUTPUT.value).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
