"""The lock of a folder: one holder, named to others, for no longer than its process lives."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from experiments import lock as module
from experiments.errors import UsageError
from experiments.lock import NAME, lock


def test_a_second_lock_is_refused_and_names_the_holder(tmp_path):
    with lock(tmp_path):
        with pytest.raises(UsageError) as caught, lock(tmp_path):
            pass
        assert f"{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}, since" in str(
            caught.value
        )
        assert "\n" not in str(caught.value) and (tmp_path / NAME).exists()
    assert not any(tmp_path.iterdir())
    with lock(tmp_path):
        pass


def test_a_lock_ends_with_a_killed_process(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom experiments.lock import lock\n"
        "with lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"process {process.pid} on"), lock(tmp_path):
            pass
        process.kill()
    assert (tmp_path / NAME).exists()
    with lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with lock(tmp_path):
        assert "cannot be locked (No locks available): start no second run" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_file_that_its_holder_removed_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    flock, removed = module.fcntl.flock, []

    def slow(descriptor, operation):
        if not removed:
            removed.append((tmp_path / NAME).unlink())
        flock(descriptor, operation)

    monkeypatch.setattr(module.fcntl, "flock", slow)
    with lock(tmp_path):
        assert removed and (tmp_path / NAME).exists()
        with pytest.raises(UsageError), lock(tmp_path):
            pass
