"""The schema of results.json, against which every run of the tests is checked."""

from numbers import Real

TOP = {
    "experiment": str, "algorithm": str, "preset": (str, None), "dataset": (str, None), "way": (int, None),
    "shot": (int, None), "seed": (int, None), "steps": int, "train": dict, "eval": dict, "learned": dict,
    "published": (dict, None),
}  # fmt: skip
TRAIN = {"seconds": Real, "compile_seconds": Real, "tasks_per_second": (Real, None)}
EVAL = {
    "split": str, "tasks": int, "norm": (str, None), "backbone": (str, None), "metrics": dict,
    "seeds": (dict, None), "selected_on": ("validation", "test", None),
}  # fmt: skip
UNITS = ("fraction", "nats", "squared target", "1")


def check_results(results: dict) -> None:
    """Assert that the results of a run have every field, in its type and unit."""
    _check(TOP, results, "results")
    _check(TRAIN, results["train"], "train")
    _check(EVAL, results["eval"], "eval")
    for name, metric in results["eval"]["metrics"].items():
        assert metric["unit"] in UNITS, (name, metric)
        assert {"mean", "ci95"} <= metric.keys(), (name, metric)
        if metric["unit"] == "fraction" and name != "backward_transfer_and_interference":
            assert 0 <= metric["mean"] <= 1, (name, metric)
        values = (results["eval"]["seeds"] or {}).get(name)
        assert values is None or isinstance(values, list), (name, values)
    for name, value in (results["published"] or {}).items():
        if isinstance(value, dict) and "mean" in value:
            assert value["unit"] == "fraction" and abs(value["mean"]) <= 1, (name, value)


def _check(schema: dict, value: dict, place: str) -> None:
    assert schema.keys() <= value.keys(), (place, schema.keys() - value.keys())
    for name, kinds in schema.items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        fits = any(
            value[name] is kind if kind is None else value[name] == kind if isinstance(kind, str)
            else isinstance(value[name], kind)
            for kind in kinds
        )  # fmt: skip
        assert fits, (place, name, value[name])
