"""The solver's answer: a placement per value, a reshard per edge, and the reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import attrs
from torch import fx

from ..layout import Placement
from .cost import word
from .device import Device
from .problem import Op, Problem, Value
from .strategies import Strategy


@attrs.frozen
class Change:
    """One value brought from one placement to another, for all users that need it so."""

    value: int
    src: Placement
    dst: Placement


@attrs.frozen
class Reshard:
    """One collective of the forward, as its users read it.

    kind: "all_to_all", "all_gather", "reduce_scatter", "all_reduce" or "slice". module, source:
    where in the model. before, after: layout text, one per tensor that travels. bytes: sent by one
    rank in the forward. seconds: predicted, forward and backward. reason: the rule that asked.
    alternative: the best other way for the operator that asked, with its cost.
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
class Plan:
    """A layout per value, a reshard per edge, and why. A plan knows no rank.

    placements: by value id. chosen: the strategy of each operator. changes: every reshard,
    including the free ones; groups: those that travel together, in order.
    seconds: predicted compute and communication of one step (forward and backward).
    """

    problem: Problem = attrs.field(repr=False)
    axis: str
    p: int
    device: Device
    attention: str
    placements: Mapping[int, Placement] = attrs.field(repr=False)
    chosen: Mapping[Op, Strategy] = attrs.field(repr=False)
    changes: tuple[Change, ...]
    groups: tuple[tuple[Change, ...], ...]
    outputs: tuple[Placement | None, ...]
    reshards: tuple[Reshard, ...]
    compute_seconds: float
    communication_seconds: float
    notes: tuple[str, ...] = ()

    @property
    def step_seconds(self) -> float:
        """Predicted seconds of forward and backward on the busiest rank."""
        return self.compute_seconds + self.communication_seconds

    def placement(self, node: fx.Node, index: int = 0) -> Placement:
        return self.placements[self.problem.of[node][index].id]

    def describe(self) -> str:
        """Every value's placement and every change, a line each: the text that is fingerprinted."""
        lines = [f"plan over {self.axis}={self.p} attention {self.attention}"]
        for v in self.problem.values:
            lines.append(f"{v.name} {list(map(str, v.shape))} {v.dtype} {self.placements[v.id]!r}")
        for group in self.groups:
            lines += [f"{self.problem.values[c.value].name}: {c.src!r} -> {c.dst!r}" for c in group]
            lines.append("--")
        return "\n".join(lines)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.describe().encode()).hexdigest()[:16]

    def summary(self) -> str:
        """The plan in a few lines: where each collective stands, alike ones of repeated layers together."""
        from .words import summary

        return summary(self)


def collectives(reshards: tuple[Reshard, ...]) -> tuple[Reshard, ...]:
    """Those that communicate in the forward."""
    return tuple(r for r in reshards if r.kind != "slice")


__all__ = ["Change", "Plan", "Reshard", "Value", "collectives", "word"]
