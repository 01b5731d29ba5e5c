"""`autosp.compile` and `autosp.backend`: the public ways in."""

from __future__ import annotations

import os

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from ..compat.torch import compiled_call, set_compiled_call
from ..errors import EngineError, Problem
from ..solve import Device
from ..spec import Spec
from .agree import Agreement, new_program
from .deepspeed import compile_engine
from .dynamo_backend import Backend
from .mesh import from_device_mesh, is_deepspeed
from .resolve import make_options, resolve_spec, spec_for
from .step import Step, fully_sharded, prepare


def compile(
    model_or_engine,
    spec: Spec | str | None = None,
    *,
    mesh: DeviceMesh | None = None,
    device: Device | str | None = None,
    recompute: str | None = None,
    backend: str = "inductor",
    dynamic: bool | None = None,
    grad_reduce: str | None = None,
    plan: str | os.PathLike | None = None,
):
    """Compiles a model, or a DeepSpeed engine's, to run split over the spec's axis.

    Args:
        model_or_engine: a module, or a DeepSpeed engine (ZeRO 0 or 1, "deepcompile" with the pass "autosp").
        spec: a `Spec`, the name of a shipped one, a path, or text; None chooses by the model's class.
        mesh: a DeviceMesh whose dims carry the spec's axis names; a DeepSpeed engine brings its own.
        device: a `Device`, or the name of one in `specs/devices`, that costs are of; None takes "a100-80gb" on CUDA
            and "cpu" elsewhere.
        recompute: what the backward computes again, as in a spec ("none", "sac", "sac budget 20GiB", "sac budget 0.5",
            "sac budget auto", "full"); None takes the spec's. A budget in bytes is for all that a rank holds at the
            peak, states of the model included.
        backend: what compiles a rank's graph: "inductor", "aot_eager" or "eager" (which recomputes nothing).
        dynamic: True compiles once for all lengths, False for each length; None, as in torch.compile, for the first
            length and, when a second one comes, for all others.
        grad_reduce: "engine" leaves parameter gradients partial over the axis, for an engine that sums them; None sums
            them in the backward (a DeepSpeed engine always sums its own).
        plan: a file that `Plan.save` wrote, to run by instead of planning again. It serves the calls that it was made
            for; evaluation, and inputs of other sizes, are planned anew.

    Returns:
        What was given. Every rank of the axis calls it with the same batch, whole: (batch, seq) and the like. The loss
        is the global one on every rank; `.autosp_plan` is the `Plan`, from the first step on.

    Raises:
        SpecError, EngineError: before anything is compiled.
        InputError, CaptureError, RuleError, PlanError, RankError: from the first call, before any collective; PlanError
            also where `plan` is stale, which names what differs.

    Source:
        Ulysses attention (Jacobs et al., 2023); operators are split by factors, as in Shardy.

    Example:
        >>> import autosp, torch, torch.distributed as dist
        >>> class Head(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(8, 16)
        ...     def forward(self, x, labels):
        ...         return torch.nn.functional.cross_entropy(self.linear(x).flatten(0, 1), labels.flatten())
        >>> spec = "mesh [dp: local, sp]\\ninput x [batch@dp, seq@sp, hidden]\\ninput labels [batch@dp, seq@sp]"
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # torchrun: more ranks
        >>> mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
        >>> model = autosp.compile(Head(), spec, mesh=mesh, backend="aot_eager")
        >>> batch = {"x": torch.randn(2, 32, 8), "labels": torch.zeros(2, 32, dtype=torch.int64)}
        >>> model(**batch).backward()
        >>> model.linear.weight.grad.shape, model.autosp_plan.p
        (torch.Size([16, 8]), 1)
        >>> dist.destroy_process_group()
    """
    with new_program() as number:
        if is_deepspeed(model_or_engine):
            return compile_engine(
                model_or_engine, spec, number, mesh=mesh, device=device, recompute=recompute, backend=backend,
                dynamic=dynamic, grad_reduce=grad_reduce, plan=plan,
            )  # fmt: skip
        module = model_or_engine
        if isinstance(module, torch.nn.parallel.DistributedDataParallel):
            raise EngineError(_wrapped(type(module).__name__))
        if any(isinstance(part, FSDPModule) for part in module.modules()):
            raise EngineError(fully_sharded(type(module).__name__))
        chosen = spec_for(spec, module)
        agreement = Agreement(from_device_mesh(chosen, mesh), number)
        options = make_options(device, recompute, backend, dynamic, plan=plan, complete=_completes(grad_reduce))
        program = Backend(
            chosen, agreement, options, on_plan=lambda plan: setattr(module, "autosp_plan", plan), model=module
        )
        install(module, program, dynamic)
        return module


