"""Every few-shot algorithm on vectors, waves and images, by shapes; and a flow that fails at test."""

import functools

import jax
import jax.numpy as jnp
import pytest

from experiments import few_shot
from experiments.cli import parse
from experiments.errors import UsageError
from experiments.parts import Parts
from jmeta import registry
from jmeta.outer.episode import adapt_and_predict
from jmeta.types import Batch

SHAPES = {"features": (16,), "sinusoid": (1,), "glyphs": (28, 28, 1)}


@pytest.mark.parametrize("dataset", SHAPES)
@pytest.mark.parametrize("algorithm", few_shot.ALGORITHMS)
def test_an_algorithm_fits_the_data(algorithm, dataset):
    arguments = [f"--algorithm={algorithm}", f"--dataset={dataset}"]
    arguments += ["--filters=8"] if dataset == "glyphs" else []
    parts, regression = Parts(parse(few_shot.EXPERIMENT, ["few_shot", *arguments])), dataset == "sinusoid"
    if regression and algorithm in ("comln", "protonet", "r2d2"):
        with pytest.raises(UsageError, match=f"--algorithm={algorithm} is a classifier"):
            few_shot.describe_adapter(parts, algorithm, regression)
        return
    adapter = registry.build(few_shot.describe_adapter(parts, algorithm, regression))
    x = jnp.zeros((5, *SHAPES[dataset]), jnp.float32)
    support = Batch(x, jnp.zeros((5, 1), jnp.float32) if regression else jnp.arange(5, dtype=jnp.int32))
    if algorithm == "boil" and dataset == "features":  # there is nothing but a last layer
        with pytest.raises(ValueError, match="selects no parameter of head"):
            jax.eval_shape(adapter.init, jax.random.key(0), x)
        return
    meta, state = jax.eval_shape(adapter.init, jax.random.key(0), x)
    run = functools.partial(adapt_and_predict, adapter, train=True)
    outputs, *_ = jax.eval_shape(run, meta, state, support, x, jax.random.key(0))
    assert outputs.shape == ((5, 1) if regression else (5, 5))


@pytest.mark.slow
def test_a_flow_that_does_not_finish_at_test_names_task_and_seed(run_experiment, tiny, tmp_path):
    flags = ["--horizon=1e6", "--solver_steps=3", "--num_seeds=2", "--steps=0"]
    done = run_experiment("comln", *tiny, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 3, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert "flow_ok" in line and "task 0, seed 0" in line and "(horizon 1e+06)" in line
