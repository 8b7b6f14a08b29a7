"""What --distributed adds to a command: standard output for the results, and how to go on."""

import subprocess
import sys

import pytest

from experiments import cluster
from experiments.errors import UsageError, usage_errors
from jmeta.models.inputs import InputError

NOISY = """
import os
from experiments.cluster import _keep_stdout_for_python
print("before")
_keep_stdout_for_python()
os.write(1, b"noise\\n")
print("result")
"""


def test_standard_output_is_for_the_results_alone():
    done = subprocess.run(
        [sys.executable, "-c", NOISY], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "before\nresult\n" and "noise\n" in done.stderr


def test_the_line_about_a_lost_process_names_the_newest_whole_checkpoint(tmp_path):
    assert cluster._how_to_go_on(tmp_path).startswith("it has no checkpoint yet: the same command")
    for name in ("5", "10", "15.orbax-checkpoint-tmp", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert cluster._how_to_go_on(tmp_path).endswith(f"goes on from the checkpoint of step 10 in {tmp_path}")


def test_only_flags_of_a_host_may_differ(tmp_path, monkeypatch):
    programs = []
    monkeypatch.setattr(cluster, "start_distributed", lambda **options: programs.append(options["program"]))
    monkeypatch.setattr(cluster, "_keep_stdout_for_python", lambda: None)
    for settings in ({"way": 5, "data_dir": "a"}, {"way": 5, "data_dir": "b"}, {"way": 6, "data_dir": "a"}):
        cluster.join("maml", settings, tmp_path)
    assert programs[0] == programs[1] != programs[2]


@pytest.mark.parametrize("option", ["backbone", "image_size"])
def test_inputs_that_a_network_does_not_take_name_the_flag(option):
    with pytest.raises(UsageError, match=f"^conv4: wrong; change --{option}$"), usage_errors():
        raise InputError("conv4: wrong", option)
