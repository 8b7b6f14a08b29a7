"""One mesh with a `task` axis: parameters replicated, tasks sharded, one program on every host."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jmeta.types import PyTree


def task_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make a mesh of `devices`, all of every process by default, with the one axis `task`.

    The axis type is Auto: the compiler places the collectives (`jax.make_mesh` alone makes Explicit axes).
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("task",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Replicate the arrays and typed keys of `tree` over the devices of `mesh`, without needless copies.

    Across processes every process passes equal values.
    """
    sharding = replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # `jax.device_put` cannot place a typed key on another process's device; a compiled program can.
    return jax.jit(lambda tree: tree, out_shardings=sharding)(tree)


def shard_tasks(tasks: PyTree, mesh: Mesh) -> PyTree:
    """Spread the leading axis [task, ...] of every leaf over the devices of `mesh`, inside jit.

    A number of tasks that does not divide over the devices is left to the compiler; the learner pads it.
    """
    devices = mesh.shape["task"]
    if devices == 1 or jax.tree.leaves(tasks)[0].shape[0] % devices:
        return tasks
    return jax.lax.with_sharding_constraint(tasks, NamedSharding(mesh, PartitionSpec("task")))


def start_distributed() -> None:
    """Join the processes of a cluster; call it before anything computes.

    On TPU pods, Slurm, Open MPI and Kubernetes jax finds the others by itself. Elsewhere, set in each process
    JAX_COORDINATOR_ADDRESS=HOST:PORT (of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0).

    Raises:
      ValueError: if these settings are missing or malformed, or if jax has computed something before.
    """
    settings: dict[str, Any] = {}
    for name in ("num_processes", "process_id"):
        text = os.environ.get(f"JAX_{name.upper()}")
        if text is not None and not text.isdecimal():
            raise ValueError(f"JAX_{name.upper()}={text}; expected a number, 0 or more")
        if text is not None:
            settings[name] = int(text)
    try:
        jax.distributed.initialize(**settings)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"cannot join the other processes: {' '.join(str(error).split())} (outside TPU pods, Slurm, Open "
            "MPI and Kubernetes set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES, JAX_PROCESS_ID)"
        ) from error
