"""MAML's relatives through the entry point: presets, parts of the outer loop, size of support sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from experiments import few_shot
from experiments.cli import parse
from experiments.parts import Parts
from experiments.presets import few_shot_gradient as papers
from jmeta import registry
from jmeta.outer.load import build_learner

PRESETS = papers.PRESETS | papers.QUOTED
# As the released codes have them, inner rates for the mean loss.
VALUES = {
    "boil_mini_imagenet_1shot": {"inner_lr": 0.5, "inner_steps": 1, "steps": 30000, "initialize": "pytorch"},
    "boil_mini_imagenet_5shot_resnet12": {"inner_lr": 0.3, "learning_rate": 0.0006,
                                          "backbone": "resnet12_boil"},
    "sparse_maml_table1_5shot_meta_sgd": {"lowest_rate": 0.005, "highest_rate": 0.1, "inner_steps": 1},
    "maml_pp_omniglot_20way_1shot": {"way": 20, "query": 1, "meta_batch": 8, "multi_step_epochs": 10,
                                     "clip_value": None},
    "maml_pp_mini_imagenet_5shot": {"filters": 48, "meta_batch": 2, "multi_step_epochs": 15,
                                    "clip_value": 10.0,
                                    "first_order_epochs": 0},
    "reptile_omniglot_20way_1shot_batch": {"inner_lr": 0.0005, "inner_steps": 10, "adapt_batch": 20,
                                           "test_adapt_batch": 10, "test_inner_steps": 50, "train_shot": 10,
                                           "linear_steps": 200000, "optimizer": "plain_sgd"},
    "reptile_mini_imagenet_5shot_support": {"inner_lr": 0.001, "inner_steps": 8, "train_shot": 15,
                                            "test_adapt_batch": 15, "norm": "support", "learning_rate": 1.0},
    "meta_curvature_omniglot_20way_5shot": {"inner_lr": 8.0, "inner_steps": 1, "meta_batch": 32,
                                            "pool": False},
    "mt_net_omniglot_20way_1shot": {"inner_lr": 2.0, "meta_batch": 16, "test_inner_steps": 10,
                                    "steps": 40000},
    "t_net_mini_imagenet_1shot": {"inner_lr": 0.05, "inner_steps": 5, "eval_tasks": 4000, "filters": 32},
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_describes_an_adapter(name):
    settings = parse(few_shot.EXPERIMENT, ["few_shot", f"--preset={name}"])
    expected = VALUES.get(name, {})
    assert settings.take(*expected) == expected
    registry.build(few_shot.describe_adapter(Parts(settings), settings.algorithm, False))


def describe(*flags):
    """The learner's spec of a tiny run."""
    parts = Parts(
        parse(few_shot.EXPERIMENT, ["few_shot", "--dataset=glyphs", "--filters=2", "--way=3", *flags])
    )
    algorithm = parts.settings.algorithm
    outer = few_shot.outer_parts(algorithm, loss=few_shot.loss(False), metrics={"name": "accuracy"})
    adapter = few_shot.describe_adapter(parts, algorithm, False)
    return parts, parts.learner(
        adapter, tx=few_shot.optimizer(parts), test_loss=few_shot.loss(False), **outer
    )


def test_an_algorithm_brings_its_outer_loop():
    """Its own loss and metrics around the usual ones, its gradient, plain SGD, a rate for its variances."""
    _, spec = describe("--algorithm=maml_pp", "--steps=3")
    assert spec["loss"] == {"name": "multi_step", "loss": {"name": "cross_entropy"}}
    assert spec["metrics"] == {"name": "of_last_step", "metrics": {"name": "accuracy"}}
    for name in ("reptile", "leap"):
        _, spec = describe(f"--algorithm={name}", "--linear_steps=10")
        assert spec["task_grad"] == {"name": name} and spec["loss"] == {"name": "cross_entropy"}
        assert spec["tx"]["name"] == "plain_sgd" and spec["tx"]["linear_steps"] == 10
    assert describe("--algorithm=shrinkage_reptile")[1]["task_grad"] == {"name": "sigma_reptile"}
    _, spec = describe("--algorithm=shrinkage")
    assert spec["tx"]["rule_tx"] == {"name": "adam", "learning_rate": 0.01}
    assert "task_grad" not in describe("--algorithm=maml")[1]


def test_reptile_trains_on_more_shots_than_it_is_tested_on():
    parts, spec = describe("--algorithm=reptile", "--train_shot=4", "--query=1", "--shot=2")
    samplers = parts.episodes(parts.dataset())
    shapes = {split: jax.eval_shape(sampler, jax.random.key(0)) for split, sampler in samplers.items()}
    counts = {split: task.support.y.shape for split, task in shapes.items()}
    assert counts == {"train": (12,), "validation": (6,), "test": (6,)}
    build_learner(spec)


def test_a_rate_falls_to_zero_in_a_straight_line():
    tx = jmeta.optimizer("sgd", 1.0, linear_steps=4, momentum=0.0)
    params = jnp.zeros(())
    state, moves = tx.init(params), []
    for _ in range(6):
        update, state = tx.update(jnp.ones(()), state, params)
        moves.append(float(update))
    np.testing.assert_allclose(moves, [-1, -0.75, -0.5, -0.25, 0, 0])
    with pytest.raises(ValueError, match="cosine_steps=4 and linear_steps=4; choose one schedule"):
        jmeta.optimizer(cosine_steps=4, linear_steps=4)
