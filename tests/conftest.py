"""Strict numerics for the whole suite: float64 available, rank promotion and warnings are errors."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
