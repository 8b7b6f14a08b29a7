"""A tiny training run, for the tests of the outer loop: in process, or as a program that can be killed.

Linear regression tasks, adapted to by one gradient step from a learned start with a learned rate.
"""

import argparse
import contextlib
import sys
import time

import jax
import jax.numpy as jnp
import optax

from jmeta.losses import mean_squared_error
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.cluster import leave_cluster, start_distributed, wait_for_cause
from jmeta.outer.evaluate import evaluate
from jmeta.outer.learner import learner as make_learner
from jmeta.outer.loop import Plan, fit
from jmeta.outer.mesh import replicate, task_mesh
from jmeta.outer.metrics_log import MetricsLog
from jmeta.types import Adapter, Batch, Task

META_BATCH = 6  # does not divide over 4 devices


def quiet(line, steps):
    pass


def draw(noise, key):
    """Points of a random plane (`noise` [3, 1] is how random), 8 points to adapt on and 8 to judge by."""
    key_w, key_x = jax.random.split(key)
    x = jax.random.uniform(key_x, (16, 3), jnp.float32, -1, 1)
    y = x @ (1 + noise * jax.random.uniform(key_w, (3, 1), jnp.float32))
    return Task(Batch(x[:8], y[:8]), Batch(x[8:], y[8:]))


def sampler():
    return jax.tree_util.Partial(draw, jnp.full((3, 1), 0.5, jnp.float32))


def make(mesh=None):
    """The learner; its model state averages the inner losses."""

    def init(key, x):
        meta = {"w": jax.random.uniform(key, (3, 1), jnp.float32), "log_rate": jnp.float32(-2)}
        return meta, {"average": jnp.float32(0)}

    def adapt(meta, state, support, key, *, train):
        error, grad = jax.value_and_grad(lambda w: mean_squared_error(support.x @ w, support))(meta["w"])
        rate = jnp.exp(meta["log_rate"])
        state = {"average": 0.9 * state["average"] + 0.1 * jax.lax.stop_gradient(error)}
        return meta["w"] - rate * grad, state, {"horizon": rate, "flow_ok": error < 1e6}

    def predict(meta, fast, state, x, key, *, train, mask):
        return x @ fast, state

    return make_learner(Adapter(init, adapt, predict), mean_squared_error, optax.adam(0.01), mesh=mesh)


def start(learner, seed=0):
    return learner.init(jax.random.key(seed), jnp.zeros((1, 3), jnp.float32))


def validation(learner, num_tasks=8):
    def validate(state):
        values = evaluate(learner, state, sampler(), num_tasks=num_tasks, key=jax.random.key(9))
        return {name: float(value.mean()) for name, value in values.items()}

    return validate


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--log_every", type=int, default=1)
    parser.add_argument("--checkpoint_every", type=int, default=10)
    parser.add_argument("--eval_every", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of rest at each line of the log")
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--fail_in", type=int, help="a process that fails at the second line of its log")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds to wait for other processes")
    return parser.parse_args()


@wait_for_cause()
def main():
    flags = parse()
    if flags.distributed:
        start_distributed(patience=flags.patience)
    mesh = task_mesh()
    learner = make(mesh)
    state = replicate(start(learner), mesh)

    def rest(line, steps):
        print(line["split"], line["step"], file=sys.stderr, flush=True)
        if flags.fail_in == jax.process_index() and line["step"] > 1:
            raise OSError("this process fails")
        time.sleep(flags.pause)

    plan = Plan(
        flags.steps,
        META_BATCH,
        flags.log_every,
        flags.eval_every,
        flags.checkpoint_every,
        dispatch_seconds=0.01,
    )
    with (
        contextlib.closing(Checkpoints(f"{flags.workdir}/checkpoints", {"seed": 0})) as checkpoints,
        contextlib.closing(MetricsLog(flags.workdir)) as log,
    ):
        outcome = fit(
            learner,
            sampler(),
            state,
            plan,
            key=jax.random.key(1),
            validate=validation(learner),
            select=("loss", "min"),
            checkpoints=checkpoints,
            log=log,
            report=rest,
            mesh=mesh,
        )
    print(f"{outcome.reason} at step {outcome.step}")
    return 128 + outcome.signal if outcome.reason == "signal" else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    leave_cluster(status)
    sys.exit(status)
