"""One mesh with a `task` axis: parameters replicated, tasks sharded, one program on every host."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jmeta.types import PyTree


def task_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make a mesh of `devices`, all of every process by default, with the one axis `task`.

    The axis type is Auto: the compiler places the collectives (`jax.make_mesh` alone makes Explicit axes).
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("task",), axis_types=(AxisType.Auto,), devices=devices)


def require_task_mesh(who: str, mesh: Mesh) -> None:
    """Raise ValueError, in the name of `who`, for a mesh without an Auto axis `task`."""
    axes = dict(zip(mesh.axis_names, mesh.axis_types)) if isinstance(mesh, Mesh) else {}
    if axes.get("task") != AxisType.Auto:
        described = ", ".join(f"{name} ({axis.name})" for name, axis in axes.items()) or repr(mesh)
        raise ValueError(
            f"{who}: the mesh has the axes {described}; expected an axis task (Auto), over which tasks are "
            "sharded: jmeta.task_mesh(), or jax.make_mesh((devices,), ('task',), axis_types=(AxisType.Auto,))"
        )


def require_on_mesh(who: str, tree: PyTree, mesh: Mesh) -> None:
    """Raise ValueError, in the name of `who`, for concrete arrays that were placed on other devices."""
    devices = set(mesh.devices.flat)
    for leaf in jax.tree.leaves(tree):
        placed = not isinstance(leaf, jax.core.Tracer) and getattr(leaf, "committed", False)
        if placed and leaf.sharding.device_set != devices:
            raise ValueError(
                f"{who}: the state lies on {len(leaf.sharding.device_set)} device(s), the mesh has "
                f"{len(devices)}; place the state by jmeta.replicate(state, mesh)"
            )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Replicate the arrays and typed keys of `tree` over the devices of `mesh`, without needless copies.

    Across processes every process passes equal values. A learner with a mesh takes a state that was restored
    onto one device only after this.
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
    require_task_mesh("shard_tasks", mesh)
    devices = mesh.shape["task"]
    if devices == 1 or jax.tree.leaves(tasks)[0].shape[0] % devices:
        return tasks
    return jax.lax.with_sharding_constraint(tasks, NamedSharding(mesh, PartitionSpec("task")))
