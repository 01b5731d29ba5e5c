"""A DeepSpeed engine: DeepCompile runs the plan, ZeRO 0 or 1 completes the gradients.

DeepCompile asks its engine for the `autosp` pass's backend; ours is put there, on that engine
alone. Nothing of DeepSpeed's is patched.
"""

from __future__ import annotations

import torch.distributed as dist

from ..errors import EngineError, Problem
from ..spec import Spec
from .backend import Backend
from .compile import make_options, resolve_spec
from .mesh import Mesh, check_axis_size, of_group, solved_axis
from .step import Step, switch_off_cache

_groups: dict[tuple[int, int], dist.ProcessGroup] = {}


def compile_engine(engine, spec: Spec | str | None, *, device, recompute, backend: str, dynamic: bool | None):
    """Compiles a DeepSpeed engine's module. Raises EngineError where the config cannot run it."""
    problems = list(_config_problems(engine))
    if problems:
        raise EngineError(problems)
    chosen = resolve_spec(spec, engine.module)
    mesh = _mesh(engine, chosen)
    options = make_options(
        device, recompute, backend, dynamic, complete=False, grad_scale=_divisor(engine) / _data_parallel(engine, mesh)
    )
    program = Backend(chosen, mesh, options, on_plan=lambda plan: setattr(engine, "autosp_plan", plan))
    engine.get_autosp_backend = lambda compile_kwargs: program
    switch_off_cache(engine.module)
    engine.compile(compile_kwargs={"fullgraph": True, "dynamic": dynamic})
    engine.module._compiled_call_impl = Step(engine.module, engine.module._compiled_call_impl, chosen, mesh)
    return engine


def _sequence_parallel_size(engine) -> int:
    return int(engine._config._param_dict.get("sequence_parallel_size", engine.sequence_parallel_size))


def _mesh(engine, spec: Spec) -> Mesh:
    """Neighbouring ranks form an sp group, as in DeepSpeed's own mesh (data_parallel, sequence_parallel)."""
    axis, size, world = solved_axis(spec), _sequence_parallel_size(engine), dist.get_world_size()
    check_axis_size(axis, size, world)
    sizes = {axis: size} | {a: world // size for a in spec.local_axes[:1]}
    return of_group(axis, sizes, _group(size, world))


def _group(size: int, world: int) -> dist.ProcessGroup:
    """This rank's group; made once for all engines of the process, by all ranks in the same order."""
    if (size, id(dist.group.WORLD)) not in _groups:
        for first in range(0, world, size):
            ranks = list(range(first, first + size))
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                _groups[size, id(dist.group.WORLD)] = group
    return _groups[size, id(dist.group.WORLD)]


def _divisor(engine) -> float:
    """What the engine divides the sum of all ranks' gradients by."""
    return dist.get_world_size(engine.seq_data_parallel_group) / float(engine.sequence_parallel_size)


def _data_parallel(engine, mesh: Mesh) -> float:
    """How many batches the gradients are the mean over."""
    return dist.get_world_size() / mesh.size


def _config_problems(engine):
    config = getattr(engine._config, "compile_config", None)
    if "autosp" not in (getattr(config, "passes", None) or []) or not getattr(config, "deepcompile", False):
        yield Problem(
            what=f"the DeepSpeed config has compile.deepcompile {getattr(config, 'deepcompile', False)} "
            f"and compile.passes {getattr(config, 'passes', None) or []}",
            rule="autosp runs as DeepCompile's pass 'autosp'",
            fix='set "compile": {"deepcompile": true, "passes": ["autosp"]}',
            where="DeepSpeed config, compile",
        )
    stage = int(engine.zero_optimization_stage())
    if stage > 1:
        yield Problem(
            what=f"ZeRO stage {stage}",
            rule="the pass composes with ZeRO stage 0 and 1; stages 2 and 3 change how gradients and parameters are held "
            "during the compiled backward",
            fix='set "zero_optimization": {"stage": 1}',
            where="DeepSpeed config, zero_optimization.stage",
        )
    size, world = _sequence_parallel_size(engine), dist.get_world_size()
    if size > 1 and world % size == 0 and engine.sequence_parallel_size not in (1, size):
        yield Problem(
            what=f'"sequence_parallel_size" is {size}, and the engine\'s mesh has {engine.sequence_parallel_size}',
            rule="an axis is as large as its process group",
            fix="give both the same size",
            where="DeepSpeed config, sequence_parallel_size",
        )
