"""Damage to what tensorflow-datasets prepared: python -m tests.fuzz.prepared --count=100 --seed=0

As `tests.fuzz.archives`, but tensorflow-datasets takes seconds to import.
"""

import functools
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import archives, small_data, verdicts


def main(argv: list[str]) -> int:
    """Try the cases of the command line."""
    return verdicts.main("prepared", cases, count=100, argv=argv)


def cases(seed: int) -> Callable[[int], tuple[str, verdicts.Verdict]]:
    """Make `case(index)`."""
    for module in ("tensorflow_datasets", "array_record.python.array_record_data_source"):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        outcome = verdicts.in_a_process(functools.partial(small_data.prepare, Path(folder)), seconds=300)
        assert outcome.kind == "value", outcome
        root = Path(folder, "tfds")
        files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return archives.cases(seed, {"prepared": small_data.Form(lambda: files, "omniglot")})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
