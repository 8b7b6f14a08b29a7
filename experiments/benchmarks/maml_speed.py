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

import jax
import jax.numpy as jnp
import optax

import jmeta
from experiments import flags
from experiments.benchmarks import beside_torch
from experiments.benchmarks.beside_torch import Line, compare, jax_line, torch_line
from experiments.cli import launch
from experiments.flags import Flag
from experiments.settings import Experiment, Settings
from jmeta.types import Adapter, Batch, Task


def main(settings: Settings) -> int:
    """Measure, print, write."""
    if settings.devices:
        jax.config.update("jax_num_cpu_devices", settings.devices)
    image = (settings.image_size, settings.image_size, settings.channels)
    tasks = random_tasks(image, settings.meta_batch, settings.way, settings.shot, settings.query)
    adapter = jmeta.gradient_adapter(
        jmeta.conv4(filters=settings.filters, head=settings.way, weights="per_task"),
        jmeta.cross_entropy,
        jmeta.sgd(settings.inner_lr),
        settings.inner_steps,
        order=settings.order,
        remat=settings.remat,
    )
    lines = {"jmeta": meta_step_line(adapter, tasks, settings.chunk, settings.dispatch)}
    if settings.torch_python:
        script = Path(__file__).with_name("maml_speed_torch.py")
        lines["pytorch"] = torch_line(settings.torch_python, script, settings, settings.dispatch)
    count = settings.meta_batch * settings.dispatch
    return compare(lines, settings, rounds=settings.rounds, tasks=count, output=settings.output)


def random_tasks(image: tuple[int, int, int], meta_batch: int, way: int, shot: int, query: int) -> Task:
    """Draw a batch of tasks of random images."""

    def batch(key: jax.Array, count: int) -> Batch:
        x = jax.random.uniform(key, (meta_batch, way * count, *image))
        return Batch(x, jnp.tile(jnp.repeat(jnp.arange(way), count), (meta_batch, 1)))

    keys = jax.random.split(jax.random.key(0))
    return Task(batch(keys[0], shot), batch(keys[1], query))


def meta_step_line(adapter: Adapter, tasks: Task, chunk: int | None, dispatch: int) -> Line:
    """Compile `dispatch` meta-steps, over all devices if there are several, to be timed."""
    mesh = jmeta.task_mesh() if jax.device_count() > 1 else None
    learner = jmeta.learner(adapter, jmeta.cross_entropy, optax.adam(1e-3), mesh=mesh, chunk=chunk)
    state = learner.init(jax.random.key(0), tasks.support.x[0])
    if mesh is not None:
        over = jax.sharding.PartitionSpec
        tasks = jax.device_put(tasks, jax.NamedSharding(mesh, over("task")))
        state = jax.device_put(state, jax.NamedSharding(mesh, over()))
    return jax_line(lambda state, tasks: learner.step(state, tasks)[0], dispatch, state, tasks)


FLAGS = flags.pick(
    *"meta_batch way shot query filters image_size inner_steps inner_lr chunk".split(),
    defaults={"meta_batch": 4, "image_size": 28, "inner_lr": 0.1},
    helps={"filters": "channels of conv4", "image_size": "height and width of images"},
) | {
    "channels": Flag("integer", 1, "channels of an image", least=1),
    "order": Flag("enum", "exact", "how the second derivative is taken", ("exact", "mixed")),
    "remat": Flag("enum", "none", "what the reverse pass recomputes", ("none", "step")),
    "devices": Flag("integer", None, "virtual CPU devices to shard the tasks over", least=1),
    **beside_torch.FLAGS,
}
EXPERIMENT = Experiment("benchmarks.maml_speed", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
