"""A run that is killed again and again, also within a checkpoint, ends with the numbers of a whole run.

JMETA_KILLS=20 makes a long test of it.
"""

import collections
import json
import os
import random
import sys
import time

import numpy as np
import processes
import pytest

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("JMETA_KILLS", "3"))
COMMAND = [
    sys.executable, "-m", "experiments.maml", "--dataset=sinusoid", "--filters=8", "--shot=5", "--query=5",
    "--meta_batch=2", "--steps=40", "--checkpoint_every=1", "--log_every=2", "--eval_every=10",
    "--validation_tasks=4", "--eval_tasks=8",
]  # fmt: skip


def assert_same_run(ours, theirs):
    """Equal results but for the clock, test tasks bit for bit, and lines of the log."""
    results = [json.loads((workdir / "results.json").read_text()) for workdir in (ours, theirs)]
    for result in results:
        del result["train"]
    assert results[0] == results[1]
    values, others = (np.load(workdir / "eval.npz") for workdir in (ours, theirs))
    assert values.files == others.files
    for name in values.files:
        np.testing.assert_array_equal(values[name], others[name])
    assert json.dumps(processes.lines(ours)) == json.dumps(processes.lines(theirs))


def sleep_until(condition, process, seconds):
    """Until `condition()`, the end of the process or of the time."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not condition():
        time.sleep(0.005)


def test_killed_at_random_moments(tmp_path):
    """Half of them at any moment, half soon after a line of the log, when checkpoints are written."""
    env = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    for name in ("first", "whole"):  # the first one compiles
        start_time = time.monotonic()
        processes.run(COMMAND, tmp_path / name, **env)
    seconds, rng, counts = time.monotonic() - start_time, random.Random(0), collections.Counter()
    assert_same_run(tmp_path / "first", tmp_path / "whole")
    while counts["killed"] < KILLS:
        workdir = tmp_path / f"killed{counts['whole']}"
        before, process = processes.logged(workdir), processes.start(COMMAND, workdir, **env)
        if counts["killed"] % 2:
            sleep_until(lambda: False, process, rng.uniform(0, seconds))
        else:
            sleep_until(lambda at=workdir, now=before: processes.logged(at) > now, process, 60)
            sleep_until(lambda: False, process, rng.uniform(0, 0.6))
        process.kill()
        if process.wait() == 0:
            assert_same_run(workdir, tmp_path / "whole")
            counts["whole"] += 1
            continue
        counts["killed"] += 1
        counts["with a checkpoint"] += bool(processes.checkpoint_steps(workdir))
        counts["within a checkpoint"] += any((workdir / "checkpoints").glob("*tmp*"))
    processes.run(COMMAND, workdir, **env)
    assert_same_run(workdir, tmp_path / "whole")
    print(dict(counts))
