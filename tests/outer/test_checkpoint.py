"""Checkpoints: which are preserved, which are refused, and which survive damage."""

import contextlib
import errno
import gc
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta.outer.checkpoint import CheckpointError, Checkpoints, IdentityError
from jmeta.types import LearnerState

# tensorstore's threads complain on their own when it reads damaged arrays.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

IDENTITY = {"shot": 1, "learning_rate": 0.1, "splits": ("a", "b")}


def state(step):
    """A state with all that orbax has to carry: typed key, optax state, mixed types, an empty leaf."""
    meta = {"w": jnp.full((2, 3), step, jnp.float32), "half": jnp.full(2, step, jnp.bfloat16)}
    opt = optax.chain(optax.clip(1.0), optax.adam(0.1)).init(meta)
    return LearnerState(jnp.int32(step), meta, None, opt, jax.random.key(step))


@pytest.fixture
def said():
    return []


@pytest.fixture
def opened(tmp_path, said):
    """A function that opens the checkpoints of one directory, as a new process would."""
    all_opened = []

    def open_(identity=IDENTITY):
        all_opened.append(Checkpoints(tmp_path / "checkpoints", identity, say=said.append))
        return all_opened[-1]

    yield open_
    for checkpoints in all_opened:
        checkpoints.close()


def save(checkpoints, *steps, best=None):
    for step in steps:
        checkpoints.save(step, state(step), {"best": best and {"step": best, "metrics": {"accuracy": 0.5}}})
    checkpoints.wait()


def saved_steps(tmp_path):
    return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())


