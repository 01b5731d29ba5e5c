"""A plan from fake tensors: the model traced, and solved. Nothing is computed, nothing is predicted of memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..capture import Captured, trace
from ..recompute.tile_hoist import hoisted
from ..solve import Device, Plan, load_device, solve
from ..spec import check_inputs
from .backend import ends
from .compile import resolve_spec
from .failures import as_raised
from .marks import layout_of
from .mesh import solved_axis
from .step import prepare


def planned(
    model, inputs, spec=None, *, sp: int, device: Device | str = "a100-80gb"
) -> tuple[Plan, Captured, Sequence]:
    """The plan, the graph that it is of, and the values of the graph's placeholders.

    The model and its inputs may be fake, on the meta device, or real. Raises what the first call of
    a compiled model raises.
    """
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
    captured = hoisted(captured)
    chip = device if isinstance(device, Device) else load_device(device)
    return solve(captured, ends(chosen, captured), axis=axis, p=sp, device=chip), captured, examples
