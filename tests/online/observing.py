"""Continual learners by name, and their states along a stream."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta.online.reservoir import add_to_reservoir, draw_from_reservoir
from jmeta.registry import build
from jmeta.types import Batch, Context

draw = jax.jit(draw_from_reservoir, static_argnums=1)
add_to = jax.jit(add_to_reservoir)
permuted = jax.jit(jax.random.permutation, static_argnums=1)
split = jax.jit(jax.random.split, static_argnums=1)
fold_in = jax.jit(jax.random.fold_in)


def build_online(name, model, **settings):
    return build({"name": name, **settings}, "online", model=model, loss=jmeta.cross_entropy)


def observe_all(learner, stream, key, *, first_pass=None):
    """States before and after each step."""
    x, y = (jnp.asarray(part) for part in stream)
    states = [learner.init(jax.random.key(7), x[0])]
    observe = jax.jit(learner.observe)
    for step in range(len(x)):
        context = Context(
            jnp.asarray(step // 3, jnp.int32), jnp.asarray(True if first_pass is None else first_pass[step])
        )
        state, info = observe(states[-1], Batch(x[step], y[step]), fold_in(key, step), context=context)
        states.append(state)
        assert np.isfinite(info["loss"])
    return states


def real(batch):
    """The examples of a batch that are not masked."""
    unmasked = np.asarray(batch.mask) > 0
    return np.asarray(batch.x)[unmasked], np.asarray(batch.y)[unmasked]
