"""Runs of two processes, one of which is lost; the other says so, and the same command goes on."""

import signal
from pathlib import Path

import processes
import pytest
from processes import TOY

pytestmark = pytest.mark.slow

FLAGS = ("--log_every=4", "--checkpoint_every=5", "--eval_every=10", "--steps=20")


def last_line(workdir):
    return Path(f"{workdir}.log").read_text().splitlines()[-1]


@pytest.mark.parametrize("dead", [0, 1])
def test_the_loss_of_a_process_ends_the_other_and_the_run_goes_on(tmp_path, dead):
    one, both = tmp_path / "one", tmp_path / "both"
    processes.run(TOY, one, *FLAGS)
    pair = processes.start_cluster(TOY, both, *FLAGS, "--pause=0.5")
    processes.wait_until(lambda: processes.checkpoint_steps(both), pair[0])
    pair[dead].send_signal(signal.SIGKILL)
    pair[dead].wait()
    processes.finish(both, pair[1 - dead], code=4)
    assert last_line(both).startswith(f"process {dead} of 2 was lost (its connection closed); give the same")
    assert 0 < processes.checkpoint_steps(both)[-1] < 20
    processes.finish(both, *processes.start_cluster(TOY, both, *FLAGS))
    processes.assert_close(both, one, 1e-6)


def test_a_process_that_fails_alone_keeps_its_status_and_ends_the_other(tmp_path):
    workdir = tmp_path / "failed"
    pair = processes.start_cluster(TOY, workdir, *FLAGS, "--pause=0.1", "--fail_in=1")
    codes = [process.wait(processes.PATIENCE) for process in pair]
    assert codes == [4, 1], Path(f"{workdir}.log").read_text()[-3000:]
    assert "process 1 of 2 ended with status 1 while this one went on" in Path(f"{workdir}.log").read_text()