def backend(
    spec: Spec | str,
    mesh: DeviceMesh,
    *,
    device: Device | str | None = None,
    recompute: str | None = None,
    backend: str = "inductor",
    dynamic: bool | None = None,
    grad_reduce: str | None = None,
    plan: str | os.PathLike | None = None,
) -> Backend:
    """A backend for `torch.compile(model_or_function, backend=..., fullgraph=True)`.

    For what is not a module's own call: a function of several models, a loss around one. Module paths are those of the
    model that a function uses; where it uses several, the name of a model's variable stands before its paths
    (`policy.layers.*.mlp`). Inputs are known by their names in the compiled function, or by `autosp.annotate`. What
    `compile` checks on each call (sizes, equal batches) is the caller's here.

    Args:
        spec: a `Spec`, the name of a shipped one, a path, or text.
        mesh: a DeviceMesh whose dims carry the spec's axis names.
        device, recompute, backend, dynamic, grad_reduce, plan: as in `compile`.

    Returns:
        A backend, whose `plans` hold one `Plan` for each graph that it compiled.

    Raises:
        SpecError, EngineError: here; what `compile` raises from the first call: at the first call.

    Example:
        >>> import autosp, torch, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # torchrun: more ranks
        >>> mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
        >>> split = autosp.backend("mesh [dp: local, sp]\\ninput x [batch@dp, seq@sp]", mesh, backend="aot_eager")
        >>> @torch.compile(backend=split, fullgraph=True)
        ... def loss(x):
        ...     return (x * x).mean()
        >>> loss(torch.full((2, 8), 3.0))
        tensor(9.)
        >>> dist.destroy_process_group()
    """
    with new_program() as number:
        chosen = resolve_spec(spec, None)
        options = make_options(device, recompute, backend, dynamic, plan=plan, complete=_completes(grad_reduce))
        return Backend(chosen, Agreement(from_device_mesh(chosen, mesh), number), options)


def install(module: torch.nn.Module, program: Backend, dynamic: bool | None) -> None:
    """Makes the module's call go through the compiled program."""
    cache_was_on = prepare(module)
    module.compile(backend=program, fullgraph=True, dynamic=dynamic)
    set_compiled_call(module, Step(module, compiled_call(module), program, cache_was_on))


def _completes(grad_reduce: str | None) -> bool:
    if grad_reduce not in (None, "backward", "engine"):
        raise EngineError(
            Problem(
                what=f"grad_reduce='{grad_reduce}' is not known",
                rule="parameter gradients are summed over the axis in the backward (None or 'backward') "
                "or by an engine ('engine')",
                fix="leave grad_reduce out",
                where="autosp.compile",
            )
        )
    return grad_reduce != "engine"


def _wrapped(wrapper: str) -> Problem:
    return Problem(
        what=f"the model is wrapped in {wrapper} already",
        rule="autosp compiles the model itself; a wrapper that averages gradients goes around it",
        fix=f"{wrapper}(autosp.compile(model, spec, mesh=mesh))",
        where="autosp.compile",
    )
