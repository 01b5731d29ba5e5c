"""Which ranks share a sequence: a spec's axes bound to process groups."""

from __future__ import annotations

import hashlib
import math

import attrs
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ..compat.torch import joined_group
from ..errors import EngineError, Problem, did_you_mean
from ..spec import Spec


@attrs.frozen(eq=False)
class Mesh:
    """The axis that the solver splits over, and this rank's place on it.

    sizes: of every axis. ranks: the global ranks of this rank's group on `axis`, in order.
    everyone: the global ranks of the whole mesh. others: the group's name and size of every other
    axis that the loss is a mean over.
    """

    axis: str
    sizes: dict[str, int]
    rank: int
    group: dist.ProcessGroup | None
    group_name: str
    ranks: tuple[int, ...]
    everyone: tuple[int, ...]
    others: dict[str, tuple[str, int]] = attrs.Factory(dict)

    @property
    def size(self) -> int:
        return self.sizes[self.axis]

    @property
    def everyone_word(self) -> str:
        """A short name of this set of ranks."""
        return hashlib.sha256(repr(sorted(self.everyone)).encode()).hexdigest()[:12]


def is_deepspeed(x: object) -> bool:
    """Whether it is a DeepSpeed engine; does not import DeepSpeed."""
    return any(c.__name__ == "DeepSpeedEngine" and c.__module__.startswith("deepspeed.") for c in type(x).__mro__)


def solved_axis(spec: Spec) -> str:
    """The spec's one axis that is not local. Raises EngineError where there are none or several."""
    axes = [a for a in spec.axes if a not in spec.local_axes]
    if len(axes) != 1:
        raise EngineError(_one_axis(spec, axes))
    return axes[0]


def from_device_mesh(spec: Spec, mesh: DeviceMesh | None) -> Mesh:
    """A spec's axes on a DeviceMesh, by dim name. Raises EngineError where they do not fit."""
    axis = solved_axis(spec)
    if mesh is None:
        raise EngineError(_no_mesh(axis))
    names = mesh.mesh_dim_names or ()
    sizes = {name: mesh.size(i) for i, name in enumerate(names)}
    if axis in names:
        group = mesh.get_group(axis)
    elif parts := _parts(axis, names):
        group = joined_group(mesh, parts, axis)
        sizes[axis] = math.prod(sizes[name] for name in parts)
    else:
        raise EngineError(no_axis(axis, names))
    bound = of_group(axis, sizes, group, tuple(mesh.mesh.flatten().tolist()))
    missing = [a for a in spec.reduce if a not in sizes]
    if missing:
        raise EngineError(no_axis(missing[0], names))
    others = {a: (str(mesh.get_group(a).group_name), sizes[a]) for a in spec.reduce if a != axis}
    return attrs.evolve(bound, others=others)


def _parts(axis: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The dims of a DeviceMesh, next to each other, that a joined axis is made of."""
    runs = (names[i:j] for i in range(len(names)) for j in range(i + 2, len(names) + 1))
    return next((run for run in runs if "_".join(run) == axis), ())


def of_group(axis: str, sizes: dict[str, int], group: dist.ProcessGroup, everyone: tuple[int, ...]) -> Mesh:
    """A mesh whose solved axis is this process group. Raises EngineError where the sizes differ."""
    actual = dist.get_world_size(group)
    if sizes[axis] != actual:
        raise EngineError(_other_size(axis, sizes[axis], actual))
    ranks = tuple(dist.get_process_group_ranks(group))
    return Mesh(axis, sizes, dist.get_rank(group), group, group.group_name, ranks, everyone)


def axis_size_problem(axis: str, size: int, world: int) -> Problem | None:
    """An axis divides the world."""
    if size >= 1 and world % size == 0:
        return None
    return Problem(
        what=f"axis '{axis}' has size {size}, and the world has {world} ranks",
        rule="the size of an axis divides the number of ranks",
        fix=f"set it to one of {', '.join(str(n) for n in range(1, world + 1) if world % n == 0)}, "
        "or start another number of ranks",
        where="DeepSpeed config, sequence_parallel_size",
    )


def _one_axis(spec: Spec, axes: list[str]) -> Problem:
    unshared = f"axes {', '.join(axes)}" if axes else "only local axes"
    return Problem(
        what=f"the mesh [{', '.join(spec.axes)}] has {unshared} to split over",
        rule="a program is split over exactly one axis of its mesh that is not local",
        fix="mark data-parallel axes local, mesh [dp: local, sp]; "
        "or let the axes split every dim together, seq@(sp tp)",
        where=f"spec {spec.family or '<unnamed>'}",
    )


def _no_mesh(axis: str) -> Problem:
    return Problem(
        what="no mesh was given",
        rule=f"without DeepSpeed, a DeviceMesh says which ranks form the axis '{axis}'",
        fix=f"pass mesh=torch.distributed.init_device_mesh('cuda', (DP, SP), mesh_dim_names=('dp', '{axis}'))",
        where="autosp.compile",
    )


def no_axis(axis: str, names: tuple[str, ...]) -> Problem:
    return Problem(
        what=f"axis '{axis}' of the spec is not a dim of the DeviceMesh ({', '.join(names) or 'unnamed dims'})",
        rule="every axis of the spec that is not local names a dim of the DeviceMesh",
        fix=did_you_mean(axis, names, f"name a dim of the mesh: mesh_dim_names=(..., '{axis}')"),
        where="autosp.compile(mesh=...)",
    )


def _other_size(axis: str, size: int, actual: int) -> Problem:
    return Problem(
        what=f"axis '{axis}' has size {size}, and its process group has {actual} ranks",
        rule="an axis is as large as its process group",
        fix="give both the same size",
        where="mesh",
    )
