"""The arithmetic of adapting to a stream, beside what Babu et al. (NeurIPS 2021, section 4.3) say of theirs.

GFLOPs of convolutions and products, two for a multiply-add, for one 28x28 image: of a forward pass, and of a
step of adaptation as jmeta takes it (no backward pass where nothing adapts) and as the paper counts it (three
forward passes for whatever learns by gradients).

python -m experiments.benchmarks.adaptation_cost [--slots=20] [--samples=100]
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from experiments.common import Experiment, Flag, launch, write_json

# The paper's GFLOPs of a forward pass and of adapting to one sample.
PAPER = {"cl_lstm": (0.40, 0.40), "cnn": (0.30, 0.9), "oml": (1.46, 4.38), "anml": (None, None)}


def rows(slots: int) -> dict[str, dict[str, float | None]]:
    """By model, GFLOPs: "forward", "adaptation", "adaptation_as_paper"; and what the paper says."""
    from jmeta.memory.cost import Cost, anml_cost, cl_lstm_flops, conv_encoder_flops, oml_cost

    image = (28, 28, 1)
    step, cnn = cl_lstm_flops(image, slots), conv_encoder_flops(image, filters=256)
    costs = {
        "cl_lstm": Cost(step, step),
        "cnn": Cost(cnn, 3 * cnn),
        "oml": oml_cost(image, slots),
        "anml": anml_cost(image, slots),
    }
    return {
        name: {
            "forward": cost.forward / 1e9,
            "adaptation": cost.adaptation / 1e9,
            "adaptation_as_paper": cost.forward / 1e9 * (1 if name == "cl_lstm" else 3),
            "paper_forward": PAPER[name][0],
            "paper_adaptation": PAPER[name][1],
        }
        for name, cost in costs.items()
    }


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

if __name__ == "__main__":
    launch(Experiment("benchmarks.adaptation_cost", __doc__ or "", FLAGS, {}, run))
