"""`autosp.plan`: the plan of a model before a process group, a GPU or a weight exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from ..capture import Captured, trace
from ..solve import Device, Plan, load_device, solve
from ..spec import Spec, check_inputs
from .backend import ends
from .compile import resolve_spec
from .failures import as_raised
from .marks import layout_of
from .mesh import solved_axis
from .step import prepare


def plan(
    model: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    spec: Spec | str | None = None,
    *,
    sp: int,
    device: Device | str = "a100-80gb",
) -> Plan:
    """The plan for `model(**inputs)` split over `sp` ranks. Nothing is computed.

    The model and its inputs may be fake (made under `torch._subclasses.FakeTensorMode`), on the
    meta device, or real; `inputs` are one data-parallel rank's whole batch. spec: as in
    `autosp.compile`. device: a Device, or a name in specs/devices.

    `str(plan.summary())` tells where each collective stands and why; `plan.reshards` are those
    of the forward, in order. Raises what the first call of a compiled model raises.
    """
    return planned(model, inputs, spec, sp=sp, device=device)[0]


def planned(
    model, inputs, spec=None, *, sp: int, device: Device | str = "a100-80gb"
) -> tuple[Plan, Captured, Sequence]:
    """The plan, the graph that it is of, and the values of the graph's placeholders."""
    chosen = resolve_spec(spec, model)
    axis = solved_axis(chosen)
    check_inputs(chosen, {n: x for n, x in inputs.items() if chosen.input(n)}, {axis: sp})
    prepare(model)
    try:
        captured, examples = trace(
            model,
            inputs,
            layout_of=partial(layout_of, chosen),
            constraints=chosen.constraints,
            maps=chosen.maps,
            dynamic=bool(chosen.maps),
        )
    except Exception as e:
        raised = as_raised(e, model)
        if raised is e:
            raise
        raise raised from None
    chip = device if isinstance(device, Device) else load_device(device)
    return solve(captured, ends(chosen, captured), axis=axis, p=sp, device=chip), captured, examples
