"""The longest sequence that fits, for a request: few lengths are planned, for each takes a minute of a large model."""

from __future__ import annotations

import copy
import math
import sys
import time
from itertools import chain
from typing import Any

import attrs
import torch

from ..errors import PlanError
from ..solve import Plan
from . import messages
from .longest import FIRST, STEP, longest
from .request import Request

NEAR = 1.5  # a least peak is known well enough up to this many times its length
LAYERS = (4, 8)  # of the shallow models that the first length is guessed from
LONG = 4 * FIRST  # their length: long enough that most of a peak grows with it


class Search:
    """The lengths that were planned for one request."""

    def __init__(self, request: Request):
        self.request = request
        self.auto = request.recompute.budget == "auto"
        self.least: dict[int, int] = {}
        self.plans: dict[int, Plan] = {}

    def run(self) -> Plan | None:
        """The plan for the longest length whose peak fits, within one percent; None where none does."""
        state, usable = self.request.state, self.request.device.usable
        if state.total + state.working > usable:
            return None
        step = math.lcm(STEP, self.request.sp)
        length = longest(self._peak, usable, {0: state.lasting}, step=step, first=self._first())
        if length and length not in self.plans:
            self._planned(length)
        return self.plans[length] if length else None

    def _peak(self, length: int) -> int:
        """Bytes of the program's least peak at this length, with the states.

        A budget that follows the device is filled by what is chosen, if it can be: the least peak is
        then computed only where none is known near, and follows the length where a plan fits.
        """
        near = [n for n in self.least if length / NEAR <= n <= length * NEAR]
        if self.auto and not near:
            self.least[length] = self._planned(length, least=True)
            return self.least[length]
        peak = self._planned(length)
        if not self.auto or peak > self.request.device.usable:
            return peak
        lasting = self.request.state.lasting
        return min(lasting + (self.least[near[0]] - lasting) * length // near[0], self.request.device.usable)

    def _planned(self, length: int, least: bool = False) -> int:
        """The program's peak at this length, reported on stderr; the plan is kept where it is the real one."""
        begin = time.perf_counter()
        room = 0 if least else self.request.available
        plan, peak = self.request.predicted(self.request.of_length(length), room)
        if plan.memory is None:
            raise PlanError(messages.no_step(type(self.request.model).__name__))
        if not least:
            self.plans[length] = plan
        message = messages.tried(length, peak, self.request.device, time.perf_counter() - begin)
        print(message, file=sys.stderr, flush=True)
        return peak

    def _first(self) -> int:
        """A length to begin with: where a line through two models of a few layers says that the room is full."""
        count = depth(self.request.model)
        if count <= 2 * LAYERS[-1]:
            return FIRST
        try:
            few, more = (self._shallow(n) for n in LAYERS)
        except Exception:  # it is only where to begin: the model itself will say what is wrong
            return FIRST
        activations = few + (more - few) * (count - LAYERS[0]) // (LAYERS[1] - LAYERS[0])
        return LONG * self.request.available // max(activations, 1)

    def _shallow(self, layers: int) -> int:
        """Bytes of the least peak of the first layers alone, without states, at a long length."""
        begin = time.perf_counter()
        request = attrs.evolve(self.request, model=shallow(self.request.model, layers), kept={})
        peak = request.predicted(request.of_length(LONG), 0 if self.auto else request.available)[1]
        print(messages.tried_shallow(layers, time.perf_counter() - begin), file=sys.stderr, flush=True)
        return peak - request.state.lasting


def layers_of(model: torch.nn.Module) -> torch.nn.ModuleList | None:
    """The list of modules of one class that holds most of the parameters, if any."""
    alike = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len({type(x) for x in m}) == 1]
    return max(alike, key=lambda m: sum(p.numel() for p in m.parameters()), default=None)


def depth(model: torch.nn.Module) -> int:
    """How many repeated layers a model has; 0 where none are seen."""
    return len(layers_of(model) or ())


def shallow(model: torch.nn.Module, layers: int) -> torch.nn.Module:
    """A copy of the first layers only, on the same tensors."""
    known: dict = {id(x): x for x in chain(model.parameters(), model.buffers())}
    whole = layers_of(model)
    assert whole is not None, "a depth of 0 is not cut"
    known[id(whole)] = torch.nn.ModuleList(copy.deepcopy(x, known) for x in whole[:layers])
    made = copy.deepcopy(model, known)
    config: Any = getattr(made, "config", None)
    if getattr(config, "num_hidden_layers", None) == len(whole):
        config.num_hidden_layers = layers
    return made
