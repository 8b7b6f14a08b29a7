"""Strict numerics for the whole suite: float64 available, rank promotion and warnings are errors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from results_schema import check_results

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def enable_x64() -> Callable:
    """A context with float64 on or off: users' own code runs with it off and with rank promotion."""
    from contextlib import contextmanager

    @contextmanager
    def switched(on: bool):
        with jax.enable_x64(on), jax.numpy_rank_promotion("allow"):
            yield

    return switched


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory) -> Iterator[None]:
    """Programs that a module compiles more than once are compiled once."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def run_experiment(tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """`run_experiment(name, *flags)`: an entry point in a process of its own; programs are compiled once.

    The results of every run that ends well are checked against their schema.
    """
    cache = tmp_path_factory.mktemp("compiled")

    def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        settings = {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        }
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", *arguments],
            cwd=ROOT,
            env=os.environ | settings | environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        last = done.stdout.strip().rpartition("\n")[2]
        if done.returncode == 0 and last.startswith('{"experiment"'):
            check_results(json.loads(last))
        return done

    return run


TINY = (
    "--dataset=glyphs --way=5 --shot=1 --query=2 --filters=4 --meta_batch=2 --steps=8 --eval_every=4 "
    "--validation_tasks=10 --eval_tasks=10 --checkpoint_every=4 --log_every=2"
).split()


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> str:
    """Thirty classes of eight small gray images, which are quicker to draw from than glyphs are to make."""
    import numpy as np
    from PIL import Image

    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label in range(30):
        folder = root / f"class{label:02d}"
        folder.mkdir()
        for number in range(8):
            pixels = generator.integers(0, 256, (16, 16), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(root)


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Flags of the smallest whole run."""
    return list(TINY)


@pytest.fixture(scope="session")
def finished_run(run_experiment, tmp_path_factory) -> Path:
    """The workdir of a finished tiny run of COMLN."""
    workdir = tmp_path_factory.mktemp("comln") / "run"
    done = run_experiment("comln", *TINY, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir
