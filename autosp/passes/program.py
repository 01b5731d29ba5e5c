"""What the passes pass on, and their options."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from torch import fx

from ..capture import Captured
from ..lower import Rank
from ..recompute import Decision, Tiled
from ..sharding import MeshAxis
from ..solve import Around, Device, Ends, Plan, Settle
from ..spec import Constraint, Map, Tile


@attrs.frozen
class Ran:
    """One pass that ran: its name, its seconds with those of its verification, and the calls of the program's graph
    before and after it."""

    name: str
    seconds: float
    before: int
    after: int


@attrs.frozen(eq=False)
class Program:
    """A model's forward at one stage of its way from a global graph to what one rank runs.

    captured: the global graph, its inputs, parameters and outputs. plan: the sharding of every value, and the reshards;
    from `shard` on. local: one rank's graph, from `lower_to_rank` on. grouped: how many of its attentions have fewer
    heads of keys than of queries. windows: how many run over a sliding window, block by block. cut: the local graph
    before it was cut into tiles. tiled, notes: what runs in tiles, and what does not and why. decision: what is saved
    for the backward; None where PyTorch chooses. mapped: calls of modules that became one call each. stage: the last
    pass, "" where there was none. passes: those that ran.
    """

    captured: Captured
    plan: Plan | None = None
    local: fx.GraphModule | None = None
    grouped: int = 0
    windows: int = 0
    cut: fx.GraphModule | None = None
    tiled: tuple[Tiled, ...] = ()
    notes: tuple[str, ...] = ()
    decision: Decision | None = None
    mapped: tuple[Around, ...] = ()
    stage: str = ""
    passes: tuple[Ran, ...] = ()

    @classmethod
    def of(cls, plan: Plan) -> Program:
        """A program that was planned before."""
        return cls(plan.problem.captured, plan, stage="shard")

    @property
    def graph(self) -> fx.GraphModule:
        """The graph of this stage: one rank's where there is one, else the global one."""
        return self.captured.graph if self.local is None else self.local

    @property
    def calls(self) -> int:
        return sum(node.op == "call_function" for node in self.graph.graph.nodes)


@attrs.frozen(eq=False, kw_only=True)
class Context:
    """The options of the passes; a prefix of them needs what its own passes read.

    constraints, maps, tiles: the spec's statements of these names. mean_over: axes beside the solver's that the loss is
    one token mean over. ends: the placements that are required of a program's outputs. axis: the mesh axis that is
    solved for. settle: where the solver's answer is taken from, if not from its own search. device: what the costs are
    of. dynamic: whether lengths stay symbols. mapped: calls of modules that are known to have to run per shard. rank:
    the one that a local graph is for. budget: bytes that activations may take, which the size of tiles follows; 0 where
    nothing says so. choose: what is saved for the backward, of a plan and a local graph; None leaves it to PyTorch.
    """

    constraints: tuple[Constraint, ...] = ()
    maps: tuple[Map, ...] = ()
    mean_over: tuple[str, ...] = ()
    ends: Callable[[Captured], Ends] | None = None
    settle: Settle | None = None
    axis: MeshAxis = attrs.Factory(lambda: MeshAxis("", 1))
    device: Device | None = None
    dynamic: bool = False
    mapped: tuple[Around, ...] = ()
    rank: Rank | None = None
    tiles: tuple[Tile, ...] = ()
    budget: int = 0
    choose: Callable[[Plan, fx.GraphModule], Decision | None] | None = None
