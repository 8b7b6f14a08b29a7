"""Type checkers see the public names, from the installed package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jmeta

CODE = "import jmeta\nreveal_type(jmeta.comln)\njmeta.nonsense\nreveal_type(jmeta.sgd(0.1))\n"


@pytest.mark.slow
def test_public_names_are_typed(tmp_path):
    """Checked in a folder of its own, so that jmeta is that of the environment and not the checkout."""
    (tmp_path / "code.py").write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", f"--cache-dir={tmp_path}", "code.py"]
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    function, unknown, rule = done.stdout.splitlines()
    assert 'code.py:2: note: Revealed type is "def (backbone: ' in function
    assert "fallback=jmeta.types.Model" in function and "fallback=jmeta.types.Adapter" in function
    assert "way: int" in function and "norm: Literal['batch']" in function
    assert unknown.startswith('code.py:3: error: Module has no attribute "nonsense"')
    assert rule.startswith("code.py:4: note: Revealed type is") and "fallback=jmeta.types.Rule" in rule


def test_types_are_shipped():
    package = Path(jmeta.__file__).parent
    assert (package / "py.typed").is_file() and (package / "__init__.pyi").is_file()
