"""A plan from fake tensors: the model traced, and solved. Nothing is computed, nothing is predicted of memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from weakref import WeakKeyDictionary

import attrs
import torch

from ..capture import Captured, trace
from ..passes import Context, NeedsSymbols, Program, fixed_lengths, run, sharded
from ..sharding import MeshAxis
from ..solve import Around, Device, Plan, load_device
from ..spec import Spec
from .dynamo_backend import ends
from .failures import as_raised
from .marks import check_call, layout_of
from .mesh import solved_axis
from .resolve import resolve_spec
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
    return Planner(model, inputs, spec).planned(sp, device)


class Planner:
    """Plans of a model on inputs of one shape for any numbers of ranks, from as few traces as they need: one, and one
    more with symbols for its lengths where modules turn out to have to run per shard."""

    def __init__(self, model, inputs, spec: Spec | str | None = None):
        self.model, self.inputs = model, inputs
        self.spec = resolve_spec(spec, model)
        self.axis = solved_axis(self.spec)
        self.options = Context(constraints=self.spec.constraints, maps=self.spec.maps, ends=partial(ends, self.spec))
        self._traces: dict[bool, tuple[Program, Sequence]] = {}  # with symbols, or without

    def planned(self, sp: int, device: Device | str = "a100-80gb") -> tuple[Plan, Captured, Sequence]:
        """What `planned` gives, over `sp` ranks."""
        training = getattr(self.model, "training", True) and torch.is_grad_enabled()
        check_call(self.spec, self.inputs, {self.axis: sp}, training=training)
        chip = device if isinstance(device, Device) else load_device(device)
        known = _refused.setdefault(self.model, {})
        refused = known.get((str(self.spec), sp), ())
        symbols = bool(self.spec.maps or refused)
        while True:
            program, examples = self._traced(symbols)
            try:
                context = attrs.evolve(self.options, axis=MeshAxis(self.axis, sp), device=chip, mapped=refused)
                made = sharded(program, context)
                known[str(self.spec), sp] = refused
                assert made.plan is not None
                return made.plan, made.captured, examples
            except NeedsSymbols as needed:
                if symbols:
                    raise fixed_lengths(needed) from None
                refused, symbols = needed.around, True

    def _traced(self, symbols: bool) -> tuple[Program, Sequence]:
        """The program as all plans begin with it, with symbols for all sizes or for none."""
        if symbols not in self._traces:
            prepare(self.model)
            captured, examples = _traced(self.model, self.inputs, self.spec, symbols)
            self._traces[symbols] = run(Program(captured), self.options, until="constrain"), examples
        return self._traces[symbols]


def _traced(model, inputs, spec: Spec, symbols: bool) -> tuple[Captured, Sequence]:
    try:
        return trace(model, inputs, layout_of=partial(layout_of, spec), dynamic=symbols)
    except Exception as e:
        raised = as_raised(e, model)
        if raised is e:
            raise
        raise raised from raised.__cause__
