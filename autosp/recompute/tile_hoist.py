"""A slice of the tokens, moved from behind a product and what follows it to its activation.

`logits[:, :-1]` needs the tokens whole, so no tile could hold it; `x[:, :-1]` stands before the
tiles, and every call between has fewer tokens to work on.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import fx

from ..rules import op_name
from ..rules.localise import TABLE
from .tile_region import begin
from .tile_values import Ref, Values, ref

aten = torch.ops.aten
SLICES = (aten.slice.Tensor, aten.narrow.default)


@attrs.frozen(eq=False)
class Step:
    """One call between the product and the slice: which of its operands are cut, and along which dim."""

    node: fx.Node
    cuts: dict[Ref, int]


def hoist(values: Values, seeds: list[fx.Node]) -> bool:
    """Move every slice of tokens that follows a seed alone. Says whether the graph has changed."""
    moved = False
    for node in list(values.gm.graph.nodes):
        if node.target in SLICES:
            steps = _steps(values, node, seeds)
            if steps:
                _move(values, node, steps)
                moved = True
    if moved:
        values.gm.graph.eliminate_dead_code()
        values.gm.graph.lint()
        values.gm.recompile()
    return moved


def _dim(values: Values, node: fx.Node) -> int:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return dim % len(values.shape((node, 0)))


def _steps(values: Values, slice_: fx.Node, seeds: list[fx.Node]) -> list[Step]:
    """The calls from a seed to the slice, which alone reads each; empty where there is no such chain."""
    dim, current, found = _dim(values, slice_), ref(slice_.args[0])[0], []
    if values.shape((slice_, 0)) == values.shape(ref(slice_.args[0])):
        return []
    while True:
        step = _step(values, current, dim)
        if step is None or len(current.users) != 1:
            return []
        found.append(step)
        if current in seeds:
            tokens = [t.split((current, 0)).dim for t in begin(values, current).tokens]
            return found[::-1] if dim in tokens else []
        before = [r for r in step.cuts if r[0].op == "call_function" and _leads_to(r[0], seeds)]
        if len(before) != 1:
            return []
        current, dim = before[0][0], step.cuts[before[0]]


def _leads_to(node: fx.Node, seeds: list[fx.Node]) -> bool:
    """Whether a seed is the node, or stands before it."""
    seen, stack = set(), [node]
    while stack:
        n = stack.pop()
        if n in seeds:
            return True
        if n not in seen:
            seen.add(n)
            stack += n.all_input_nodes
    return False


def _step(values: Values, node: fx.Node, dim: int) -> Step | None:
    """The operands that a slice of a call's result along `dim` cuts; None where it is not one of theirs."""
    call = values.call(node) if node.op == "call_function" else None
    if call is None or call.random or op_name(node.target) in TABLE or len(call.results) != 1:
        return None
    factors = call.results[0][dim]
    if len(factors) != 1 or call.kinds[factors[0]] != "pass":
        return None
    cuts: dict[Ref, int] = {}
    for r, dims in zip(values.operands(node), call.operands, strict=True):
        for d, inside in enumerate(dims):
            if factors[0] in inside:
                if inside != factors or cuts.setdefault(r, d) != d:
                    return None
    return Step(node, cuts)


def _move(values: Values, slice_: fx.Node, steps: list[Step]) -> None:
    """Write the chain again on cut operands, in place of the slice."""
    graph, made = values.gm.graph, {}
    cut = _cutter(graph, slice_)
    with graph.inserting_before(slice_):
        for step in steps:
            inputs = {r: made[r] if r in made else cut(r, d) for r, d in step.cuts.items()}
            by_node = {n: inputs[ref(n)] for n in step.node.all_input_nodes if ref(n) in inputs}
            new = graph.node_copy(step.node, lambda n, by_node=by_node: by_node.get(n, n))
            made[step.node, 0] = new
    slice_.replace_all_uses_with(made[steps[-1].node, 0])
    graph.erase_node(slice_)


def _cutter(graph: fx.Graph, slice_: fx.Node) -> Callable[[Ref, int], fx.Node]:
    def cut(r: Ref, dim: int) -> fx.Node:
        source = r[0] if isinstance(r[0].meta["val"], torch.Tensor) else next(u for u in r[0].users if ref(u) == r)
        new = graph.call_function(slice_.target, (source, dim, *slice_.args[2:]))
        new.meta = dict(slice_.meta)
        return new

    return cut


__all__ = ["hoist"]
