"""The watch of processes over each other, in real processes without jax."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import free_address

PROGRAM = Path(__file__).with_name("watched.py")


def run(*actions):
    """Start a process for each action ("leave" with a status); the exit status and last line of each."""
    address = free_address()
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                str(PROGRAM),
                address,
                str(len(actions)),
                str(index),
                *f"{action} 0".split()[:2],
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, action in enumerate(actions)
    ]
    outputs = {}
    for index, process in enumerate(processes):
        if actions[index] != "freeze":
            outputs[index] = process.communicate(timeout=60)[0].splitlines()[-1]
    for process in processes:
        process.kill()
        process.communicate()
    return [process.returncode for process in processes], outputs


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_death_ends_all_others_with_a_line(dead):
    codes, lines = run(*("kill" if index == dead else "wait" for index in range(3)))
    for index in {0, 1, 2} - {dead}:
        told = index and dead
        reason = "process 0 says so" if told else "its connection closed"
        assert lines[index] == f"toy: process {dead} of 3 was lost ({reason}); start again"
        assert codes[index] == 4
    assert codes[dead] == -signal.SIGKILL


def test_a_process_that_stands_still_is_lost():
    codes, lines = run("wait", "freeze")
    assert codes[0] == 4 and lines[0] == "toy: process 1 of 2 was lost (no sign of life for 3 s); start again"


def test_processes_that_end_together_part_in_order():
    assert run("leave", "leave", "leave") == ([0, 0, 0], dict.fromkeys(range(3), "together"))
    assert run("leave 2", "leave 2") == ([2, 2], dict.fromkeys(range(2), "together"))


@pytest.mark.parametrize("failed", [0, 1])
def test_a_process_that_fails_alone_ends_the_others_and_keeps_its_status(failed):
    codes, lines = run(*("leave 2" if index == failed else "wait" for index in range(2)))
    text = f"toy: process {failed} of 2 ended with status 2 while this one went on; start again"
    assert codes == [2 if index == failed else 4 for index in range(2)] and lines[1 - failed] == text


def test_a_library_that_aborts_does_not_have_the_last_word():
    codes, lines = run("abort", "kill")
    assert codes[0] == 4 and lines[0].startswith("toy: process 1 of 2 was lost")
