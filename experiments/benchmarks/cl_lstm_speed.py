"""Speed of a CL+LSTM training step: jmeta's, and PyTorch's beside it in the same run.

    python -m experiments.benchmarks.cl_lstm_speed --torch_python=/path/to/python [--filters=16]

Streams of 5 classes with 10 examples each of random images; sum of the steps' cross-entropies;
backpropagation through all of them; Adam. Both take the tasks of a batch together, or --chunk at a time. The
two take turns; the ratio is the median of the rounds' ratios. Prints the compiled peak memory, and with
--memory that without and with rematerialization, beside the arithmetic of one step, analytic and as compiled.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import jmeta
from experiments import flags
from experiments.benchmarks import beside_torch
from experiments.benchmarks.adaptation_cost import compiled_flops
from experiments.benchmarks.beside_torch import Line, compare, jax_line, torch_line
from experiments.cli import launch
from experiments.errors import usage_errors
from experiments.flags import Flag
from experiments.settings import Experiment, Settings
from jmeta.data.streams.delayed import delayed
from jmeta.report.flops import cl_lstm_flops
from jmeta.types import Learner, Memory, Stream


def main(settings: Settings) -> int:
    """Measure, print, write."""
    image = (settings.image_size, settings.image_size, settings.channels)
    sizes = settings.take("filters", "hidden")
    with usage_errors():
        print(arithmetic(image, settings.way, **sizes))
        memory = jmeta.cl_lstm(settings.way, **sizes)
        streams = random_streams(image, settings.meta_batch, settings.way, settings.presentations)
        if settings.memory:
            for remat_every in (None, 1, 5, 7, 10):
                mebibytes = peak_memory(make_learner(memory, settings.chunk, remat_every), streams)
                print(f"remat_every={remat_every}: {mebibytes:.0f} MiB")
        learner = make_learner(memory, settings.chunk, settings.remat_every)
        lines = {"jmeta": training_line(learner, streams, settings.dispatch)}
    if settings.torch_python:
        script = Path(__file__).with_name("cl_lstm_speed_torch.py")
        lines["pytorch"] = torch_line(settings.torch_python, script, settings, settings.dispatch)
    tasks = settings.meta_batch * settings.dispatch
    return compare(lines, settings, rounds=settings.rounds, tasks=tasks, output=settings.output)


def random_streams(image: tuple[int, int, int], meta_batch: int, way: int, presentations: int) -> Stream:
    """Draw a batch of streams of random images, whose labels arrive one step later."""
    x = jax.random.uniform(jax.random.key(0), (meta_batch, way * presentations, *image))
    y = jnp.tile(jnp.arange(way), (meta_batch, presentations))
    return Stream(x, y, jax.vmap(lambda y: delayed(y, 1))(y))


def make_learner(memory: Memory, chunk: int | None, remat_every: int | None) -> Learner:
    """Make the learner around a memory."""
    return jmeta.learner(memory, None, optax.adam(1e-3), chunk=chunk, remat_every=remat_every)


def training_line(learner: Learner, streams: Stream, dispatch: int) -> Line:
    """Compile `dispatch` training steps, to be timed."""
    state = jax.jit(learner.init)(jax.random.key(0), streams.x[0])
    return jax_line(lambda state, tasks: learner.step(state, tasks)[0], dispatch, state, streams)


def peak_memory(learner: Learner, streams: Stream) -> float:
    """Return the MiB that a compiled training step needs beside its inputs and outputs."""
    state = jax.eval_shape(learner.init, jax.random.key(0), streams.x[0])
    compiled = jax.jit(learner.step).lower(state, streams).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def arithmetic(image: tuple[int, int, int], way: int, *, filters: int, hidden: int) -> str:
    """Write the cost of one step in words."""
    sizes = {"filters": filters, "hidden": hidden}
    gigaflops = cl_lstm_flops(image, way, **sizes) / 1e9
    compiled = compiled_flops(jmeta.from_memory(jmeta.cl_lstm(way, **sizes)), image) / 1e9
    return f"one adaptation step: {gigaflops:.3g} GFLOPs, counted analytically; {compiled:.3g} as compiled"


FLAGS = flags.pick(
    "meta_batch", "chunk", "way", "filters", "image_size", "presentations", "hidden", "remat_every",
    defaults={"meta_batch": 2, "image_size": 28, "hidden": 256},
    helps={"filters": "channels of a layer", "image_size": "height and width of images",
           "hidden": "size of the LSTM"},
)  # fmt: skip
FLAGS |= {
    "channels": Flag("integer", 1, "channels of an image", least=1),
    "memory": Flag("boolean", False, "print the peak memory by --remat_every too"),
    **beside_torch.FLAGS,
    "dispatch": Flag("integer", 1, "training steps in one dispatch", least=1),
}
EXPERIMENT = Experiment("benchmarks.cl_lstm_speed", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
