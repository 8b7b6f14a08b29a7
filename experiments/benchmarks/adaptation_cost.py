"""The arithmetic of adapting to a stream, beside that of Babu et al. (NeurIPS 2021, section 4.3).

GFLOPs of convolutions and products, two for a multiply-add, for one 28x28 image: of a forward pass, and of a
step of adaptation as jmeta takes it (no backward pass if nothing adapts) and as the paper counts it (three
forward passes for all that learns by gradients). Beside these analytic counts stands XLA's of the compiled
program of such a step: it counts elementwise operations too, and of padded convolutions only the products
with the image; on a CPU convolutions are matrix products, and the products with the zeros count as well.

python -m experiments.benchmarks.adaptation_cost [--slots=20] [--samples=100]
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

import jmeta
from experiments import flags
from experiments.benchmarks.timing import OUTPUT
from experiments.cli import launch
from experiments.flags import Flag
from experiments.settings import Experiment, Settings
from experiments.workdir import write_json
from jmeta.report.flops import Cost, anml_cost, cl_lstm_flops, conv_encoder_flops, oml_cost
from jmeta.types import Adapter, PyTree, Stream

IMAGE = (28, 28, 1)

# The paper's GFLOPs of a forward pass and of adapting to one sample.
PAPER = {"cl_lstm": (0.40, 0.40), "cnn": (0.30, 0.9), "oml": (1.46, 4.38), "anml": (None, None)}


def main(settings: Settings) -> int:
    """Print the table, a line for each model."""
    table = rows(settings.slots)
    columns = list(next(iter(table.values())))
    print(f"{'GFLOPs':<10}" + "".join(f"{name:>22}" for name in columns) + f"{'stream':>10}")
    for name, row in table.items():
        cells = "".join(f"{'-' if value is None else f'{value:.3f}':>22}" for value in row.values())
        print(f"{name:<10}{cells}{settings.samples * row['adaptation']:>10.1f}")
    if settings.output:
        write_json(Path(settings.output), {"slots": settings.slots, "rows": table})
    return 0


def rows(slots: int) -> dict[str, dict[str, float | None]]:
    """Count GFLOPs by model: "forward", "adaptation", "compiled_adaptation", "adaptation_as_paper", and the
    paper's own counts."""
    step, cnn = cl_lstm_flops(IMAGE, slots), conv_encoder_flops(IMAGE, filters=256)
    costs = {
        "cl_lstm": Cost(step, step),
        "cnn": Cost(cnn, 3 * cnn),
        "oml": oml_cost(IMAGE, slots),
        "anml": anml_cost(IMAGE, slots),
    }
    adapters = paper_adapters(slots)
    return {
        name: {
            "forward": cost.forward / 1e9,
            "adaptation": cost.adaptation / 1e9,
            "compiled_adaptation": compiled_flops(adapters[name], IMAGE) / 1e9,
            "adaptation_as_paper": cost.forward / 1e9 * (1 if name == "cl_lstm" else 3),
            "paper_forward": PAPER[name][0],
            "paper_adaptation": PAPER[name][1],
        }
        for name, cost in costs.items()
    }


def paper_adapters(slots: int) -> dict[str, Adapter]:
    """Make the models at the paper's sizes, as adapters to a stream."""
    cnn = jmeta.conv_encoder(filters=256, groups=None, head=slots)
    return {
        "cl_lstm": jmeta.from_memory(jmeta.cl_lstm(slots)),
        "cnn": jmeta.gradient_adapter(cnn, jmeta.cross_entropy, jmeta.sgd(0.1), None, order="first"),
        "oml": jmeta.oml(slots, jmeta.sgd(0.03), order="first"),
        "anml": jmeta.anml(slots, jmeta.sgd(0.1), order="first"),
    }


def compiled_flops(adapter: Adapter, image: tuple[int, int, int]) -> float:
    """Return XLA's count for the compiled program that adapts to one image of this shape."""
    x, y = jnp.zeros((1, *image), jnp.float32), jnp.zeros(1, jnp.int32)
    meta, state = jax.eval_shape(adapter.init, jax.random.key(0), x)

    def adapt(meta: PyTree, state: PyTree, stream: Stream) -> PyTree:
        z, state = adapter.encode(meta, state, stream.x, train=True)
        return adapter.adapt(meta, state, stream._replace(x=z), jax.random.key(0), train=True)[0]

    cost = jax.jit(adapt).lower(meta, state, Stream(x, y, y)).compile().cost_analysis()
    return cost["flops"]


FLAGS = flags.pick("slots", helps={"slots": "labels; the paper's 0.40 for cl_lstm follows from 5"}) | {
    "samples": Flag("integer", 100, "examples of the stream in the last column", least=1),
    **OUTPUT,
}
EXPERIMENT = Experiment("benchmarks.adaptation_cost", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
