"""`autosp.compile` and `autosp.backend`: the public ways in."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import evolve
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from ..compat.tested import warn_of_untested
from ..compat.torch import compiled_call, set_compiled_call, uncompiled
from ..errors import EngineError, Problem, SpecError
from ..solve import Device, load_device
from ..spec import Spec, check_model, for_class, load, parse
from ..spec.joined import joined
from .agree import Agreement, new_program
from .backend import Backend, Options
from .failures import placed
from .marks import with_marks
from .mesh import from_device_mesh, is_deepspeed
from .recomputing import States
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
):
    """Compiles a model, or a DeepSpeed engine's, to run split over the spec's axis; gives it back.

    spec: a Spec, the name of a family, a path, or spec text; None chooses by the model's class.
    mesh: a DeviceMesh whose dims carry the spec's axis names; a DeepSpeed engine brings its own.
    dynamic: True compiles once for all lengths, False for each length; None, as in torch.compile, for the first
    length and, when a second one comes, for all others.
    recompute: what the backward computes again, as in a spec ("none", "sac", "sac budget 20GiB", "sac
    budget 0.5", "sac budget auto", "full"); None takes the spec's. A budget in bytes is for all that
    a rank holds, states of the model included.
    grad_reduce: "engine" leaves parameter gradients partial over the axis, for an engine that sums
      them; the default sums them in the backward (a DeepSpeed engine always sums its own).

    `.autosp_plan` holds the plan after the first step. Raises SpecError, EngineError; the first
    call may raise InputError, CaptureError, RuleError, PlanError and RankError, before any collective.
    """
    with new_program() as number:
        if is_deepspeed(model_or_engine):
            from .deepspeed import compile_engine

            return compile_engine(
                model_or_engine, spec, number, mesh=mesh, device=device, recompute=recompute, backend=backend,
                dynamic=dynamic, grad_reduce=grad_reduce,
            )  # fmt: skip
        module = model_or_engine
        if isinstance(module, torch.nn.parallel.DistributedDataParallel):
            raise EngineError(_wrapped(type(module).__name__))
        if any(isinstance(part, FSDPModule) for part in module.modules()):
            raise EngineError(fully_sharded(type(module).__name__))
        chosen = spec_for(spec, module)
        agreement = Agreement(from_device_mesh(chosen, mesh), number)
        options = make_options(device, recompute, backend, dynamic, complete=_completes(grad_reduce))
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
) -> Backend:
    """A backend for `torch.compile(model, backend=..., fullgraph=True)`; arguments as for `compile`.

    What is compiled may be a function too. Module paths are those of the model that it uses; where it
    uses several, the name of a model's variable stands before its paths (`policy.layers.*.mlp`).
    Inputs are known by their names in the compiled function, or by `autosp.annotate`. What
    `compile` checks on each call (sizes, equal batches) is the caller's here.
    """
    with new_program() as number:
        chosen = resolve_spec(spec, None)
        options = make_options(device, recompute, backend, dynamic, complete=_completes(grad_reduce))
        return Backend(chosen, Agreement(from_device_mesh(chosen, mesh), number), options)


def install(module: torch.nn.Module, program: Backend, dynamic: bool | None) -> None:
    """Makes the module's call go through the compiled program."""
    cache_was_on = prepare(module)
    module.compile(backend=program, fullgraph=True, dynamic=dynamic)
    set_compiled_call(module, Step(module, compiled_call(module), program, cache_was_on))


def spec_for(spec: Spec | str | None, module: torch.nn.Module) -> Spec:
    """The spec of a module. Raises SpecError where it cannot be read or does not fit the module, and
    EngineError for what torch.compile made of one: its call would pass by the program."""
    if uncompiled(module) is not module:
        raise EngineError(_compiled(type(uncompiled(module)).__name__))
    chosen = resolve_spec(spec, module)
    if spec is None:
        chosen = with_marks(chosen, module)
    problems = check_model(chosen, module)
    if problems:
        raise SpecError([evolve(p, where=p.where or f"spec {chosen.family or '<unnamed>'}") for p in problems])
    return chosen


def resolve_spec(spec: Spec | str | None, module: torch.nn.Module | None) -> Spec:
    """A Spec from what a user may name one by, over one axis where its axes always split together. Raises SpecError."""
    return joined(_named(spec, module))


def _named(spec: Spec | str | None, module: torch.nn.Module | None) -> Spec:
    if isinstance(spec, Spec):
        return spec
    with placed("autosp.compile(spec=...)"):
        if spec is None:
            return for_class(type(module).__name__)
        return parse(spec) if "\n" in str(spec) else load(str(spec) if isinstance(spec, Path) else spec)


def make_options(
    device, recompute, backend: str, dynamic: bool | None, *, complete=True, grad_scale=1.0, states: States = States()
) -> Options:
    warn_of_untested()
    chosen = device if isinstance(device, Device) else load_device(device or _default_device())
    return Options(backend, chosen, dynamic, recompute, grad_scale, complete, states)


def _default_device() -> str:
    return "a100-80gb" if torch.cuda.is_available() else "cpu"


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


def _compiled(model: str) -> Problem:
    return Problem(
        what=f"{model} is compiled by torch.compile already",
        rule="autosp compiles the model itself",
        fix="leave torch.compile out: autosp.compile(model, spec, mesh=mesh), which takes backend= and dynamic=",
        where="autosp.compile",
    )


def _wrapped(wrapper: str) -> Problem:
    return Problem(
        what=f"the model is wrapped in {wrapper} already",
        rule="autosp compiles the model itself; a wrapper that averages gradients goes around it",
        fix=f"{wrapper}(autosp.compile(model, spec, mesh=mesh))",
        where="autosp.compile",
    )
