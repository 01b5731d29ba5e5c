"""A DeepSpeed engine: DeepCompile runs the plan, ZeRO 0 or 1 completes the gradients.

DeepCompile asks its engine for the `autosp` pass's backend; ours is put there, on that engine
alone. Nothing of DeepSpeed's is patched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ..compat.deepspeed import config_entry, deepcompile_passes, skip_native_backward
from ..compat.torch import compiled_call, set_compiled_call
from ..errors import EngineError, Problem
from ..recompute.state import MOMENTS
from ..spec import Spec
from .agree import Agreement
from .dynamo_backend import Backend
from .mesh import Mesh, axis_size_problem, no_axis, of_group, solved_axis
from .recomputing import States
from .resolve import make_options, spec_for
from .step import Step, prepare

_groups: dict[tuple, dist.ProcessGroup] = {}


def compile_engine(
    engine,
    spec: Spec | str | None,
    number: int,
    *,
    mesh: DeviceMesh | None,
    device,
    recompute,
    backend: str,
    dynamic: bool | None,
    grad_reduce: str | None,
    plan,
):
    """Compiles a DeepSpeed engine's module. Raises EngineError where the config cannot run it."""
    chosen = spec_for(spec, engine.module)
    axis = solved_axis(chosen)
    problems = list(_config_problems(engine)) + list(size_problems(engine, axis, mesh))
    problems += [_reduces_itself(grad_reduce)] if grad_reduce not in (None, "engine") else []
    if problems:
        raise EngineError(problems)
    agreement = Agreement(_mesh(engine, chosen), number)
    divisor = _divisor(engine) / _data_parallel(agreement.mesh)
    complete = not _engine_sums(engine, agreement.mesh)
    options = make_options(
        device, recompute, backend, dynamic, plan=plan, complete=complete, grad_scale=divisor, states=_states(engine)
    )
    program = Backend(
        chosen,
        agreement,
        options,
        on_plan=lambda plan: setattr(engine, "autosp_plan", plan),
        model=engine.module,
    )
    engine.get_autosp_backend = lambda compile_kwargs: program
    cache_was_on = prepare(engine.module)
    engine.compile(compile_kwargs={"fullgraph": True, "dynamic": dynamic})
    skip_native_backward(engine)
    step = Step(engine.module, compiled_call(engine.module), program, cache_was_on)
    set_compiled_call(engine.module, step)
    return engine


def sequence_parallel_size(engine) -> int:
    """How many ranks share a sequence: by the config, else by the engine's own mesh."""
    return int(_config_size(engine) or engine.sequence_parallel_size)


def _config_size(engine) -> int | None:
    return config_entry(engine, "sequence_parallel_size")


