"""Settings and models that continual learners refuse."""

import jax
import jax.numpy as jnp
import pytest
from observing import build_online


def test_settings_out_of_range_are_refused_by_name(model):
    with pytest.raises(ValueError, match="no online learner is called 'lamaml'; expected one of la_maml"):
        build_online("lamaml", model)
    with pytest.raises(ValueError, match="la_maml: glances=0; expected a positive number"):
        build_online("la_maml", model, glances=0)
    for name, setting in {
        "la_maml": "initial_rate", "la_maml_sync": "learning_rate", "sparse_la_maml": "rate",
        "replay_maml": "inner_rate",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"{setting}=-1; expected a positive number"):
            build_online(name, model, **{setting: -1})
    with pytest.raises(ValueError, match="meta_loss='first'; expected one of mean, last"):
        build_online("la_maml", model, meta_loss="first")
    with pytest.raises(ValueError, match="reservoir: capacity=0|capacity=0; expected a positive"):
        build_online("er", model, capacity=0)
    counting = model._replace(init=lambda key, x: ({}, {"mean": jnp.zeros(1)}))
    with pytest.raises(ValueError, match="models without state"):
        build_online("sgd", counting).init(jax.random.key(0), jnp.zeros((2, 6)))
