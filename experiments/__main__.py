"""List the entry points, a line each: python -m experiments."""

from __future__ import annotations

import ast
from pathlib import Path

_FOLDERS = {"Experiments": ".", "Examples": "examples", "Benchmarks": "benchmarks"}


def entry_points(folder: Path) -> dict[str, str]:
    """Map the name of each script in a folder to the first line of its docstring, without importing it."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    return {
        name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        for name, text in texts.items()
        if name != "__main__" and '\nif __name__ == "__main__":' in text
    }


def main() -> None:
    """Print the entry points, the examples and the benchmarks."""
    for title, below in _FOLDERS.items():
        package = "experiments" if below == "." else f"experiments.{below}"
        print(f"{title}: python -m {package}.NAME" + (" --help" if below != "examples" else ""))
        for name, summary in entry_points(Path(__file__).parent / below).items():
            print(f"  {name:<24}{summary}")
        print()


if __name__ == "__main__":
    main()
