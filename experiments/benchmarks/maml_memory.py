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
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from experiments.common import Experiment, Flag, launch, shared, write_json

if TYPE_CHECKING:
    import jmeta

WAYS = (("first", "step"), ("exact", "none"), ("exact", "step"), ("mixed", "none"))
MIB = 2**20


def setting(settings: SimpleNamespace) -> tuple[jmeta.Model, jmeta.Task]:
    """The network and a task of zeros."""
    import jax.numpy as jnp

    import jmeta

    def batch(count: int) -> jmeta.Batch:
        y = jnp.arange(settings.way * count, dtype=jnp.int32) % settings.way
        return jmeta.Batch(jnp.zeros((y.size, settings.image_size, settings.image_size, 3)), y)

    model = jmeta.conv4(filters=settings.filters, head=settings.way, weights="per_task")
    return model, jmeta.Task(batch(settings.shot), batch(settings.query))


def looped(model: jmeta.Model, steps: int, order: str, remat: str) -> Callable[..., Any]:
    """The meta-gradient as training compiles it: `(meta, state, task) -> gradient`."""
    import jax

    import jmeta

    adapter = jmeta.gradient_adapter(
        model, jmeta.cross_entropy, jmeta.sgd(0.01), steps, order=order, remat=remat
    )

    def query_loss(meta: Any, state: Any, task: jmeta.Task) -> Any:
        fast, state, _ = adapter.adapt(meta, state, task.support, None, train=True)
        outputs, _ = adapter.predict(meta, fast, state, task.query.x, None, train=True)
        return jmeta.cross_entropy(outputs, task.query)

    return jax.grad(query_loss)


def unrolled(model: jmeta.Model, steps: int, order: str, remat: str) -> Callable[..., Any]:
    """The same as a chain of loops of one step each, in which the compiler sees every step."""
    import jax

    import jmeta

    def loss(params: Any, state: Any, batch: jmeta.Batch) -> Any:
        return jmeta.cross_entropy(model.apply(params, state, batch.x, train=True)[0], batch)

    def query_loss(meta: Any, state: Any, task: jmeta.Task) -> Any:
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
    import jax

    params, state = model.init(jax.random.key(0), task.support.x)
    return {"params": params, "rule": ()}, state


def median_seconds(programs: dict[tuple, Any], arguments: tuple, repeats: int) -> dict[tuple, float]:
    """Median time of each compiled program, run in turn so that a busy machine slows all alike."""
    import jax

    seconds: dict[tuple, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def measure_memory(model: jmeta.Model, arguments: tuple, settings: SimpleNamespace) -> list[dict[str, Any]]:
    """Print and return the temporary memory of the looped programs."""
    import jax

    rows = []
    for steps in map(int, settings.inner_step_counts.split(",")):
        ways = [w for w in WAYS if w != ("exact", "none") or steps <= settings.keep_up_to]
        programs = {way: jax.jit(looped(model, steps, *way)).lower(*arguments).compile() for way in ways}
        seconds = median_seconds(programs, arguments, settings.repeats) if settings.repeats else {}
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


def count_flops(model: jmeta.Model, arguments: tuple, settings: SimpleNamespace) -> list[dict[str, Any]]:
    """Print and return the FLOPs of the unrolled programs."""
    import jax

    rows: list[dict[str, Any]] = []
    for way in WAYS[1:]:
        lowered = jax.jit(unrolled(model, settings.unrolled_steps, *way)).lower(*arguments)
        written, compiled = (stage.cost_analysis()["flops"] / 1e9 for stage in (lowered, lowered.compile()))
        row = {"order": way[0], "remat": way[1], "as_written_gflop": written, "as_compiled_gflop": compiled}
        rows.append(row)
        ratios = [row[name] / rows[0][name] for name in ("as_written_gflop", "as_compiled_gflop")]
        print(
            f"{settings.unrolled_steps:5d}  {way[0]:6}{way[1]:5}{written:9.2f} GFLOP {ratios[0]:6.3f}"
            f"{compiled:9.2f} GFLOP {ratios[1]:6.3f}",
            flush=True,
        )
    return rows


def run(settings: SimpleNamespace) -> int:
    """Measure, print, write."""
    import jax

    model, task = setting(settings)
    arguments = (*start(model, task), task)
    if not settings.repeats:
        arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    print("steps  order remat  temporary memory   of first order")
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    result["setting"] = vars(settings)
    result["memory"] = measure_memory(model, arguments, settings)
    if settings.unrolled_steps:
        print("\nunrolled             as written  of exact    as compiled  of exact")
        result["flops"] = count_flops(model, arguments, settings)
    if settings.output:
        write_json(Path(settings.output), result)
    return 0


FLAGS = shared("filters", "image_size", "way", "shot", "query", filters=32, image_size=84, shot=5) | {
    "inner_step_counts": Flag("string", "1,5,10,50", "numbers of inner steps"),
    "keep_up_to": Flag("integer", 10, "most steps to keep all intermediates of (exact, none)"),
    "unrolled_steps": Flag("integer", 5, "steps of the unrolled program; 0 leaves it out"),
    "repeats": Flag("integer", 0, "runs of each program; 0 only compiles"),
    "output": Flag("string", None, "JSON file to write"),
}
EXPERIMENT = Experiment("benchmarks.maml_memory", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
