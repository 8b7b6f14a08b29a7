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
    """No checkpoint of a directory can be used; the message is one line: what is wrong, where, what to do."""


class IdentityError(CheckpointError):
    """The checkpoints belong to a run with other settings; the message names each that differs."""


class Checkpoints:
    """The checkpoints of one run under `directory`, numbered by step.

    The last two are kept and, of the steps that were validated, the best. A checkpoint is a LearnerState and
    `meta`, a dictionary for JSON in which `fit` keeps what it knows beside the state. What a kill left half
    written is ignored and removed. Across processes every process makes every call.

    Args:
      directory: made if missing.
      identity: the settings that change the run's numbers, by name; plain values.
      surroundings: what else a change of is worth a warning, such as the code's commit; plain values.
      say: is called with one line for people (warnings, where a run goes on), by default on standard error.
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
        """The checkpoints of a run of any identity, to read; FileNotFoundError where there are none."""
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
        """The step of the newest complete checkpoint, None where there is none."""
        self.wait()
        return self._manager.latest_step()

    def check_identity(self) -> None:
        """Raise IdentityError where the checkpoints are of another identity; warn of other versions."""
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
        for name, version in self._around().items():
            if name in before and version != before[name]:
                self._say(f"{self.directory}: written with {name} {before[name]}, this is {name} {version}")

    def save(self, step: int, state: LearnerState, meta: Mapping[str, Any]) -> None:
        """Write a checkpoint in the background; `state` may be donated as soon as this returns.

        The steps that `meta["best"]["step"]` and `meta["regular"]["step"]` name, one or one for each seed,
        are kept beside it. A step that exists is left as it is.
        """
        import orbax.checkpoint as ocp

        best = [*best_steps(meta.get("best")), *best_steps(meta.get("regular"))]
        meta = {"identity": self.identity, "surroundings": self._around(), **meta}
        parts = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=parts, metrics={"best": best})

    def restore(self, target: LearnerState) -> tuple[int, LearnerState, Meta] | None:
        """The newest checkpoint that can be read, as (step, state, meta); None where there is none.

        Args:
          target: a state of the same structure, of arrays or `jax.ShapeDtypeStruct`s; the result has its
            shardings, whatever number of devices wrote it.

        Damaged checkpoints newer than the one returned are passed over with a warning, and removed so that
        their steps can be written again (a `reader` removes nothing). Raises IdentityError for
        checkpoints of another identity and CheckpointError where none can be read.
        """
        self.check_identity()
        damaged: dict[int, Exception] = {}
        for step in self._steps():
            try:
                state, meta = self._read(step, target)
            except Exception as error:  # orbax and tensorstore raise whatever the damage leads to
                damaged[step] = error
                continue
            for bad, why in damaged.items():
                self._say(f"{self.directory / str(bad)} is damaged ({_first_line(why)}); passed over")
                if self.identity is not None:  # a reader touches nothing of another run
                    self._manager.delete(bad)
            if self.identity is not None:
                self._say(f"continuing from step {step} in {self.directory}")
            return step, state, meta
        if damaged:
            step, why = next(iter(damaged.items()))
            raise CheckpointError(
                f"{self.directory}: none of {len(damaged)} checkpoints can be read, the newest ({step}) "
                f"because {_first_line(why)}; remove them to start anew"
            ) from why
        return None

    def restore_best(self, target: LearnerState) -> LearnerState:
        """The best state by validation, or the newest where none was validated; `target` as for `restore`.

        Of seeds side by side, each seed's own best.
        Raises FileNotFoundError where there is no checkpoint.
        """
        meta = self._newest_meta()
        if meta is None:
            raise FileNotFoundError(f"{self.directory}: no checkpoint")
        best = best_steps(meta.get("best"))
        if best and set(best) <= set(self._steps()):
            try:
                states = {step: self._read(step, target)[0] for step in set(best)}
            except Exception as error:
                self._say(f"{self.directory}: of {best}, the best, one is damaged ({_first_line(error)})")
            else:
                per_seed = isinstance(meta["best"]["step"], list)
                return choose_seeds([states[step] for step in best]) if per_seed else states[best[0]]
        found = self.restore(target)
        assert found is not None
        return found[1]

    def wait(self) -> None:
        """Until what `save` began is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing."""
        self._manager.close()

    def _around(self) -> Meta:
        return {**_surroundings(), **self._surroundings}

    def _steps(self) -> list[int]:
        self.wait()
        return sorted(self._manager.all_steps(), reverse=True)

    def _newest_meta(self) -> Meta | None:
        """Of the newest checkpoint where it can be read."""
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
        found = self._manager.restore(step, args=parts)
        return found.state, found.meta


def _manager(directory: Path, *, writes: bool) -> Any:
    import orbax.checkpoint as ocp

    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
        create=writes,
        cleanup_tmp_directories=writes,
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), _NamedBest()]),
        best_fn=lambda metrics: 0.0,  # orbax keeps metrics only where they rank; the policy reads them
    )
    return ocp.CheckpointManager(directory, options=options)


class _NamedBest:
    """Preserves the checkpoints that the newest one names as the best."""

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest = max(checkpoints, key=lambda info: info.step, default=None)
        best = (newest.metrics or {}).get("best", []) if newest else []
        return [info.step in best for info in checkpoints]


def best_steps(best: Mapping[str, Any] | None) -> list[int]:
    """The step, or the step for each seed, of what `fit` says is the best; [] where nothing was validated."""
    step = best["step"] if best else []
    return step if isinstance(step, list) else [step]


def _placed(target: PyTree) -> PyTree:
    """Abstract leaves with a sharding: their own, or this process's first device."""
    here = SingleDeviceSharding(jax.local_devices()[0])

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here)

    return jax.tree.map(place, target)


def _surroundings() -> Meta:
    """What may change between the parts of a run and can change its last bits."""
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
