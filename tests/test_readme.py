"""The README's code runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_commands_it_names_exist():
    text = README.read_text()
    for module in set(re.findall(r"python -m (experiments(?:\.\w+)+)", text)):
        assert (README.parent / (module.replace(".", "/") + ".py")).is_file(), module
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", text, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_preset_it_names_exists():
    from experiments import comln, maml

    presets = comln.EXPERIMENT.presets.keys() | maml.EXPERIMENT.presets.keys()
    for name in re.findall(r"--preset=(\w+)", README.read_text()):
        assert name in presets | {"list"}


@pytest.mark.slow
def test_its_code_blocks_run(finished_run, enable_x64):
    """All blocks in order in one namespace, as a reader would; a tiny run stands in for the demo."""
    assert len(BLOCKS) >= 4
    scope: dict = {}
    with enable_x64(False):
        for block in BLOCKS:
            exec(compile(block.replace('"runs/demo"', repr(str(finished_run))), "README.md", "exec"), scope)
    assert scope["accuracy"].shape == (200,)
    assert scope["accuracy"].mean() > 0.5
    assert scope["logits"].shape == (5, 5)
    assert scope["task"].support.x.shape == (5, 28, 28, 1)
