"""One rank's program below `autosp.compile`: where what is saved is said by hand."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import fx

from autosp.engine.inner import compile_inner, compiler_of
from autosp.engine.traced import planned
from autosp.lower import Rank, band, lower
from autosp.recompute import Compiler, Decision, tile
from autosp.recompute.choose import Chooser
from autosp.recompute.joint import Joint, crosses_layers, where
from autosp.recompute.liveness import saved_by_kind
from autosp.recompute.partition import choice_of
from autosp.recompute.trace import default_saved, trace_joint
from autosp.solve import Device, Plan
from autosp.spec import load


@attrs.frozen(eq=False)
class Program:
    """The first rank's graph, tiled, on a process group by its name."""

    plan: Plan
    local: fx.GraphModule
    examples: Any
    compiler: Compiler
    backend: str

    def joint(self) -> tuple[Joint, fx.GraphModule]:
        return trace_joint(self.local, self.examples, self.compiler.decompositions())

    def residual(self) -> int:
        """Bytes of what leaves layers."""
        return sum(s.bytes for s in self.joint()[0].saveable if crosses_layers(s))

    def layers(self) -> Decision:
        """Only what leaves a layer is saved, and outside of layers what PyTorch saves: what `torch.utils.checkpoint`
        around each layer does."""
        joint, gm = self.joint()
        chooser = Chooser(joint, self.plan.device, self.plan.p, compiler=self.compiler)
        none = default_saved(joint, gm, len(gm.graph.output_node().args[0]) - joint.inputs)
        c = chooser.candidate(
            frozenset(s.id for s in joint.saveable if crosses_layers(s) or (s.layer is None and s.id in none))
        )
        return Decision(
            choice_of(joint, c.saved, c.schedule.again, self.plan.fingerprint()), saved_by_kind(c.schedule),
            c.peak.held, c.peak.transient, c.peak.gradients, c.phase, where(c.peak.at) if c.peak.at else "", c.seconds,
            None, "each layer under torch.utils.checkpoint",
        )  # fmt: skip

    def compiled(self, choice):
        """A call that gives the loss."""
        run = compile_inner(self.backend, self.local, self.examples, choice)

        def forward() -> torch.Tensor:
            return next(x for x in run(*self.examples) if isinstance(x, torch.Tensor))

        return forward


def program(
    model: torch.nn.Module, inputs: dict, spec: str, device: Device, backend: str, *, sp: int = 1, group: str = "alone"
) -> Program:
    said = load(spec)
    plan, captured, examples = planned(model, inputs, said, sp=sp, device=device)
    local = lower(plan, Rank(0, group, complete=False))
    band(local)
    local, _, _ = tile(local, said.tile, captured.hints, device.usable)
    return Program(plan, local, examples, compiler_of(backend, examples), backend)
