"""A graph with fewer of its equal parts, whose trace tells what the trace of the whole would be."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import attrs
from torch import fx

from .runs import Repetition

PART = "autosp_part"  # in `meta["custom"]`, which a trace hands on: the run, the part, and the call in it


@attrs.frozen(eq=False)
class Short:
    """A graph that keeps the first parts of each run. kept: how many; of: by input of the short graph, the input of the
    whole one; inputs: by input of the short graph, the run and part that alone reads it, and which of its inputs it is.
    """

    graph: fx.GraphModule
    runs: tuple[Repetition, ...]
    kept: int
    of: tuple[int, ...]
    inputs: tuple[tuple[int, int, int] | None, ...]

    def missing(self, run: int) -> int:
        """How many parts of a run are left out."""
        return len(self.runs[run]) - self.kept


def shortened(gm: fx.GraphModule, runs: Sequence[Repetition], kept: int) -> Short | None:
    """The graph without the later parts of its long runs; what read the last part reads the last that is kept. None
    where there is no long run whose parts, but for the last, are read by the next part alone."""
    runs = tuple(run for run in runs if len(run) > kept and _is_a_chain(run))
    if not runs:
        return None
    at = {n: (r, k, i) for r, run in enumerate(runs) for k, part in enumerate(run.parts) for i, n in enumerate(part)}
    read = {n: (r, k, j) for r, run in enumerate(runs) for k, own in enumerate(run.inputs) for j, n in enumerate(own)}
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}

    def new(node: fx.Node) -> fx.Node:
        r, k, i = at.get(node, (0, 0, 0))
        return env[node] if k < kept else env[runs[r].parts[kept - 1][i]]

    of, inputs = [], []
    for place, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        if read.get(node, (0, 0, 0))[1] < kept:
            of.append(place)
            inputs.append(read.get(node))
    for node in gm.graph.nodes:
        if at.get(node, (0, 0, 0))[1] >= kept or read.get(node, (0, 0, 0))[1] >= kept:
            continue
        env[node] = copy = graph.node_copy(node, new)
        if node in at:
            copy.meta["custom"] = {**(node.meta.get("custom") or {}), PART: at[node]}
    constants = {n.target: attrgetter(n.target)(gm) for n in graph.find_nodes(op="get_attr")}
    short = fx.GraphModule(constants, graph)
    short.meta.update(gm.meta)
    return Short(short, runs, kept, tuple(of), tuple(inputs))


def _is_a_chain(run: Repetition) -> bool:
    """Whether what a part gives goes to the next part and no further; the last one's, to the rest of the graph."""
    at = {n: k for k, part in enumerate(run.parts) for n in part}
    return all(at.get(user, -1) in (k, k + 1) for n, k in at.items() if k < len(run) - 1 for user in n.users)
