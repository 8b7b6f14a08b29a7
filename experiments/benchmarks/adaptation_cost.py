"""The arithmetic of adapting to a stream, beside what Babu et al. (NeurIPS 2021, section 4.3) say of theirs.

GFLOPs of convolutions and products, two for a multiply-add, for one 28x28 image: of a forward pass, and of a
step of adaptation as jmeta takes it (no backward pass where nothing adapts) and as the paper counts it (three
forward passes for whatever learns by gradients). Beside these analytic counts what XLA counts in the compiled
program of such a step: elementwise operations too, and of padded convolutions only what meets the image; on a
CPU convolutions are matrix products, which meet the zeros outside as well.

python -m experiments.benchmarks.adaptation_cost [--slots=20] [--samples=100]
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from experiments.common import Experiment, Flag, launch, write_json

if TYPE_CHECKING:
    from jmeta.types import Adapter, PyTree

IMAGE = (28, 28, 1)

# The paper's GFLOPs of a forward pass and of adapting to one sample.
PAPER = {"cl_lstm": (0.40, 0.40), "cnn": (0.30, 0.9), "oml": (1.46, 4.38), "anml": (None, None)}


def rows(slots: int) -> dict[str, dict[str, float | None]]:
    """By model, GFLOPs: "forward", "adaptation", "compiled_adaptation", "adaptation_as_paper"; and what the
    paper says."""
    from jmeta.memory.cost import Cost, anml_cost, cl_lstm_flops, conv_encoder_flops, oml_cost

    step, cnn = cl_lstm_flops(IMAGE, slots), conv_encoder_flops(IMAGE, filters=256)
    costs = {
        "cl_lstm": Cost(step, step),
        "cnn": Cost(cnn, 3 * cnn),
        "oml": oml_cost(IMAGE, slots),
        "anml": anml_cost(IMAGE, slots),
    }
    models = learners(slots)
    return {
        name: {
            "forward": cost.forward / 1e9,
            "adaptation": cost.adaptation / 1e9,
            "compiled_adaptation": compiled_flops(models[name], IMAGE) / 1e9,
            "adaptation_as_paper": cost.forward / 1e9 * (1 if name == "cl_lstm" else 3),
            "paper_forward": PAPER[name][0],
            "paper_adaptation": PAPER[name][1],
        }
        for name, cost in costs.items()
    }


def learners(slots: int) -> dict[str, Adapter]:
    """The models at the paper's sizes, as what adapts to a stream."""
    from jmeta.adapters.anml import anml
    from jmeta.adapters.from_memory import from_memory
    from jmeta.adapters.gradient import gradient_adapter
    from jmeta.adapters.oml import oml
    from jmeta.losses import cross_entropy
    from jmeta.memory.cl_lstm import cl_lstm
    from jmeta.models.conv_encoder import conv_encoder
    from jmeta.rules.sgd import sgd

    cnn = conv_encoder(filters=256, groups=None, head=slots)
    return {
        "cl_lstm": from_memory(cl_lstm(slots)),
        "cnn": gradient_adapter(cnn, cross_entropy, sgd(0.1), None, order="first"),
        "oml": oml(slots, sgd(0.03), order="first"),
        "anml": anml(slots, sgd(0.1), order="first"),
    }


def compiled_flops(adapter: Adapter, image: tuple[int, int, int]) -> float:
    """What XLA counts in the compiled program that adapts to one example, an image of this shape."""
    import jax
    import jax.numpy as jnp

    from jmeta.types import Stream

    x, y = jnp.zeros((1, *image), jnp.float32), jnp.zeros(1, jnp.int32)
    meta, state = jax.eval_shape(adapter.init, jax.random.key(0), x)

    def adapt(meta: PyTree, state: PyTree, stream: Stream) -> PyTree:
        z, state = adapter.encode(meta, state, stream.x, train=True)
        return adapter.adapt(meta, state, stream._replace(x=z), jax.random.key(0), train=True)[0]

    cost = jax.jit(adapt).lower(meta, state, Stream(x, y, y)).compile().cost_analysis()
    return cost["flops"]


def run(settings: SimpleNamespace) -> int:
    """Print the table, a line for each model."""
    counted = rows(settings.slots)
    columns = list(next(iter(counted.values())))
    print(f"{'GFLOPs':<10}" + "".join(f"{name:>22}" for name in columns) + f"{'stream':>10}")
    for name, row in counted.items():
        shown = "".join(f"{'-' if value is None else f'{value:.3f}':>22}" for value in row.values())
        print(f"{name:<10}{shown}{settings.samples * row['adaptation']:>10.1f}")
    if settings.output:
        write_json(Path(settings.output), {"slots": settings.slots, "rows": counted})
    return 0


FLAGS = {
    "slots": Flag("integer", 20, "labels; the paper's 0.40 for cl_lstm follows from 5"),
    "samples": Flag("integer", 100, "examples of the stream in the last column"),
    "output": Flag("string", None, "JSON file to write"),
}

EXPERIMENT = Experiment("benchmarks.adaptation_cost", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
