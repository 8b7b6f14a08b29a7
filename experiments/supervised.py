"""Ordinary image classification by networks whose convolutions are ConvLSTM cells, beside the plain networks.

Babu, Savarese & Maire, Online Meta-Learning via Learning with Layer-Distributed Memory, NeurIPS 2021, section
4.5 and Table 5: VGG-11 and ResNet-20 on CIFAR-10 and CIFAR-100, with every width times --shrink. The accuracy
is that of the whole test set.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from experiments.common import Experiment, Flag, UsageError, launch, shared

if TYPE_CHECKING:
    from experiments.run import Composition
    from jmeta.data.class_dataset import ClassDataset

ALGORITHMS = ("vgg11", "cl_vgg11", "resnet20", "cl_resnet20")
PAPER_NAMES = {"vgg11": "VGG-11", "cl_vgg11": "CL-VGG-11", "resnet20": "ResNet-20",
               "cl_resnet20": "CL-ResNet-20"}  # fmt: skip
# Mean and deviation of the training images' channels.
CHANNELS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
TEST_BATCH = 100


def _presets() -> dict[str, dict[str, Any]]:
    """Every row of Table 5."""
    presets = {}
    for dataset in CHANNELS:
        for algorithm in ALGORITHMS:
            row = {"algorithm": algorithm, "dataset": dataset,
                   "learning_rate": 0.05 if "vgg" in algorithm else 0.1}  # fmt: skip
            if algorithm.startswith("cl_"):
                for shrink in (0.5, 0.35):
                    presets[f"table5_{dataset}_{algorithm}_{shrink}"] = row | {"shrink": shrink}
            else:
                presets[f"table5_{dataset}_{algorithm}"] = row
    return presets


FLAGS = (
    {
        "algorithm": Flag("enum", "cl_resnet20", "the network", ALGORITHMS),
        "dataset": Flag("enum", "cifar100", "the images", tuple(CHANNELS)),
    }
    | shared("data_dir", "download")
    | {
        "shrink": Flag("float", None, "what the plain network's widths are multiplied with [0.5 of cl_*; 1]"),
        "batch": Flag("integer", 128, "images of a step"),
        "augment": Flag("enum", "crop_flip", "augmentation of training images", ("none", "crop_flip")),
        "held_out": Flag("integer", 0, "training images kept back to validate with, the last of each class"),
        "cosine_steps": Flag("integer", 78200, "steps in which the learning rate falls to 0, 0 for never"),
    }
    | shared("learning_rate", "weight_decay", "label_smoothing", weight_decay=5e-4)
    | shared("steps", "eval_every", "checkpoint_every", steps=78200, eval_every=0, checkpoint_every=1000)
    | shared("log_every", "max_minutes", "seed", "init_from", "eval_only")
    | shared("workdir", "preset", "distributed", "precision")
)
FLAGS["steps"] = FLAGS["steps"]._replace(help="steps; 391 are an epoch of 128 images each")
FLAGS["eval_every"] = FLAGS["eval_every"]._replace(help="steps between validations, 0 for none")


def stray(settings: SimpleNamespace) -> dict[str, str]:
    """Flags that mean nothing beside the others, and why."""
    training = ("batch", "augment", "cosine_steps", "learning_rate", "weight_decay", "steps", "eval_every",
                "checkpoint_every", "log_every", "max_minutes", "held_out")  # fmt: skip
    return dict.fromkeys(training, "--eval_only trains nothing") if settings.eval_only else {}


def widths(algorithm: str, shrink: float) -> list[int]:
    """The widths of a network times `shrink`, cut to integers: of ResNet each width, of VGG the first, which
    then doubles, as the parameter counts of Table 5 have it."""
    from jmeta.models import resnet20, vgg11

    if "resnet" in algorithm:
        return [int(width * shrink) for width in resnet20.WIDTHS]
    first = vgg11.WIDTHS[0]
    return [int(first * shrink) * (width // first) for width in vgg11.WIDTHS]


def model_recipe(settings: SimpleNamespace) -> dict[str, Any]:
    """Name and settings of the network, for `jmeta.models.catalog.build`."""
    recurrent = settings.algorithm.startswith("cl_")
    shrink = settings.shrink or (0.5 if recurrent else 1.0)
    return {
        "name": settings.algorithm.removeprefix("cl_"),
        "widths": widths(settings.algorithm, shrink),
        "recurrent": recurrent,
    }


def parts(images: ClassDataset, held_out: int) -> tuple[ClassDataset, ClassDataset | None]:
    """Training images without and with the `held_out` ones, the last of each class; none for 0.

    Raises UsageError where they do not divide over the classes, or all would be held out.
    """
    if not held_out:
        return images, None
    classes = len(images.counts)
    each = held_out // classes
    if held_out % classes or not 0 < each < images.counts.min():
        raise UsageError(
            f"--held_out={held_out}; expected a multiple of the {classes} classes, not all images"
        )
    kept = images._replace(counts=images.counts - each)
    return kept, images._replace(offsets=images.offsets + kept.counts, counts=0 * images.counts + each)


def compose(settings: SimpleNamespace) -> Composition:
    """The network, the batches and the optimiser from the flags."""
    import jax

    from experiments import tasks
    from experiments.run import Composition
    from jmeta.data.episodes import flat_batches, whole

    source = tasks.open_dataset(settings)
    mean, std = CHANNELS[settings.dataset]
    kept, held_out = parts(source.splits["train"], settings.held_out)
    if settings.eval_every and held_out is None:
        raise UsageError("--eval_every validates on --held_out images, and none are held out")
    settings.meta_batch = 1  # the batch is one task
    settings.eval_tasks = int(sum(source.splits["test"].counts)) // TEST_BATCH
    settings.validation_tasks = settings.held_out // TEST_BATCH
    recipe = {
        "adapter": {
            "name": "plain",
            "model": model_recipe(settings),
            "loss_name": "cross_entropy",
            "smoothing": settings.label_smoothing,
            "outputs": len(source.splits["test"].counts),
        },
        "optimiser": {
            "name": "sgd",
            "learning_rate": settings.learning_rate,
            "cosine_steps": settings.cosine_steps or None,
            "weight_decay": settings.weight_decay,
        },
        "chunk": jax.device_count(),  # of the test batches, to bound memory
        "input": {"shape": source.info.shape, "dtype": "float32", "mean": mean, "std": std},
    }
    return Composition(
        recipe=recipe,
        dataset=source,
        train=flat_batches(kept, size=settings.batch, transform=settings.augment),
        validation=None if held_out is None else whole(held_out, size=TEST_BATCH),
        test=whole(source.splits["test"], size=TEST_BATCH),
        published=published_row(settings),
    )


def published_row(settings: SimpleNamespace) -> dict[str, Any] | None:
    """The row of Table 5 for these settings, None for widths that are not in it."""
    from jmeta.report.published import row_for

    recurrent = model_recipe(settings)["recurrent"]
    if not recurrent and settings.shrink not in (None, 1.0):
        return None
    variant = f"{settings.shrink or 0.5}x" if recurrent else None
    return row_for(settings.dataset, PAPER_NAMES[settings.algorithm], variant=variant, paper="cl_lstm")


def run(settings: SimpleNamespace) -> int:
    """Train and test."""
    from experiments import run as skeleton

    if settings.shrink is not None and not settings.shrink * 16 >= 1:
        raise UsageError(f"--shrink={settings.shrink}; expected at least 0.0625, which leaves one channel")
    return skeleton.run("supervised", settings, compose)


EXPERIMENT = Experiment("supervised", __doc__ or "", FLAGS, _presets(), run, stray)

if __name__ == "__main__":
    launch(EXPERIMENT)
