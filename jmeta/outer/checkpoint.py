"""A run's checkpoints: the last two and the best, written by orbax in the background."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from jmeta.outer.files import as_os_error, naming
from jmeta.outer.seeds import choose_seeds
from jmeta.types import LearnerState, PyTree

Meta = dict[str, Any]
_PACKAGES = ("jmeta", "jax", "jaxlib", "flax", "optax", "diffrax", "orbax-checkpoint")

_NO_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)  # refusals that leave a checkpoint whole


class CheckpointError(ValueError):
    """Raised if no checkpoint of a directory can be used; the message is one line: the reason, the place and
    the remedy."""


class IdentityError(CheckpointError):
    """Raised if the checkpoints belong to a run with other settings; the message names each difference."""


class Checkpoints:
    """The checkpoints of one run under `directory`, numbered by step.

    The last two are preserved, and the best one among the validated steps. A checkpoint is a LearnerState and
    `meta`, a dictionary for JSON with the records of `fit` beside the state. Checkpoints that a kill left
    incomplete are ignored and removed. Across processes every process makes every call. What writes or opens
    raises OSError, which names the directory, if the file system refuses.

    Args:
      directory: created if missing.
      identity: the settings that change the run's numbers, by name; plain values.
      surroundings: extra facts whose change triggers a warning, such as the code's commit; plain values.
      say: called with one line for people (warnings, the step that a run resumes from), by default printed on
        standard error.
    """

    def __init__(
        self,
        directory: str | Path,
        identity: Mapping[str, Any],
        *,
        surroundings: Mapping[str, Any] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.identity: Meta | None = json.loads(json.dumps(identity))
        self._surroundings: Meta = dict(surroundings or {})
        self._say = say or _to_standard_error
        self._best, self._refused = _NamedBest(), False
        with naming(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = _manager(self.directory, self._best)

    @classmethod
    def reader(cls, directory: str | Path) -> Checkpoints:
        """Open the checkpoints of a run of any identity to read them; FileNotFoundError if there are none."""
        self = cls.__new__(cls)
        self.directory, self.identity = Path(directory).absolute(), None
        self._surroundings, self._say, self._refused = {}, _to_standard_error, False
        if not self.directory.is_dir():
            raise FileNotFoundError(
                f"{directory}: no checkpoints; expected the checkpoints of a run of jmeta"
            )
        with naming(self.directory):
            self._manager = _manager(self.directory)
        if self.latest_step() is None:
            raise FileNotFoundError(f"{directory}: no complete checkpoint; train the run further first")
        return self

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint, None if there is none."""
        self.wait()
        return self._manager.latest_step()

    def check_identity(self) -> None:
        """Raise IdentityError if the checkpoints have another identity; warn if versions differ."""
        meta = self._newest_meta()
        if meta is None or self.identity is None:
            return
        differences = name_differences(self.identity, meta["identity"])
        if differences:
            raise IdentityError(
                f"{self.directory} holds checkpoints of another run: {differences}; "
                "give its settings or another directory"
            )
        before = meta["surroundings"]
        for name, version in self._all_surroundings().items():
            if name in before and version != before[name]:
                self._say(f"{self.directory}: written with {name} {before[name]}, this is {name} {version}")

    def save(self, step: int, state: LearnerState, meta: Mapping[str, Any]) -> None:
        """Write a checkpoint in the background; `state` may be donated as soon as this returns.

        The steps that `meta["best"]["step"]` and `meta["regular"]["step"]` name, one or one for each seed,
        are preserved beside it. A step that exists is left unchanged.
        """
        import orbax.checkpoint as ocp

        self._best.steps = [*best_steps(meta.get("best")), *best_steps(meta.get("regular"))]
        meta = {"identity": self.identity, "surroundings": self._all_surroundings(), **meta}
        meta["checksum"] = _checksum(meta)
        parts = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with self._writing():
            self._manager.save(step, args=parts)

    def restore(self, target: LearnerState) -> tuple[int, LearnerState, Meta] | None:
        """Restore the newest checkpoint that can be read, as (step, state, meta); None if there is none.

        Args:
          target: a state of the same structure, of arrays or `jax.ShapeDtypeStruct`s; the result has its
            shardings, whatever number of devices wrote it.

        Damaged checkpoints that are newer than the returned one are skipped with a warning, and removed so
        that their steps can be written again (a `reader` removes nothing). Raises IdentityError for
        checkpoints of another identity and CheckpointError if none can be read.
        """
        self.check_identity()
        damaged: dict[int, Exception] = {}
        for step in self._steps():
            try:
                state, meta = self._read(step, target)
            except (MemoryError, jax.errors.JaxRuntimeError):  # such as no room on the device
                raise
            except Exception as error:  # orbax and tensorstore raise whatever the damage leads to
                refusal = as_os_error(error, self.directory / str(step))
                if refusal is not None and refusal.errno in _NO_DAMAGE:
                    raise refusal from error
                damaged[step] = error
                continue
            for bad, reason in damaged.items():
                self._say(f"{self.directory / str(bad)} is damaged ({_first_line(reason)}); skipped")
                if self.identity is not None:  # a reader touches nothing of another run
                    with naming(self.directory):
                        self._manager.delete(bad)
            if self.identity is not None:
                self._say(f"continuing from step {step} in {self.directory}")
            return step, state, meta
        if damaged:
            step, reason = next(iter(damaged.items()))
            raise CheckpointError(
                f"{self.directory}: none of {len(damaged)} checkpoints can be read, the newest ({step}) "
                f"because {_first_line(reason)}; remove them to start anew"
            ) from reason
        return None

    def restore_best(self, target: LearnerState) -> LearnerState:
        """Restore the best state by validation, or the newest if none was validated.

        With several seeds, each seed has its own best. `target` is as for `restore`. Raises FileNotFoundError
        if there is no checkpoint.
        """
        meta = self._newest_meta()
        if meta is None:
            raise FileNotFoundError(f"{self.directory}: no checkpoint")
        best = best_steps(meta.get("best"))
        if best and set(best) <= set(self._steps()):
            try:
                states = {step: self._read(step, target)[0] for step in set(best)}
            except Exception as error:
                self._say(f"{self.directory}: one of {best}, the best, is damaged ({_first_line(error)})")
            else:
                per_seed = isinstance(meta["best"]["step"], list)
                return choose_seeds([states[step] for step in best]) if per_seed else states[best[0]]
        restored = self.restore(target)
        assert restored is not None
        return restored[1]

    def wait(self) -> None:
        """Wait until all checkpoints that `save` has started are on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing; after a refusal, without what it leads to."""
        with contextlib.suppress(Exception) if self._refused else self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Let refusals of the file system name the directory, and note them."""
        try:
            with naming(self.directory):
                yield
        except OSError:
            self._refused = True
            raise

    def _all_surroundings(self) -> Meta:
        return {**_surroundings(), **self._surroundings}

    def _steps(self) -> list[int]:
        self.wait()
        return sorted(self._manager.all_steps(), reverse=True)

    def _newest_meta(self) -> Meta | None:
        """Read the `meta` of the newest checkpoint that can be read."""
        import orbax.checkpoint as ocp

        for step in self._steps():
            try:
                parts = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
                return _checked(parts.meta)
            except Exception:  # damaged: `restore` says so
                continue
        return None

    def _read(self, step: int, target: LearnerState) -> tuple[LearnerState, Meta]:
        import orbax.checkpoint as ocp

        parts = ocp.args.Composite(
            state=ocp.args.StandardRestore(_placed(target)), meta=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=parts)
        return restored.state, _checked(restored.meta)


def _manager(directory: Path, best: _NamedBest | None = None) -> Any:
    """Open a directory to read, or also to write, beside the last two checkpoints preserving the `best`."""
    import orbax.checkpoint as ocp

    class Manager(ocp.CheckpointManager):
        def metrics(self, step: int) -> None:
            """Skip the metrics that checkpoints once had: if they are damaged, the constructor fails."""

    policies = ocp.checkpoint_managers
    preserved = [policies.LatestN(2), *([best] if best else [])]
    options = ocp.CheckpointManagerOptions(
        create=best is not None,
        cleanup_tmp_directories=best is not None,
        preservation_policy=policies.AnyPreservationPolicy(preserved),
    )
    return Manager(directory, options=options)


class _NamedBest:
    """Preserves the checkpoints of `steps`, the best that the newest checkpoint names."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [info.step in self.steps for info in checkpoints]


