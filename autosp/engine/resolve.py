"""The arguments of `compile` and `plan` as values: the spec of a module, and the options of a backend."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import evolve

from ..compat.tested import warn_of_untested
from ..compat.torch import uncompiled
from ..errors import EngineError, Problem, SpecError
from ..solve import Device, load_device
from ..spec import Spec, check_model, for_class, load, parse
from ..spec.joined import joined
from .dynamo_backend import Options
from .failures import placed
from .marks import with_marks
from .plan_file import read_plan
from .recomputing import States


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
    device,
    recompute,
    backend: str,
    dynamic: bool | None,
    *,
    plan=None,
    complete=True,
    grad_scale=1.0,
    states: States = States(),
) -> Options:
    warn_of_untested()
    chosen = device if isinstance(device, Device) else load_device(device or _default_device())
    return Options(
        backend, chosen, dynamic, recompute, grad_scale, complete, states, None if plan is None else read_plan(plan)
    )


def _default_device() -> str:
    return "a100-80gb" if torch.cuda.is_available() else "cpu"


def _compiled(model: str) -> Problem:
    return Problem(
        what=f"{model} is compiled by torch.compile already",
        rule="autosp compiles the model itself",
        fix="leave torch.compile out: autosp.compile(model, spec, mesh=mesh), which takes backend= and dynamic=",
        where="autosp.compile",
    )
