"""The settings of a run, resolved once, and the entry point that they belong to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from experiments.errors import UsageError
from experiments.flags import Flag, number, unused, whole_number

_NONE: Mapping[str, Any] = MappingProxyType({})


class Settings(Mapping):
    """Flag values by name, resolved once and immutable; readable as attributes too."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]):
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"there is no flag --{name} here") from None

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"settings are resolved once; --{name} cannot be set to {value!r}")

    def take(self, *names: str) -> dict[str, Any]:
        """Take the values of these names, but for flags that this entry point does not have."""
        return {name: self._values[name] for name in names if name in self._values}


class Experiment(NamedTuple):
    """An entry point.

    `flags` in the order of `--help`; `main(run) -> exit status` (see `experiments.runner.Run`), or, if there
    is no flag `workdir`, `main(settings)`; `presets`, name -> values; `algorithms`, name -> the flags that
    are its own; `defaults(**values of its arguments)`, the default row of an algorithm or a dataset;
    `published(settings)`, the fields of the paper's row (see `jmeta.report.published.row_for`), None if there
    is none; `headings`, own words for headings of `--help`.
    """

    name: str
    summary: str
    flags: Mapping[str, Flag]
    main: Callable[[Any], int]
    presets: Mapping[str, Mapping[str, Any]] = _NONE
    algorithms: Mapping[str, tuple[str, ...]] = _NONE
    defaults: Callable[..., Mapping[str, Any]] = lambda: {}
    published: Callable[[Settings], Mapping[str, Any] | None] = lambda settings: None
    headings: Mapping[str, str] = _NONE


def foreign_flags(experiment: Experiment, algorithm: str | None) -> list[str]:
    """List the flags that only other algorithms of an entry point have."""
    others = {name for own in experiment.algorithms.values() for name in own}
    own = experiment.algorithms.get(algorithm or "", others)
    return [name for name in experiment.flags if name in others and name not in own]


def resolve(experiment: Experiment, explicit: Mapping[str, Any]) -> Settings:
    """Resolve every flag: explicit values go before the preset, that before the default row of the algorithm
    and dataset, and that before the flags' defaults."""
    chosen = {**experiment.presets.get(explicit.get("preset") or "", {}), **explicit}
    values = {name: flag.default for name, flag in experiment.flags.items()} | chosen
    arguments = inspect.signature(experiment.defaults).parameters
    row = experiment.defaults(**{name: values[name] for name in arguments})
    return Settings(values | row | chosen)


def unused_flags(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, str]:
    """Find the flags that the chosen algorithm does not have or that mean nothing here, and why."""
    algorithm = settings.get("algorithm")
    foreign = dict.fromkeys(foreign_flags(experiment, algorithm), f"{algorithm} has none")
    return unused(experiment.flags, settings) | foreign


def parse_drops(text: str) -> tuple[tuple[int, float], ...]:
    """Read `--learning_rate_drops`: "20000:0.006,40000:0.0012" as ((20000, 0.006), (40000, 0.0012))."""
    try:
        pairs = [part.split(":") for part in text.split(",") if part]
        return tuple((whole_number(step), number(rate)) for step, rate in pairs)
    except ValueError:
        raise UsageError(f"--learning_rate_drops={text}; expected step:rate,step:rate") from None
