"""The list of faults fits the tree."""

import ast
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_applies_and_its_test_exists(mutant):
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    faulty = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(text))
    path, name = mutant.test.split("::")
    statements = ast.parse((ROOT / path).read_text()).body
    assert name in [node.name for node in statements if isinstance(node, ast.FunctionDef)]


def test_names_are_given_once_and_can_be_listed(capsys):
    names = [mutant.name for mutant in mutants.MUTANTS]
    assert len(set(names)) == len(names)
    assert mutants.main(["--list", f"--only={names[0]}"]) == 0
    assert capsys.readouterr().out.startswith(f"{names[0]}\n  {mutants.MUTANTS[0].file}")
    with pytest.raises(SystemExit):
        mutants.main(["--only=none"])
    assert "--only=none; expected one of" in capsys.readouterr().err
