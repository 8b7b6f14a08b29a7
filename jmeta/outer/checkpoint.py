"""A run's checkpoints: the last two and the best, written by orbax in the background."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from jmeta.outer.seeds import choose_seeds
from jmeta.types import LearnerState, PyTree

Meta = dict[str, Any]
_PACKAGES = ("jmeta", "jax", "jaxlib", "flax", "optax", "diffrax", "orbax-checkpoint")


class CheckpointError(ValueError):
    """Raised if no checkpoint of a directory can be used; the message is one line: the reason, the place and
    the remedy."""


class IdentityError(CheckpointError):
    """Raised if the checkpoints belong to a run with other settings; the message names each difference."""


class Checkpoints:
    """The checkpoints of one run under `directory`, numbered by step.

    The last two are preserved, and the best one among the validated steps. A checkpoint is a LearnerState and
    `meta`, a dictionary for JSON with the records of `fit` beside the state. Checkpoints that a kill left
    incomplete are ignored and removed. Across processes every process makes every call.

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
        self._manager = _manager(self.directory, writes=True)

    @classmethod
    def reader(cls, directory: str | Path) -> Checkpoints:
        """Open the checkpoints of a run of any identity to read them; FileNotFoundError if there are none."""
        self = cls.__new__(cls)
        self.directory, self.identity = Path(directory).absolute(), None
        self._surroundings, self._say = {}, _to_standard_error
        if not self.directory.is_dir():
            raise FileNotFoundError(
                f"{directory}: no checkpoints; expected the checkpoints of a run of jmeta"
            )
        self._manager = _manager(self.directory, writes=False)
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
        ours, theirs = self.identity, meta["identity"]
        differing = [
            f"{name} is {ours.get(name)!r} now and {theirs.get(name)!r} there"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]
        if differing:
            raise IdentityError(
                f"{self.directory} holds checkpoints of another run: {'; '.join(differing)}; "
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

        best = [*best_steps(meta.get("best")), *best_steps(meta.get("regular"))]
        meta = {"identity": self.identity, "surroundings": self._all_surroundings(), **meta}
        parts = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=parts, metrics={"best": best})

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
            except Exception as error:  # orbax and tensorstore raise whatever the damage leads to
                damaged[step] = error
                continue
            for bad, reason in damaged.items():
                self._say(f"{self.directory / str(bad)} is damaged ({_first_line(reason)}); skipped")
                if self.identity is not None:  # a reader touches nothing of another run
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
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing."""
        self._manager.close()

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
                return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
            except Exception:  # damaged: `restore` says so
                continue
        return None

    def _read(self, step: int, target: LearnerState) -> tuple[LearnerState, Meta]:
        import orbax.checkpoint as ocp

        parts = ocp.args.Composite(
            state=ocp.args.StandardRestore(_placed(target)), meta=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=parts)
        return restored.state, restored.meta


def _manager(directory: Path, *, writes: bool) -> Any:
    import orbax.checkpoint as ocp

    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
        create=writes,
        cleanup_tmp_directories=writes,
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), _NamedBest()]),
        best_fn=lambda metrics: 0.0,  # orbax stores metrics only if they rank; the policy reads them
    )
    return ocp.CheckpointManager(directory, options=options)


class _NamedBest:
    """Preserves the checkpoints that the newest one names as the best."""

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest = max(checkpoints, key=lambda info: info.step, default=None)
        best = (newest.metrics or {}).get("best", []) if newest else []
        return [info.step in best for info in checkpoints]


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