def name_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Name each difference of two identities, as "seed is 1 now and 0 there; ..."; "" if there is none."""
    return "; ".join(
        f"{name} is {ours.get(name)!r} now and {theirs.get(name)!r} there"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    )


def _checked(meta: Any) -> Meta:
    """Raise ValueError if the `meta` of a checkpoint is damaged; those of older versions have no checksum."""
    parts = ("identity", "surroundings")
    if not isinstance(meta, dict) or not all(isinstance(meta.get(name), dict) for name in parts):
        raise ValueError("its meta names no run")
    content = {name: value for name, value in meta.items() if name != "checksum"}
    if meta.get("checksum", _checksum(content)) != _checksum(content):
        raise ValueError("its meta has been changed")
    return meta


def _checksum(meta: Meta) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def best_steps(best: Mapping[str, Any] | None) -> list[int]:
    """List the step of the best validation, or of each seed's; [] if nothing was validated."""
    step = best["step"] if best else []
    return step if isinstance(step, list) else [step]


def _placed(target: PyTree) -> PyTree:
    """Make the leaves abstract, with a sharding: their own, or this process's first device."""
    here = SingleDeviceSharding(jax.local_devices()[0])

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here)

    return jax.tree.map(place, target)


def _surroundings() -> Meta:
    """List the facts that may differ between the parts of a run and can change its last bits."""
    versions = {package: _version(package) for package in _PACKAGES}
    return {**versions, "platform": jax.default_backend(), "device count": jax.device_count()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # jmeta in a checkout that is not installed
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _to_standard_error(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr)
