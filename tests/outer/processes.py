"""Programs under test as processes: start, watch, kill and compare them. The command is a parameter.

A command is a list of words to which `--workdir=...` and other flags are added; it writes metrics.jsonl and
checkpoints/ into its workdir.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from jmeta.outer.metrics_log import CLOCK_FIELDS, read_metrics

ROOT = Path(__file__).parents[2]
TOY = [sys.executable, str(Path(__file__).with_name("toy_run.py"))]
PATIENCE = 240  # seconds for anything


def environment(devices=1, **more):
    """The environment of a process with so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path, **more}


def start(command, workdir, *flags, **env):
    """A running process, its output in <workdir>.log."""
    with open(f"{workdir}.log", "ab") as output:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *flags],
            env=environment(**env),
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def finish(workdir, *processes, code=0):
    """Wait for all to end with exit status `code`; kill the rest when one does not."""
    deadline = time.monotonic() + PATIENCE
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() not in (None, code) for process in processes):
                break
            assert time.monotonic() < deadline, "the run takes too long"
            time.sleep(0.05)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    codes = [process.wait() for process in processes]
    assert codes == [code] * len(processes), f"{codes}\n{Path(f'{workdir}.log').read_text()[-3000:]}"


def run(command, workdir, *flags, **env):
    """Run to the end."""
    finish(workdir, start(command, workdir, *flags, **env))


def wait_until(condition, process):
    """Until `condition()`; the process must still be running then."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the run ended too early: give it more steps"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def logged(workdir):
    return (Path(workdir) / "metrics.jsonl").stat().st_mtime_ns if has_log(workdir) else 0


def has_log(workdir):
    return (Path(workdir) / "metrics.jsonl").exists()


def checkpoint_steps(workdir):
    """Complete checkpoints: those that are not temporary."""
    folder = Path(workdir) / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def kill_at_random(command, workdir, *flags, kills, rng, longest=0.6, **env):
    """Start the command `kills` times and end each with SIGKILL; how many had a checkpoint by then.

    The first is killed in its first lines of the log; the others, once they have logged on from where they
    resumed, at a random moment within `longest` seconds.
    """
    after_checkpoint = 0
    for number in range(kills):
        before = logged(workdir)
        process = start(command, workdir, *flags, **env)
        try:
            wait_until(lambda before=before: logged(workdir) > before, process)
            if number:
                wait_until(lambda: checkpoint_steps(workdir), process)
                time.sleep(rng.uniform(0, longest))
            assert process.poll() is None, "the run ended before it was killed: give it more steps"
            after_checkpoint += bool(checkpoint_steps(workdir))
        finally:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    return after_checkpoint


def free_address():
    """An address of loopback at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start_cluster(command, workdir, *flags, number=2, **env):
    """So many processes joined through loopback."""
    shared = {**env, "JAX_COORDINATOR_ADDRESS": free_address(), "JAX_NUM_PROCESSES": str(number)}
    return [
        start(command, workdir, *flags, "--distributed", JAX_PROCESS_ID=str(index), **shared)
        for index in range(number)
    ]


def lines(workdir):
    """metrics.jsonl without what a clock says."""
    records = read_metrics(Path(workdir) / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k not in CLOCK_FIELDS} for record in records]


def final_state(workdir):
    """The newest checkpoint's step, and its arrays by path."""
    step = checkpoint_steps(workdir)[-1]
    folder = Path(workdir).absolute() / "checkpoints" / str(step) / "state"
    reader = ocp.PyTreeCheckpointer()
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    arguments = jax.tree.map(lambda leaf: as_numpy, reader.metadata(folder).item_metadata.tree)
    leaves = jax.tree_util.tree_leaves_with_path(reader.restore(folder, restore_args=arguments))
    return step, {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_equal_bits(ours, theirs):
    """Both runs ended at the same step with the same bits, and logged the same lines."""
    (step, state), (other_step, other) = final_state(ours), final_state(theirs)
    assert step == other_step and state.keys() == other.keys()
    for path, leaf in state.items():
        assert leaf.dtype == other[path].dtype
        np.testing.assert_array_equal(leaf, other[path], err_msg=path)
    assert json.dumps(lines(ours)) == json.dumps(lines(theirs))


def assert_close(ours, theirs, tolerance):
    """Both runs ended at the same step with parameters and log lines within `tolerance`."""
    (step, state), (other_step, other) = final_state(ours), final_state(theirs)
    assert step == other_step and state.keys() == other.keys()
    for path, leaf in state.items():
        np.testing.assert_allclose(leaf, other[path], rtol=tolerance, atol=tolerance, err_msg=path)
    for line, other_line in zip(lines(ours), lines(theirs), strict=True):
        assert line.keys() == other_line.keys()
        for name, value in line.items():
            if name != "split":
                np.testing.assert_allclose(
                    value, other_line[name], rtol=tolerance, atol=tolerance, err_msg=name
                )
