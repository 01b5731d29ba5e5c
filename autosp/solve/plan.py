"""The solver's answer: a sharding per value, a reshard per edge, and the reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import attrs
from torch import fx

from ..errors import PlanError
from ..errors import Problem as Fault
from ..sharding import Mesh, Sharding, ranks
from .assembly import Change, OpSharding
from .device import Device
from .memory import Memory
from .problem import Op, Problem, Value


@attrs.frozen
class Reshard:
    """One collective of the forward, as its users read it.

    kind: "all_to_all", "all_gather", "reduce_scatter", "all_reduce" or "slice". module, source:
    where in the model. before, after: layout text, one per tensor that travels. bytes: sent by one
    rank in the forward. seconds: predicted, forward and backward. reason: the rule that needs it.
    alternative: the best other way for the operator that needs it, with its cost.
    """

    kind: str
    backward: str
    module: str
    source: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    bytes: int
    seconds: float
    reason: str
    alternative: str
    values: tuple[str, ...]


@attrs.frozen(eq=False)
class Solution:
    """A sharding per value, a reshard per edge, and why: what `Plan` answers from. It knows no rank.

    mesh: the axes that are planned for, outermost first. shardings: by value id. chosen: the sharding of each operator.
    changes: every reshard, including the free ones; groups: those that travel together, in order.
    seconds: predicted compute and communication of one step (forward and backward). answer: what the solver found, by
    operator: which of its strategies.

    What `autosp.plan` adds: length, of the whole sequence; memory, at the peak of the fullest rank;
    recompute, the setting, with what came of it in `recomputed` and the seconds that it costs;
    tiled, what is computed in tiles (`autosp.recompute.tiling.Tiled`).
    """

    problem: Problem = attrs.field(repr=False)
    mesh: Mesh
    device: Device
    attention: str
    shardings: Mapping[int, Sharding] = attrs.field(repr=False)
    chosen: Mapping[Op, OpSharding] = attrs.field(repr=False)
    changes: tuple[Change, ...]
    groups: tuple[tuple[Change, ...], ...]
    outputs: tuple[Sharding | None, ...]
    reshards: tuple[Reshard, ...]
    compute_seconds: float
    communication_seconds: float
    notes: tuple[str, ...] = ()
    length: int | None = None
    memory: Memory | None = attrs.field(default=None, repr=False)
    recompute: str = ""
    recomputed: str = ""
    recompute_seconds: float = 0.0
    tiled: tuple[Any, ...] = ()
    answer: tuple[int, ...] = attrs.field(default=(), repr=False)

    @property
    def axis(self) -> str:
        """The axes' names, joined as a spec's joined axis is."""
        return "_".join(axis.name for axis in self.mesh)

    @property
    def p(self) -> int:
        """How many ranks share the program."""
        return ranks(self.mesh)

    @property
    def step_seconds(self) -> float:
        """Predicted seconds of forward and backward on the busiest rank."""
        return self.compute_seconds + self.communication_seconds + self.recompute_seconds

    @property
    def peak_bytes(self) -> int:
        """Predicted bytes at the peak of the fullest rank. Raises PlanError where none were predicted."""
        if self.memory is None:
            raise PlanError(no_memory("peak_bytes"))
        return self.memory.peak

    @property
    def fits(self) -> bool:
        """Whether the peak is within what the device leaves to a program. Raises as `peak_bytes`."""
        return self.peak_bytes <= self.device.usable

    def sharding(self, node: fx.Node, index: int = 0) -> Sharding:
        return self.shardings[self.problem.of[node][index].id]

    def describe(self) -> str:
        """Every value's placement and every change, a line each: the text that is fingerprinted."""
        lines = [f"plan over {self.axis}={self.p} attention {self.attention}"]
        for v in self.problem.values:
            lines.append(f"{v.name} {list(map(str, v.shape))} {v.dtype} {self.shardings[v.id]!r}")
        for group in self.groups:
            lines += [f"{self.problem.values[c.value].name}: {c.src!r} -> {c.dst!r}" for c in group]
            lines.append("--")
        return "\n".join(lines)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.describe().encode()).hexdigest()[:16]


def no_memory(attribute: str) -> Fault:
    """A plan that was not made by `autosp.plan` has no prediction of memory."""
    return Fault(
        what=f"no memory was predicted for this plan, so it has no {attribute}",
        rule="memory is predicted by autosp.plan, which knows the optimizer, the ZeRO stage and the device",
        fix="ask autosp.plan(model, inputs, spec, sp=...)",
        where=f"plan.{attribute}",
    )


def nothing_to_save() -> Fault:
    """A plan of which only the solver knows."""
    return Fault(
        what="this plan is of no training step, so it cannot be saved",
        rule="a plan is saved for a training step, by autosp.plan or by the compiled model that made one",
        fix="save what autosp.plan(...) gives, or the .autosp_plan of a compiled model after its first training step, "
        "before it is evaluated",
        where="plan.save",
    )


def collectives(reshards: tuple[Reshard, ...]) -> tuple[Reshard, ...]:
    """Those that communicate in the forward."""
    return tuple(r for r in reshards if r.kind != "slice")


__all__ = ["Change", "Reshard", "Solution", "Value", "collectives"]
