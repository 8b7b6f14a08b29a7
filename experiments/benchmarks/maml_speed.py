"""Speed of exact second-order MAML: jmeta's meta-step, and PyTorch's beside it in the same run.

    python -m experiments.benchmarks.maml_speed --torch_python=/path/to/python --output=maml_speed.json

Conv-4, batch statistics, Adam outside, random images. jmeta runs as an experiment runs it, `--dispatch`
meta-steps in one compiled program; PyTorch loops over the tasks of a meta-step with
torch.func.functional_call, in a process of its own (`--torch_python`, which needs no jmeta). The two take
turns. The table has the median and the best of the rounds; the ratio is the median of the rounds' ratios,
since other work on the machine may slow both down.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from experiments.benchmarks import beside_torch
from experiments.benchmarks.beside_torch import Line, compare, torch_line
from experiments.common import Experiment, Flag, launch, shared


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

    state = maml.init(jax.random.key(0), tasks.support.x[0])
    if mesh is not None:
        over = jax.sharding.PartitionSpec
        tasks = jax.device_put(tasks, jax.NamedSharding(mesh, over("task")))
        state = jax.device_put(state, jax.NamedSharding(mesh, over()))
    return beside_torch.jmeta_line(lambda state, tasks: maml.step(state, tasks)[0], settings, state, tasks)


def run(settings: SimpleNamespace) -> int:
    """Measure, print, write."""
    lines = {"jmeta": jmeta_line(settings)}
    if settings.torch_python:
        lines["pytorch"] = torch_line(settings, Path(__file__).with_name("maml_speed_torch.py"))
    return compare(settings, lines)


_NAMES = "meta_batch way shot query filters image_size".split()
FLAGS = shared(*_NAMES, meta_batch=4, shot=1, image_size=28) | {
    "channels": Flag("integer", 1, "channels of an image"),
    "inner_steps": Flag("integer", 5, "inner steps"),
    "inner_lr": Flag("float", 0.1, "inner learning rate"),
    "order": Flag("enum", "exact", "how the second derivative is taken", ("exact", "mixed")),
    "remat": Flag("enum", "none", "what the reverse pass computes again", ("none", "step")),
    "chunk": Flag("integer", None, "play so many tasks at a time; all at once if not given"),
    "devices": Flag("integer", None, "virtual CPU devices to shard the tasks over"),
}
FLAGS |= beside_torch.FLAGS
EXPERIMENT = Experiment("benchmarks.maml_speed", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
