import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, optimize

from jmeta.online.projection import nonnegative_quadratic, project, rows_of


def reference(matrix, linear):
    """The same minimum by Lawson and Hanson's non-negative least squares."""
    lower = linalg.cholesky(matrix, lower=True)
    return optimize.nnls(lower.T, linalg.solve_triangular(lower, -linear, lower=True))[0]


def problem(seed, size):
    random = np.random.default_rng(seed)
    rank = size if seed % 3 else max(size // 2, 1)  # every third is degenerate but for the ridge
    rows = random.normal(size=(size, rank)) * 10 ** random.uniform(-1, 1)
    if seed % 2:
        rows = rows + 3 * random.normal(size=(1, rank))  # alike, as gradients of alike tasks are
    return rows @ rows.T + 1e-3 * np.eye(size), rows @ random.normal(size=rank) * 3


@pytest.mark.parametrize("size", [1, 5, 20, 40])
def test_a_hundred_quadratic_programs_against_a_reference_solver(size):
    problems = [problem(100 * size + seed, size) for seed in range(25)]
    matrices, linears = (jnp.asarray(np.stack(part)) for part in zip(*problems))
    ours = np.asarray(jax.jit(jax.vmap(nonnegative_quadratic))(matrices, linears))
    for (matrix, linear), solution in zip(problems, ours):
        expected = reference(matrix, linear)
        value, best = (u @ matrix @ u / 2 + linear @ u for u in (solution, expected))
        assert (solution >= 0).all()
        np.testing.assert_allclose(value, best, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(solution, expected, rtol=1e-4, atol=1e-6 * (1 + np.abs(expected).max()))


def test_single_precision_is_near_enough():
    solve = jax.jit(nonnegative_quadratic)
    for seed in range(10):
        matrix, linear = problem(seed, 20)
        ours = np.asarray(solve(matrix.astype(np.float32), linear.astype(np.float32)), np.float64)
        expected = reference(matrix, linear)
        value, best = (u @ matrix @ u / 2 + linear @ u for u in (ours, expected))
        assert value - best <= 1e-3 * abs(best) + 1e-6


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_the_projected_gradient_is_the_published_program(margin):
    random = np.random.default_rng(1)
    past, gradient = random.normal(size=(6, 30)), random.normal(size=30)
    active = np.array([True, True, False, True, True, False])
    rows = rows_of(jnp.asarray(past), lambda row: row)
    ours = project(jnp.asarray(gradient), rows, jnp.asarray(active), margin=margin)
    rows = past[active]
    gram = rows @ rows.T + 1e-3 * np.eye(len(rows))
    shift = np.full(len(rows), margin)
    v = shift + reference(gram, rows @ gradient + gram @ shift)
    np.testing.assert_allclose(ours, gradient + v @ rows, rtol=1e-6, atol=1e-8)
    if margin == 0:
        assert (rows @ gradient).min() < 0  # or else nothing was tested
        assert (rows @ np.asarray(ours)).min() > -5e-3
    assert not np.allclose(past[2] @ np.asarray(ours), 0)


def test_a_gradient_without_conflict_is_left_alone():
    gradient = jnp.asarray([1.0, 2.0])
    past = rows_of(jnp.asarray([[1.0, 0.0], [-5.0, -5.0]]), lambda row: row)
    same = project(gradient, past, jnp.asarray([True, False]), margin=0.5)
    np.testing.assert_array_equal(same, gradient)
