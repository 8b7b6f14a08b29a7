"""Speed of exact second-order MAML: jmeta's meta-step, and PyTorch's beside it in the same run.

    python -m experiments.benchmarks.maml_speed --torch_python=/path/to/python --output=maml_speed.json

Conv-4, batch statistics, Adam outside, random images. jmeta runs as an experiment runs it, `--dispatch`
meta-steps in one compiled program; PyTorch loops over the tasks of a meta-step with
torch.func.functional_call, in a process of its own (`--torch_python`, which needs no jmeta). The two take
turns. The table has the median and the best of the rounds; the ratio is the median of the rounds' ratios,
since other work on the machine may slow both down.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.common import Experiment, Flag, UsageError, launch, shared, write_json

Line = tuple[Callable[[], float], dict[str, Any]]


def jmeta_line(settings: SimpleNamespace) -> Line:
    """A function that takes `dispatch` meta-steps and returns their seconds, and facts about the program."""
    import jax

    if settings.devices:
        jax.config.update("jax_num_cpu_devices", settings.devices)
    import jax.numpy as jnp
    import optax

    import jmeta

    def batch(key: jax.Array, shot: int) -> jmeta.Batch:
        tasks, way, size = settings.meta_batch, settings.way, settings.image_size
        x = jax.random.uniform(key, (tasks, way * shot, size, size, settings.channels))
        return jmeta.Batch(x, jnp.tile(jnp.repeat(jnp.arange(way), shot), (tasks, 1)))

    keys = jax.random.split(jax.random.key(0))
    tasks = jmeta.Task(batch(keys[0], settings.shot), batch(keys[1], settings.query))
    adapter = jmeta.gradient_adapter(
        jmeta.conv4(filters=settings.filters, head=settings.way, weights="per_task"),
        jmeta.cross_entropy,
        jmeta.sgd(settings.inner_lr),
        settings.inner_steps,
        order=settings.order,
        remat=settings.remat,
    )
    mesh = jmeta.task_mesh() if jax.device_count() > 1 else None
    maml = jmeta.learner(adapter, jmeta.cross_entropy, optax.adam(1e-3), mesh=mesh, chunk=settings.chunk)

    def dispatch(count: int, state: jmeta.LearnerState, tasks: jmeta.Task) -> jmeta.LearnerState:
        return jax.lax.fori_loop(0, count, lambda _, state: maml.step(state, tasks)[0], state)

    state = maml.init(jax.random.key(0), tasks.support.x[0])
    if mesh is not None:
        over = jax.sharding.PartitionSpec
        tasks = jax.device_put(tasks, jax.NamedSharding(mesh, over("task")))
        state = jax.device_put(state, jax.NamedSharding(mesh, over()))
    begin = time.perf_counter()
    program = jax.jit(dispatch).lower(settings.dispatch, state, tasks).compile()
    facts = {
        "version": jax.__version__,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "compile_seconds": time.perf_counter() - begin,
        "temporary_mib": program.memory_analysis().temp_size_in_bytes / 2**20,
    }

    def measure() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(program(settings.dispatch, state, tasks))
        return time.perf_counter() - begin

    return measure, facts


def torch_line(settings: SimpleNamespace) -> Line:
    """The same for PyTorch, in a process that waits between the rounds."""
    script = Path(__file__).with_name("maml_speed_torch.py")
    command = [settings.torch_python, str(script)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(line: str) -> str:
        assert process.stdin and process.stdout
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise UsageError(
                f"--torch_python={settings.torch_python} cannot run {script}; see the lines above"
            )
        return answer

    facts = {"version": ask(json.dumps(vars(settings))).strip()}
    return lambda: sum(float(ask("")) for _ in range(settings.dispatch)), facts


def run(settings: SimpleNamespace) -> int:
    """Measure, print, write."""
    lines = {"jmeta": jmeta_line(settings)}
    if settings.torch_python:
        lines["pytorch"] = torch_line(settings)
    for measure, _ in lines.values():  # the first round pays for allocations and is not counted
        measure()
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(settings.rounds):
        for name, (measure, _) in lines.items():
            seconds[name].append(measure())

    report: dict[str, Any] = {"setting": vars(settings), "lines": {}}
    for name, (_, facts) in lines.items():
        rates = [settings.meta_batch * settings.dispatch / s for s in seconds[name]]
        report["lines"][name] = {**facts, "tasks_per_second": rates}
        print(f"{name:8}{statistics.median(rates):6.2f} tasks/s, best {max(rates):.2f}  {facts}")
    if settings.torch_python:
        ratios = [theirs / ours for ours, theirs in zip(seconds["jmeta"], seconds["pytorch"])]
        report["ratio"] = statistics.median(ratios)
        print(f"jmeta / pytorch {report['ratio']:.2f} (rounds from {min(ratios):.2f} to {max(ratios):.2f})")
    if settings.output:
        write_json(Path(settings.output), report)
    return 0


_NAMES = "meta_batch way shot query filters image_size".split()
FLAGS = shared(*_NAMES, meta_batch=4, shot=1, image_size=28) | {
    "channels": Flag("integer", 1, "channels of an image"),
    "inner_steps": Flag("integer", 5, "inner steps"),
    "inner_lr": Flag("float", 0.1, "inner learning rate"),
    "order": Flag("enum", "exact", "how the second derivative is taken", ("exact", "mixed")),
    "remat": Flag("enum", "none", "what the reverse pass computes again", ("none", "step")),
    "chunk": Flag("integer", None, "play so many tasks at a time; all at once if not given"),
    "devices": Flag("integer", None, "virtual CPU devices to shard the tasks over"),
    "dispatch": Flag("integer", 4, "meta-steps in one dispatch"),
    "rounds": Flag("integer", 7, "rounds, each a dispatch of both"),
    "torch_python": Flag("string", None, "a Python interpreter with PyTorch; jmeta alone if not given"),
    "output": Flag("string", None, "JSON file to write"),
}
EXPERIMENT = Experiment("benchmarks.maml_speed", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