def test_a_state_returns_bit_for_bit_with_its_meta(opened):
    save(opened(), 3)
    step, restored, meta = opened().restore(state(0))
    assert step == 3 and meta["best"] is None and meta["identity"]["splits"] == ["a", "b"]
    assert jax.tree.structure(restored) == jax.tree.structure(state(3))
    np.testing.assert_array_equal(jax.random.bits(restored.key), jax.random.bits(jax.random.key(3)))
    for ours, theirs in zip(jax.tree.leaves(restored[:4]), jax.tree.leaves(state(3)[:4]), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_to_restore(opened, tmp_path):
    assert opened().restore(state(0)) is None and opened().latest_step() is None
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        opened().restore_best(state(0))
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        Checkpoints.reader(tmp_path / "checkpoints")
    with pytest.raises(FileNotFoundError, match="elsewhere: no checkpoints"):
        Checkpoints.reader(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_the_last_two_and_the_newest_best_are_kept(opened, tmp_path):
    """Over a restart, too."""
    first = opened()
    save(first, 1, 2, best=2)
    save(first, 3, 4, best=2)
    assert saved_steps(tmp_path) == [2, 3, 4]
    first.close()
    second = opened()
    save(second, 5, 6, best=2)
    assert saved_steps(tmp_path) == [2, 5, 6]
    best = Checkpoints.reader(tmp_path / "checkpoints").restore_best(jax.eval_shape(lambda: state(0)))
    assert float(best.meta["w"][0, 0]) == 2
    save(second, 7, 8, 9, best=7)
    assert saved_steps(tmp_path) == [7, 8, 9]


def test_without_validation_the_newest_is_the_best(opened):
    save(opened(), 1, 2)
    assert int(opened().restore_best(state(0)).step) == 2


def test_another_identity_is_refused_flag_by_flag(opened):
    save(opened(), 1)
    other = opened({"shot": 5, "learning_rate": 0.1, "ridge": 0.5})
    with pytest.raises(IdentityError) as caught:
        other.check_identity()
    message = str(caught.value)
    assert "shot is 5 now and 1 there" in message and "ridge is 0.5 now and None there" in message
    assert "learning_rate" not in message and "\n" not in message
    with pytest.raises(IdentityError):
        other.restore(state(0))
    opened(dict(IDENTITY, splits=["a", "b"])).check_identity()


def test_another_version_only_warns(opened, said, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("jmeta.outer.checkpoint.metadata.version", lambda package: "0.1")
        save(opened(), 1)
    opened().check_identity()
    assert any("written with jax 0.1, this is jax" in line for line in said)


def test_another_commit_only_warns(tmp_path):
    said = []

    def checkpoints(**surroundings):
        opened = Checkpoints(tmp_path, IDENTITY, say=said.append, surroundings=surroundings)
        return contextlib.closing(opened)

    with checkpoints(commit="a1") as opened:
        save(opened, 1)
    for commit in ("a1", "b2"):
        with checkpoints(commit=commit, other="unknown then") as opened:
            opened.check_identity()
    assert said == [f"{tmp_path}: written with commit a1, this is commit b2"]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(**changes):
    """Damage that leaves the meta JSON; None removes an entry."""

    def change(folder):
        meta = json.loads((folder / "meta" / "metadata").read_text()) | changes
        kept = {name: value for name, value in meta.items() if value is not None}
        (folder / "meta" / "metadata").write_text(json.dumps(kept))

    return change


DAMAGE = {
    "meta is {}": lambda folder: (folder / "meta" / "metadata").write_text("{}"),
    "meta is a list": lambda folder: (folder / "meta" / "metadata").write_text("[3]"),
    "meta without identity": rewrite(identity=None),
    "meta without surroundings": rewrite(surroundings=None, checksum=None),
    "meta is another's": rewrite(seconds=99.0),
    "meta": lambda folder: cut(folder / "meta" / "metadata"),
    "state metadata": lambda folder: cut(folder / "state" / "_METADATA"),
    "arrays": lambda folder: [cut(path) for path in (folder / "state").rglob("d/*")],
    "half gone": lambda folder: shutil.rmtree(folder / "state"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(opened, tmp_path, said, damage):
    save(opened(), 1, 2)
    DAMAGE[damage](tmp_path / "checkpoints" / "2")
    checkpoints = opened()
    step, restored, _ = checkpoints.restore(state(0))
    assert step == 1 and float(restored.meta["w"][0, 0]) == 1
    assert sum("2 is damaged" in line for line in said) == 1
    save(checkpoints, 2)
    assert opened().restore(state(0))[0] == 2


def test_metrics_of_older_checkpoints_may_be_damaged(opened, tmp_path):
    """They held the best steps, which the meta has too; orbax reads them when it opens a directory."""
    save(opened(), 1, 2)
    for step, text in ((1, ""), (2, "{")):
        (tmp_path / "checkpoints" / str(step) / "metrics").mkdir()
        (tmp_path / "checkpoints" / str(step) / "metrics" / "metrics").write_text(text)
    assert opened().restore(state(0))[0] == 2


def test_a_checkpoint_without_a_checksum_is_of_an_older_version(opened, tmp_path):
    save(opened(), 1)
    rewrite(checksum=None)(tmp_path / "checkpoints" / "1")
    assert opened().restore(state(0))[0] == 1


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), MemoryError()])
def test_what_is_no_damage_removes_nothing(opened, tmp_path, monkeypatch, error):
    save(opened(), 1, 2)
    checkpoints = opened()

    def fail(step, target):
        raise error

    monkeypatch.setattr(checkpoints, "_read", fail)
    with pytest.raises(type(error)):
        checkpoints.restore(state(0))
    assert saved_steps(tmp_path) == [1, 2]


@contextlib.contextmanager
def no_file_above(size):
    """Refuse larger files, as a full disk does; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Coroutines that orbax leaves behind when a write fails, which entry points hide (experiments.terminal)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("size", [0, 1000])
def test_a_disk_that_refuses_is_an_os_error_and_the_last_checkpoint_whole(opened, tmp_path, size):
    checkpoints = opened()
    save(checkpoints, 1)
    place = tmp_path / "checkpoints"
    with no_file_above(size), pytest.raises(OSError, match=f"File too large: '{place}'"):
        save(checkpoints, 2)
    # A reader removes nothing: threads that the refusal has left behind may still write beside it.
    assert Checkpoints.reader(place).restore(state(0))[0] == 1
    del checkpoints
    gc.collect()  # here, where their warnings are ignored


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f": '{tmp_path}/file'"):
        Checkpoints(tmp_path / "file", IDENTITY)


def test_when_all_are_damaged_nothing_is_removed(opened, tmp_path):
    save(opened(), 1, 2)
    for step in (1, 2):
        DAMAGE["arrays"](tmp_path / "checkpoints" / str(step))
    with pytest.raises(CheckpointError, match=r"none of 2 checkpoints can be read, the newest \(2\)"):
        opened().restore(state(0))
    assert saved_steps(tmp_path) == [1, 2]


def test_what_a_kill_left_half_written_is_removed(opened, tmp_path):
    save(opened(), 1)
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", half)
    (half / "commit_success.txt").unlink()
    checkpoints = opened()
    assert checkpoints.latest_step() == 1
    save(checkpoints, 2)
    assert saved_steps(tmp_path) == [1, 2]


def test_a_state_may_be_donated_once_saved(opened):
    checkpoints = opened()
    big = LearnerState(jnp.int32(1), {"w": jnp.ones((512, 1024))}, None, (), jax.random.key(0))
    checkpoints.save(1, big, {})
    jax.jit(lambda s: jax.tree.map(lambda a: a * 0, s.meta), donate_argnums=0)(big)
    _, restored, _ = checkpoints.restore(jax.eval_shape(lambda: big))
    assert float(restored.meta["w"].min()) == 1
