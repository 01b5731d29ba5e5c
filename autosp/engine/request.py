"""A request of `autosp.plan`: all but the length, so that plans for several lengths can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch

from ..collector import uncollected
from ..compat.torch import FakeTensorMode
from ..errors import PlanError
from ..passes import predict
from ..passes.prediction import budget_of
from ..recompute.compiler import Compiler
from ..recompute.decision import Decision
from ..recompute.notes import offload_notes, tile_notes
from ..recompute.state import Setting, State
from ..sharding import MeshAxis
from ..solve import Device, Plan
from ..solve.memory import Memory
from ..spec import Recompute, Spec
from . import messages
from .fakes import fake_inputs
from .marks import layout_of
from .mesh import solved_axis
from .plan_file import conditions_of, saveable
from .recomputing import limit_of
from .traced import planned


@attrs.frozen(eq=False)
class Request:
    """A model, fake, in training, and its fake inputs; the spec, resolved; what a rank holds of the model.

    search: how the longest length that fits is looked for.
    """

    model: torch.nn.Module
    inputs: Mapping[str, Any]
    mode: FakeTensorMode
    spec: Spec
    sp: int
    device: Device
    recompute: Recompute
    setting: Setting
    state: State
    search: Callable[[Request], Plan | None]
    _kept: dict = attrs.field(factory=dict)

    def plan(self) -> Plan:
        """The plan for the inputs as they were given."""
        return self.predicted(self.inputs, self.available)[0]

    def at(self, length: int) -> Plan:
        """The plan for inputs of this length. Raises PlanError where no input has a length."""
        return self.predicted(self.of_length(length), self.available)[0]

    def longest(self) -> Plan | None:
        """The plan for the longest length whose peak fits, solved for it; None where none does. It is kept.

        The length is a multiple of 1024 and of the ranks, within one percent of the longest.
        Raises as `at`, and PlanError where nothing is trained.
        """
        if "longest" not in self._kept:
            self._kept["longest"] = self.search(self)
        return self._kept["longest"]

    @property
    def available(self) -> int:
        """Bytes for activations and gradients, of the budget or of the device."""
        limit = limit_of(self.recompute, self.state, self.device.usable)
        return max(self.device.usable - self.state.lasting if limit is None else limit, 0)

    @property
    def compiler(self) -> Compiler:
        """Inductor, as `autosp.compile` has it by default."""
        return Compiler(True, "cpu" if self.device.name == "cpu" else "cuda")

    def of_length(self, length: int) -> dict[str, Any]:
        """The inputs with another length, wherever a dim of that name stands."""
        dims = self._lengths()
        if not dims:
            raise PlanError(messages.no_length(list(self.inputs), solved_axis(self.spec)))

        def shape(name: str, x: torch.Tensor) -> tuple[int, ...]:
            return tuple(length if (name, d) in dims else n for d, n in enumerate(x.shape))

        return fake_inputs(self.inputs, self.mode, shape=shape)

    @uncollected
    def predicted(self, inputs: Mapping[str, Any], room: int) -> tuple[Plan, int]:
        """The plan, and the bytes of the program's own peak with the states that last, where activations
        and gradients have `room` bytes. Without a backward there is no memory, and 0 bytes."""
        solved, examples = self._solved(inputs)
        prediction = predict(
            solved, self.recompute, self.spec.tile, examples=examples, limit=room,
            offload=self.spec.offload == "auto", compiler=self.compiler, known=self._kept["choices"],
        )  # fmt: skip
        length = next((inputs[name].shape[d] for name, d in sorted(self._lengths())), None)
        solved = attrs.evolve(solved, length=length, recompute=str(self.recompute))
        if prediction is None:
            return self._saveable(solved, 0, None), 0
        decision = prediction.decision
        plan = attrs.evolve(
            solved,
            memory=memory_of(self.state, self.setting, decision, self._assumed(length)),
            recomputed=decision.text,
            recompute_seconds=decision.seconds,
            tiled=prediction.tiled,
            notes=(
                *solved.notes,
                *tile_notes(prediction.tiled, prediction.notes),
                *offload_notes(self.spec.offload == "auto", self.device.host),
            ),
            longest=self.longest,
        )
        return self._saveable(plan, budget_of(self.recompute, room), decision), self.state.lasting + decision.peak

    def _saveable(self, plan: Plan, budget: int, decision: Decision | None) -> Plan:
        """The plan, which can be saved for a step that is compiled with Inductor."""
        captured, axis = plan.problem.captured, MeshAxis(plan.axis, plan.p)
        conditions = conditions_of(
            captured,
            type(self.model).__name__,
            self.spec,
            axis,
            self.device,
            self.recompute,
            "inductor",
            self.compiler.device,
        )
        return saveable(plan, conditions, budget, decision)

    def _solved(self, inputs: Mapping[str, Any]) -> tuple[Plan, Sequence]:
        """The plan without memory; that of the last shapes is kept, with what may be saved of it."""
        key = tuple((name, tuple(x.shape)) for name, x in inputs.items() if isinstance(x, torch.Tensor))
        if self._kept.get("shapes") != key:
            plan, _, examples = planned(self.model, inputs, self.spec, sp=self.sp, device=self.device)
            self._kept.update(shapes=key, solved=(plan, examples), choices={})
        return self._kept["solved"]

    def _lengths(self) -> set[tuple[str, int]]:
        """(input, dim) of every dim with the name of one that is split over the axis."""
        axis = solved_axis(self.spec)
        named = [(name, d, dim) for name, layout in self._layouts() for d, dim in enumerate(layout.dims)]
        split = {dim.name for _, _, dim in named if axis in dim.axes and dim.name}
        return {(name, d) for name, d, dim in named if dim.name in split}

    def _layouts(self) -> Iterator[tuple[str, Any]]:
        for name, x in self.inputs.items():
            layout = layout_of(self.spec, name, x) if isinstance(x, torch.Tensor) else None
            if layout:
                yield name, layout

    def _assumed(self, length: int | None) -> tuple[str, ...]:
        positions = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        past = isinstance(positions, int) and length is not None and length > positions
        return (
            *([messages.reserve(self.device)] if self.device.reserve else []),
            *([messages.positions(length, positions)] if past else []),
        )


def memory_of(state: State, setting: Setting, decision: Decision, assumed: tuple[str, ...]) -> Memory:
    """What a rank holds at the fullest moment of a step: one of the program's, or the engine's after the backward."""
    made = setting.part(decision.gradients, 2)
    own = {"parameters": state.parameters, "optimizer": state.optimizer, "saved": decision.saved}
    assumptions = (*state.assumptions, *assumed)
    if decision.held + decision.transient + made >= state.gradients + state.working:
        return Memory(
            **own, gradients=made, held=decision.held, transient=decision.transient, phase=decision.phase,
            at=decision.at, assumptions=assumptions,
        )  # fmt: skip
    return Memory(
        **own, gradients=state.gradients, held=0, transient=state.working, phase="step", at=messages.STEP_AT,
        assumptions=assumptions,
    )  # fmt: skip
