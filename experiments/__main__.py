"""List the entry points, or the presets of all of them that match a pattern.

python -m experiments
python -m experiments 'table5*'
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from experiments.terminal import exit_with

_FOLDERS = {"Experiments": ".", "Examples": "examples", "Benchmarks": "benchmarks"}


def entry_points(folder: Path) -> dict[str, str]:
    """Map the name of each script in a folder to the first line of its docstring, without importing it."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    return {
        name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        for name, text in texts.items()
        if name != "__main__" and '\nif __name__ == "__main__":' in text
    }


def main(arguments: Sequence[str] = ()) -> int:
    """Print the entry points, examples and benchmarks, or the presets of a pattern; the exit status."""
    words = [argument for argument in arguments if argument.lstrip("-") not in ("h", "help")]
    if len(words) > 1:
        print(f"experiments: one pattern of presets, not {len(words)}, as 'table5*'", file=sys.stderr)
        return 2
    if words:
        return find_presets(words[0].removeprefix("--preset="))
    for title, below in _FOLDERS.items():
        package = "experiments" if below == "." else f"experiments.{below}"
        print(f"{title}: python -m {package}.NAME" + (" --help" if below != "examples" else ""))
        for name, summary in entry_points(Path(__file__).parent / below).items():
            indent = " " * 26
            print(
                textwrap.fill(f"  {name:<24}{summary}", 79, subsequent_indent=indent, break_on_hyphens=False)
            )
        print()
    print("Presets of published rows, by a pattern: python -m experiments 'table5*'")
    return 0


def find_presets(pattern: str) -> int:
    """Print the presets of every entry point that match a pattern; the exit status."""
    from experiments.arguments import did_you_mean  # which import the entry points and absl
    from experiments.preset_list import list_presets
    from experiments.reproduce import EXPERIMENTS

    lists = {name: list_presets(experiment, pattern) for name, experiment in EXPERIMENTS.items()}
    if not any(lists.values()):
        near = did_you_mean(
            pattern.strip("*?"), [name for each in EXPERIMENTS.values() for name in each.presets]
        )
        print(f"experiments: no preset matches {pattern!r}{near}", file=sys.stderr)
        return 2
    for name, lines in lists.items():
        if lines:
            print("\n".join([f"python -m experiments.{name} --preset=NAME", *lines, ""]))
    return 0


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]), "experiments")
