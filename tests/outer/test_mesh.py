"""The mesh on one device, joining a cluster, and signals; several devices are in test_processes.py."""

import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from processes import free_address

import jmeta
from jmeta.outer.cluster import start_distributed
from jmeta.outer.mesh import replicate, shard_tasks, task_mesh
from jmeta.outer.signals import stop_on_signals


def test_the_mesh_has_one_automatic_axis_over_all_devices():
    mesh = task_mesh()
    assert mesh.axis_names == ("task",) and mesh.axis_types == (AxisType.Auto,)
    assert mesh.devices.tolist() == jax.devices()
    assert task_mesh(jax.devices()[:1]).size == 1


def test_replicate_places_arrays_and_keys():
    tree = {"w": jnp.arange(3.0), "key": jax.random.key(5), "host": np.ones(2, np.uint8)}
    placed = replicate(tree, task_mesh())
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(placed))
    assert placed["host"].dtype == np.uint8
    np.testing.assert_array_equal(placed["w"], [0, 1, 2])
    np.testing.assert_array_equal(jax.random.bits(placed["key"]), jax.random.bits(tree["key"]))
    assert replicate(placed, task_mesh())["w"].unsafe_buffer_pointer() == placed["w"].unsafe_buffer_pointer()


def test_one_device_shards_nothing():
    program = jax.make_jaxpr(lambda x: shard_tasks(x, task_mesh(jax.devices()[:1])))(jnp.ones((4, 2)))
    assert not program.jaxpr.eqns


def test_a_cluster_cannot_be_joined_late_or_with_half_the_settings(monkeypatch):
    jnp.ones(1).block_until_ready()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(ValueError, match="must be called before any JAX c.*JAX_COORDINATOR_ADDRESS"):
        start_distributed()
    for name, value, message in (
        ("PROCESS_ID", "first", "JAX_PROCESS_ID=first; expected a number"),
        ("PROCESS_ID", "1", "JAX_PROCESS_ID=1 of JAX_NUM_PROCESSES=1; expected 0 to 0"),
        ("COORDINATOR_ADDRESS", "host", "'host' is no address; expected HOST:PORT"),
    ):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=message):
            patch.setenv(f"JAX_{name}", value)
            start_distributed()
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS")
    with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS is not set .outside TPU pods, Slurm"):
        start_distributed()


@pytest.mark.parametrize(("index", "missing"), [("0", "process 1"), ("1", "process 0")])
def test_a_process_alone_says_for_whom_it_waits_and_gives_up(monkeypatch, capfd, index, missing):
    address = free_address()
    for name, value in (("COORDINATOR_ADDRESS", address), ("NUM_PROCESSES", "2"), ("PROCESS_ID", index)):
        monkeypatch.setenv(f"JAX_{name}", value)
    with pytest.raises(ValueError, match=f"{missing} of 2 did not come to {address} within 1 s"):
        start_distributed(patience=0.6, prefix="toy: ")
    assert capfd.readouterr().err == f"toy: waiting for {missing} of 2 at {address}, at most 1 s\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_a_flag_and_handlers_return(number, capfd):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals() as stopped:
        assert stopped() is None
        os.kill(os.getpid(), number)
        assert stopped() == number
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # a second Ctrl-C ends the process
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert "with a checkpoint" in capfd.readouterr().err


def test_other_threads_hear_nothing():
    heard = []

    def work():
        with stop_on_signals() as stopped:
            heard.append(stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [None]


@pytest.mark.parametrize(
    ("axis", "kind", "words"),
    [("data", AxisType.Auto, r"axes data \(Auto\)"), ("task", AxisType.Explicit, r"task \(Explicit\)")],
)
def test_a_mesh_without_an_automatic_axis_of_tasks_is_refused(axis, kind, words):
    mesh = jax.make_mesh((1,), (axis,), axis_types=(kind,))
    network = jmeta.from_pair(lambda key, x: jnp.ones(x.shape[1]), lambda params, x: x @ params)
    for use in (lambda: jmeta.learner(network, jmeta.mean_squared_error, optax.sgd(0.1), mesh=mesh),
                lambda: shard_tasks(jnp.ones((2, 3)), mesh)):  # fmt: skip
        with pytest.raises(ValueError, match=rf"{words}; expected an axis task \(Auto\).*jmeta.task_mesh"):
            use()