def _mesh(engine, spec: Spec) -> Mesh:
    """Neighbouring ranks form an sp group, as in DeepSpeed's own mesh (data_parallel, sequence_parallel)."""
    axis, size, world = solved_axis(spec), sequence_parallel_size(engine), dist.get_world_size()
    sizes = {axis: size} | {a: world // size for a in spec.local_axes[:1]}
    mesh = of_group(axis, sizes, _group(size, world), tuple(range(world)))
    others = [a for a in spec.reduce if a != axis]
    if not others:
        return mesh
    return attrs.evolve(mesh, others={others[0]: (_across(size, world).group_name, world // size)})


def _group(size: int, world: int) -> dist.ProcessGroup:
    """This rank's group of neighbours."""
    return _one_of(("sp", size), [list(range(first, first + size)) for first in range(0, world, size)])


def _across(size: int, world: int) -> dist.ProcessGroup:
    """This rank's data-parallel group: one rank of every group of neighbours."""
    return _one_of(("dp", size), [list(range(first, world, size)) for first in range(size)])


def _one_of(key: tuple, partition: list[list[int]]) -> dist.ProcessGroup:
    """The group of `partition` that holds this rank; made once for all engines of the process, by
    all ranks in the same order."""
    key = (*key, id(dist.group.WORLD))
    if key not in _groups:
        for ranks in partition:
            group: Any = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                _groups[key] = group
    return _groups[key]


def _divisor(engine) -> float:
    """What the engine divides the sum of all ranks' gradients by."""
    return dist.get_world_size(engine.seq_data_parallel_group) / float(engine.sequence_parallel_size)


def _engine_sums(engine, mesh: Mesh) -> bool:
    """Whether the engine's reduction covers the axis. It does with "sequence_parallel_size" alone;
    with "data_parallel_size" too, the engine has a mesh and reduces over its data-parallel ranks only."""
    return set(mesh.ranks) <= set(dist.get_process_group_ranks(engine.seq_data_parallel_group))


def _states(engine) -> States:
    """What decides how much a rank holds of the model's states; an optimizer of another kind counts as Adam."""
    name = str(engine.optimizer_name() or "adamw").lower()
    return States(name if name in MOMENTS else "adamw", int(engine.zero_optimization_stage()), dist.get_world_size())


def _data_parallel(mesh: Mesh) -> float:
    """How many batches the gradients are the mean over."""
    return dist.get_world_size() / mesh.size


def _config_problems(engine) -> Iterator[Problem]:
    deepcompile, passes = deepcompile_passes(engine)
    if "autosp" not in passes or not deepcompile:
        yield Problem(
            what=f"the DeepSpeed config has compile.deepcompile {deepcompile} and compile.passes {passes}",
            rule="autosp runs as DeepCompile's pass 'autosp'",
            fix='set "compile": {"deepcompile": true, "passes": ["autosp"]}',
            where="DeepSpeed config, compile",
        )
    stage = int(engine.zero_optimization_stage())
    if stage > 1:
        yield Problem(
            what=f"ZeRO stage {stage}",
            rule="the pass composes with ZeRO stage 0 and 1; stages 2 and 3 change how gradients and parameters "
            "are held during the compiled backward",
            fix='set "zero_optimization": {"stage": 1}',
            where="DeepSpeed config, zero_optimization.stage",
        )


def size_problems(engine, axis: str, mesh: DeviceMesh | None) -> Iterator[Problem]:
    """An axis divides the world, and all who name its size name the same."""
    size, own, world = sequence_parallel_size(engine), engine.sequence_parallel_size, dist.get_world_size()
    if _config_size(engine) is None and own == 1 and world > 1:
        yield _no_size(axis, world)
        return
    problem = axis_size_problem(axis, size, world)
    if problem:
        yield problem
    elif own not in (1, size):
        yield _two_sizes(size, f"the engine's mesh has {own}")
    if mesh is not None and axis not in (mesh.mesh_dim_names or ()):
        yield no_axis(axis, mesh.mesh_dim_names or ())
    elif mesh is not None and mesh.get_group(axis).size() != size:
        yield _two_sizes(size, f"axis '{axis}' of the DeviceMesh has {mesh.get_group(axis).size()}")


def _no_size(axis: str, world: int) -> Problem:
    return Problem(
        what=f"nothing says how many of the {world} ranks share a sequence",
        rule=f"the size of axis '{axis}' is \"sequence_parallel_size\" in the DeepSpeed config, or its mesh's",
        fix=f'set "sequence_parallel_size": {world}, or another number that divides {world}; 1 splits nothing',
        where="DeepSpeed config, sequence_parallel_size",
    )


def _two_sizes(size: int, other: str) -> Problem:
    return Problem(
        what=f'"sequence_parallel_size" is {size}, and {other}',
        rule="an axis is as large as its process group",
        fix="give both the same size",
        where="DeepSpeed config, sequence_parallel_size",
    )


def _reduces_itself(grad_reduce: str) -> Problem:
    return Problem(
        what=f"grad_reduce='{grad_reduce}' for a DeepSpeed engine",
        rule="a DeepSpeed engine completes the parameter gradients of its ranks itself",
        fix="leave grad_reduce out",
        where="autosp.compile",
    )


def initialize(model, optimizer, config: dict):
    """A DeepSpeed engine around a model and its optimizer, in a process group that exists."""
    import deepspeed

    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
