"""Whole runs as processes: killed, stopped, on several devices, in several processes."""

import random
import signal

import processes
import pytest
from processes import TOY

pytestmark = pytest.mark.slow

FLAGS = ("--log_every=2", "--eval_every=15", "--checkpoint_every=10")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """120 steps on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    processes.run(TOY, workdir, *FLAGS, "--steps=120")
    return workdir


def test_killed_at_five_random_moments_and_resumed(uninterrupted, tmp_path):
    workdir, rng = tmp_path / "killed", random.Random(0)
    flags = (*FLAGS, "--steps=120")
    after = processes.kill_at_random(TOY, workdir, *flags, "--pause=0.1", kills=5, rng=rng)
    assert after >= 3
    processes.run(TOY, workdir, *flags)
    processes.assert_equal_bits(workdir, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_to_go_on_from(uninterrupted, tmp_path, number):
    workdir = tmp_path / "stopped"
    process = processes.start(TOY, workdir, *FLAGS, "--steps=120", "--pause=0.1")
    processes.wait_until(lambda: processes.has_log(workdir) and processes.lines(workdir), process)
    process.send_signal(number)
    processes.finish(workdir, process, code=128 + number)
    (stopped,) = processes.checkpoint_steps(workdir)[-1:]
    last = processes.lines(workdir)[-1]["step"]
    assert 0 < last <= stopped < last + 2
    if number == signal.SIGTERM:
        processes.run(TOY, workdir, *FLAGS, "--steps=120")
        processes.assert_equal_bits(workdir, uninterrupted)


def test_other_numbers_of_devices_give_the_same_numbers(uninterrupted, tmp_path):
    """Half on two devices, half on four; the 6 tasks do not divide over four."""
    workdir = tmp_path / "moved"
    processes.run(TOY, workdir, *FLAGS, "--steps=60", devices=2)
    processes.run(TOY, workdir, *FLAGS, "--steps=120", devices=4)
    processes.assert_close(workdir, uninterrupted, 1e-5)


def test_two_processes_give_the_numbers_of_one(tmp_path):
    """Also after a signal that only one of them hears."""
    flags = ("--log_every=4", "--checkpoint_every=10", "--eval_every=10", "--steps=20")
    one, both = tmp_path / "one", tmp_path / "both"
    processes.run(TOY, one, *flags)
    pair = processes.start_cluster(TOY, both, *flags, "--pause=0.3")
    processes.wait_until(lambda: processes.has_log(both) and processes.lines(both), pair[0])
    pair[1].send_signal(signal.SIGTERM)
    processes.finish(both, *pair, code=128 + signal.SIGTERM)
    assert 0 < processes.checkpoint_steps(both)[-1] < 20
    processes.finish(both, *processes.start_cluster(TOY, both, *flags))
    processes.assert_close(both, one, 1e-6)
