"""Speed of a CL+LSTM training step: jmeta's, and PyTorch's beside it in the same run.

    python -m experiments.benchmarks.cl_lstm_speed --torch_python=/path/to/python [--filters=16]

Streams of 5 classes with 10 examples each of random images; sum of the steps' cross-entropies;
backpropagation through all of them; Adam. Both play the tasks of a batch together, or --chunk at a time. The
two take turns; the ratio is the median of the rounds' ratios. Prints the compiled peak memory, and with
--memory that without and with rematerialisation, beside the arithmetic of one step, analytic and as compiled.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.benchmarks import adaptation_cost, beside_torch
from experiments.benchmarks.beside_torch import Line, compare, torch_line
from experiments.common import Experiment, Flag, launch, shared, usage_errors


def learner_and_streams(settings: SimpleNamespace, remat_every: int | None) -> tuple[Any, Any]:
    """The learner, and a batch of random streams."""
    import jax
    import jax.numpy as jnp
    import optax

    import jmeta
    from jmeta.data.online_streams import delayed

    memory = jmeta.cl_lstm(settings.way, filters=settings.filters, hidden=settings.hidden)
    made = jmeta.learner(memory, None, optax.adam(1e-3), chunk=settings.chunk, remat_every=remat_every)
    time_steps, size = settings.way * settings.presentations, settings.image_size
    shape = (settings.meta_batch, time_steps, size, size, settings.channels)
    x = jax.random.uniform(jax.random.key(0), shape)
    y = jnp.tile(jnp.arange(settings.way), (settings.meta_batch, settings.presentations))
    return made, jmeta.Stream(x, y, jax.vmap(lambda y: delayed(y, 1))(y))


def jmeta_line(settings: SimpleNamespace) -> Line:
    """A function that takes `dispatch` steps and returns their seconds, and facts about the program."""
    import jax

    made, streams = learner_and_streams(settings, settings.remat_every)
    state = jax.jit(made.init)(jax.random.key(0), streams.x[0])

    return beside_torch.jmeta_line(lambda state, tasks: made.step(state, tasks)[0], settings, state, streams)


def peak_memory(settings: SimpleNamespace) -> None:
    """Compiled temporaries of a training step, by the steps between the states that are kept."""
    import jax

    for remat_every in (None, 1, 5, 7, 10):
        made, streams = learner_and_streams(settings, remat_every)
        state = jax.eval_shape(made.init, jax.random.key(0), streams.x[0])
        compiled = jax.jit(made.step).lower(state, streams).compile()
        print(f"remat_every={remat_every}: {compiled.memory_analysis().temp_size_in_bytes / 2**20:.0f} MiB")


def run(settings: SimpleNamespace) -> int:
    """Measure, print, write."""
    with usage_errors():
        print(arithmetic(settings))
        if settings.memory:
            peak_memory(settings)
        lines = {"jmeta": jmeta_line(settings)}
    if settings.torch_python:
        lines["pytorch"] = torch_line(settings, Path(__file__).with_name("cl_lstm_speed_torch.py"))
    return compare(settings, lines)


def arithmetic(settings: SimpleNamespace) -> str:
    """What one step costs, in words."""
    from jmeta.adapters.from_memory import from_memory
    from jmeta.memory.cl_lstm import cl_lstm
    from jmeta.memory.cost import cl_lstm_flops

    image = (settings.image_size, settings.image_size, settings.channels)
    sizes = {"filters": settings.filters, "hidden": settings.hidden}
    counted = cl_lstm_flops(image, settings.way, **sizes) / 1e9
    compiled = adaptation_cost.compiled_flops(from_memory(cl_lstm(settings.way, **sizes)), image) / 1e9
    return f"one adaptation step: {counted:.3g} GFLOPs, counted analytically; {compiled:.3g} as compiled"


FLAGS = shared("meta_batch", "chunk", "way", "filters", "image_size", meta_batch=2, image_size=28) | {
    "channels": Flag("integer", 1, "channels of an image"),
    "presentations": Flag("integer", 10, "examples of a class in a stream"),
    "hidden": Flag("integer", 256, "size of the LSTM"),
    "remat_every": Flag("integer", None, "steps between the states that backpropagation keeps [all kept]"),
    "memory": Flag("boolean", False, "print the peak memory by --remat_every too"),
}
FLAGS |= beside_torch.FLAGS | {"dispatch": Flag("integer", 1, "training steps in one dispatch")}

EXPERIMENT = Experiment("benchmarks.cl_lstm_speed", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
