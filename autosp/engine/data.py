"""Samples for the ranks of a mesh: one sp group reads the same ones, different dp ranks different ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.data import Dataset, DistributedSampler

from ..errors import EngineError, Problem, did_you_mean
from .deepspeed import sequence_parallel_size, size_problems
from .mesh import is_deepspeed

SHARED = ("sp", "tp")


def sampler(
    dataset: Dataset,
    mesh_or_engine,
    *,
    shuffle: bool = True,
    seed: int = 0,
    drop_last: bool = True,
    shared: Sequence[str] = SHARED,
) -> DistributedSampler:
    """A sampler that gives the ranks of one sp group the same samples, and different dp ranks different ones.

    With DeepSpeed, `engine.deepspeed_io(dataset, data_sampler=sampler(dataset, engine))` is a loader; one made by
    `deepspeed.initialize(training_data=...)` samples by the global rank, which the first step refuses.

    Args:
        dataset: as for a DistributedSampler.
        mesh_or_engine: a DeviceMesh, or a DeepSpeed engine, compiled or not, whose config says
            "sequence_parallel_size".
        shuffle, seed, drop_last: as for a DistributedSampler.
        shared: the axes of a DeviceMesh whose ranks read the same samples.

    Returns:
        A DistributedSampler: call `set_epoch` before each epoch to shuffle anew.

    Raises:
        EngineError: the mesh has none of the shared axes, or this rank is not part of it.

    Example:
        >>> import torch.distributed as dist
        >>> from autosp.engine import sampler
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
        >>> list(sampler(range(4), mesh, shuffle=False))
        [0, 1, 2, 3]
        >>> dist.destroy_process_group()
    """
    on_mesh = isinstance(mesh_or_engine, DeviceMesh)
    shares, share = _of_mesh(mesh_or_engine, tuple(shared)) if on_mesh else _of_engine(mesh_or_engine)
    return DistributedSampler(dataset, num_replicas=shares, rank=share, shuffle=shuffle, seed=seed, drop_last=drop_last)


def _of_mesh(mesh: DeviceMesh, shared: tuple[str, ...]) -> tuple[int, int]:
    """How many shares the data has, and which one is this rank's: its place on the other axes."""
    names = mesh.mesh_dim_names or ()
    if shared and not set(shared) & set(names):
        raise EngineError(_nothing_shared(names, shared))
    shares, place = 1, 0
    here = mesh.get_coordinate()
    if here is None:
        raise EngineError(_outside(names))
    for i, coordinate in enumerate(here):
        if i >= len(names) or names[i] not in shared:
            shares, place = shares * mesh.size(i), place * mesh.size(i) + coordinate
    return shares, place


def _of_engine(engine) -> tuple[int, int]:
    if not is_deepspeed(engine):
        raise EngineError(_neither(engine))
    problems = list(size_problems(engine, "sp", None))
    if problems:
        raise EngineError(problems)
    size = sequence_parallel_size(engine)
    return dist.get_world_size() // size, dist.get_rank() // size


def _nothing_shared(names: tuple[str, ...], shared: tuple[str, ...]) -> Problem:
    return Problem(
        what=f"the DeviceMesh ({', '.join(names) or 'unnamed dims'}) has no axis among {', '.join(shared)}",
        rule="the ranks along a shared axis read the same samples, all others different ones",
        fix=did_you_mean(shared[0], names, "name the axis: sampler(dataset, mesh, shared=('...',))"),
        where="autosp.engine.sampler",
    )


def _outside(names: tuple[str, ...]) -> Problem:
    return Problem(
        what=f"this rank is not part of the DeviceMesh ({', '.join(names) or 'unnamed dims'})",
        rule="a rank reads samples by its place in the mesh",
        fix="make the sampler on the mesh's own ranks only",
        where="autosp.engine.sampler",
    )


def _neither(value: object) -> Problem:
    return Problem(
        what=f"a value of type {type(value).__name__} says nothing about ranks",
        rule="a sampler is made for a DeviceMesh or a DeepSpeed engine",
        fix="pass the mesh that autosp.compile was given",
        where="autosp.engine.sampler",
    )
