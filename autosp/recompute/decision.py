"""The stage's entry: from one rank's local graph and a policy to a choice, and the peak that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
from torch import fx

from ..solve import Device
from ..spec import Recompute
from .choose import Candidate, Chooser
from .compiler import Compiler
from .joint import Joint, where
from .liveness import EAGER, saved_by_kind
from .partition import Choice, choice_of
from .trace import default_saved, trace_joint


@attrs.frozen(eq=False)
class Decision:
    """What was decided for one rank, and what it comes to, in bytes without parameters and optimizer.

    choice: what the partitioner runs, or None for PyTorch's own. saved: what crosses from forward
    to backward, by kind. At the peak: held, of what crosses; gradients, of those made so far;
    transient, of the rest; phase, at: where it is. seconds: spent twice. fits: whether the peak is within the
    limit (True where there is none). text: the choice in words.
    """

    choice: Choice | None = attrs.field(repr=False)
    saved: Mapping[str, int]
    held: int
    transient: int
    gradients: int
    phase: str
    at: str
    seconds: float
    limit: int | None
    text: str

    @property
    def peak(self) -> int:
        return self.held + self.transient + self.gradients

    @property
    def fits(self) -> bool:
        return self.limit is None or self.peak <= self.limit

    def fields(self) -> dict[str, Any]:
        """What JSON can hold; `of` reads it."""
        fields = {f.name: getattr(self, f.name) for f in attrs.fields(Decision)}
        if (c := self.choice) is not None:
            fields["choice"] = [sorted(c.saved), sorted(c.twice), c.plan, c.offload]
        return fields

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Decision:
        """The decision of such fields. Raises TypeError and ValueError for others."""
        fields = dict(fields)
        if fields.get("choice") is not None:
            saved, twice, plan, offloads = fields["choice"]
            fields["choice"] = Choice(frozenset(map(tuple, saved)), frozenset(map(tuple, twice)), plan, offloads)
        return cls(**fields)


@attrs.frozen(eq=False, slots=False)
class Choices:
    """What one rank may save and recompute: its joint graph, and the trade-off in it, for any policy and limit."""

    joint: Joint
    graph: fx.GraphModule
    chooser: Chooser

    @classmethod
    def of(
        cls, local: fx.GraphModule, examples: Sequence, *, device: Device, p: int, compiler: Compiler, offload: bool
    ) -> Choices | None:
        """Of a local graph; None where no gradient flows. The arguments are those of `decide`."""
        traced = trace_joint(local, examples, compiler.decompositions())
        if traced is None:
            return None
        return cls(*traced, Chooser(traced[0], device, p, offload=offload, compiler=compiler))

    @cached_property
    def default(self) -> Candidate:
        """What PyTorch's own partitioner saves."""
        outputs = len(self.graph.graph.output_node().args[0]) - self.joint.inputs
        return self.chooser.candidate(default_saved(self.joint, self.graph, outputs))

    def decide(self, policy: Recompute, *, limit: int | None = None, plan: str = "") -> Decision:
        """What a policy makes of it. The arguments are those of `decide`."""
        chooser = self.chooser

        def decision_of(c: Candidate, text: str, choice: bool = True) -> Decision:
            offloads = bool(c.schedule.offloaded)
            return Decision(
                choice_of(self.joint, c.saved, c.schedule.again, plan, offloads) if choice else None,
                saved_by_kind(c.schedule), c.peak.held, c.peak.transient, c.peak.gradients, c.phase,
                where(c.peak.at) if c.peak.at is not None else "", c.seconds, limit, text,
            )  # fmt: skip

        if policy.mode == "none":
            return decision_of(self.default, "none: PyTorch's own choice", choice=False)
        if policy.mode == "full":
            return decision_of(chooser.least(protect=False), "full: only what leaves a layer is saved")
        if policy.budget is None:
            return decision_of(chooser.least(protect=True), "sac: all is recomputed but attention and collectives")
        if isinstance(policy.budget, float):
            limit = int(policy.budget * self.default.peak.bytes)
        if limit is None:
            raise AssertionError(f"{policy} without a limit")
        if self.default.peak.bytes <= limit:
            text = "nothing more than PyTorch's own choice is recomputed: it fits"
            return decision_of(self.default, text, choice=False)
        fitting = chooser.fitting(limit)
        if fitting is None:
            return decision_of(chooser.smallest(), "the least peak: nothing fits")
        there = "; the residual stream crosses in the host's memory" if fitting.schedule.offloaded else ""
        return decision_of(fitting, f"the least time that fits{there}")


def decide(
    local: fx.GraphModule,
    examples: Sequence,
    policy: Recompute,
    *,
    device: Device,
    p: int,
    limit: int | None = None,
    plan: str = "",
    compiler: Compiler = EAGER,
    offload: bool = False,
) -> Decision | None:
    """What one rank saves and what it recomputes; None where no gradient flows.

    compiler: what runs the graph. offload: whether the residual stream may cross in the host's memory, for a policy
    with a budget. limit: bytes that activations and gradients may take at the peak, for `sac budget SIZE` and `sac
    budget auto` (without parameters and optimizer); a fraction is one of the peak that `none` has. plan: the
    plan's fingerprint. Where nothing fits, the least peak is chosen and `fits` is False.
    """
    choices = Choices.of(local, examples, device=device, p=p, compiler=compiler, offload=offload)
    return None if choices is None else choices.decide(policy, limit=limit, plan=plan)
