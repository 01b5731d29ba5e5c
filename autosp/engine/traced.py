"""A plan from fake tensors: the model traced, and solved. Nothing is computed, nothing is predicted of memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch

from ..capture import Captured, trace
from ..solve import Around, Device, Plan, load_device
from ..spec import Spec, check_inputs
from .backend import ends
from .compile import resolve_spec
from .failures import as_raised
from .marks import layout_of
from .mesh import solved_axis
from .solving import NeedsSymbols, fixed_lengths, planned_program
from .step import prepare

# Of a model and a spec: what is known to need symbols. Plans for many lengths trace each but once.
_refused: WeakKeyDictionary[torch.nn.Module, dict[tuple[str, int], tuple[Around, ...]]] = WeakKeyDictionary()


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
    chip = device if isinstance(device, Device) else load_device(device)
    known = _refused.setdefault(model, {})
    refused = known.get((str(chosen), sp), ())
    symbols = bool(chosen.maps or refused)
    while True:
        captured, examples = _traced(model, inputs, chosen, symbols)
        try:
            captured, plan, _ = planned_program(
                captured, partial(ends, chosen), axis=axis, p=sp, device=chip, refused=refused
            )
            known[str(chosen), sp] = refused
            return plan, captured, examples
        except NeedsSymbols as needed:
            if symbols:
                raise fixed_lengths(needed) from None
            refused, symbols = needed.around, True


def _traced(model, inputs, spec: Spec, symbols: bool) -> tuple[Captured, Sequence]:
    """The program, with symbols for all sizes or for none."""
    try:
        return trace(
            model,
            inputs,
            layout_of=partial(layout_of, spec),
            constraints=spec.constraints,
            maps=spec.maps,
            dynamic=symbols,
        )
    except Exception as e:
        raised = as_raised(e, model)
        if raised is e:
            raise
        raise raised from raised.__cause__
