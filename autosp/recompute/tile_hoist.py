"""A slice of the tokens, moved from behind a product and what follows it to its activation.

`logits[:, :-1]` needs the tokens whole: no tile could hold it, and ranks that split the tokens
would have to gather the logits. `x[:, :-1]` stands before both.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import fx

from ..capture import Captured, tensors_of
from ..rules import RuleBook, default_rules, is_a
from ..rules.local_call import has_sizes
from ..solve.problem import concrete
from .tile_region import begin
from .tile_values import Ref, Values, quiet, ref


@attrs.frozen(eq=False)
class HoistStep:
    """One call between the product and the slice: which of its operands are cut, and along which dim."""

    node: fx.Node
    cuts: dict[Ref, int]


def hoisted(captured: Captured, book: RuleBook | None = None) -> Captured:
    """A program with its slices of tokens before its last products, for the solver: a slice needs
    the tokens whole, and then the activation is gathered instead of the logits."""
    values = Values(captured.graph, book or default_rules(), captured.hints, known=True)
    with quiet(captured.graph):
        hoist(values, last_products(values))
    return captured


def last_products(values: Values) -> list[fx.Node]:
    """The products with a weight that no other one follows: a language model's head."""
    products, before = [], set()
    for node in reversed(values.gm.graph.nodes):
        follows = node in before
        if values.weighted(node) is not None and not follows:
            products.append(node)
        if follows or node in products:
            before.update(node.all_input_nodes)
    return products[::-1]


def hoist(values: Values, seeds: list[fx.Node]) -> bool:
    """Move every slice of tokens that follows a seed alone. Says whether the graph has changed."""
    moved = False
    for node in list(values.gm.graph.nodes):
        if is_a(node, "slice"):
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


def _steps(values: Values, slice_: fx.Node, seeds: list[fx.Node]) -> list[HoistStep]:
    """The calls from a seed to the slice, which alone reads each; empty where there is no such chain."""
    dim, current, steps = _dim(values, slice_), ref(slice_.args[0])[0], []
    if _keeps_all(values, slice_) or any(u.op == "output" for u in slice_.users):
        return []
    while True:
        step = _step(values, current, dim)
        if step is None or len(current.users) != 1:
            return []
        steps.append(step)
        if current in seeds:
            tokens = [t.split((current, 0)).dim for t in begin(values, current).tokens]
            return steps[::-1] if dim in tokens else []
        before = [r for r in step.cuts if r[0].op == "call_function" and _leads_to(r[0], seeds)]
        if len(before) != 1:
            return []
        current, dim = before[0][0], step.cuts[before[0]]


def _is_slice(node: fx.Node) -> bool:
    """Whether a call's range is stated by its two ends."""
    return is_a(node, "slice") and not is_a(node, "narrow")


def _keeps_all(values: Values, slice_: fx.Node) -> bool:
    return values.shape((slice_, 0)) == values.shape(ref(slice_.args[0]))


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


def _step(values: Values, node: fx.Node, dim: int) -> HoistStep | None:
    """The operands that a slice of a call's result along `dim` cuts; None where it is not one of theirs."""
    call = values.call(node) if node.op == "call_function" else None
    if call is None or call.random or len(call.results) != 1:
        return None
    if has_sizes(node.target) and not (_is_slice(node) and _keeps_all(values, node)):
        return None  # sizes among its arguments would be other ones
    factors = call.results[0][dim]
    if len(factors) != 1 or call.kinds[factors[0]] != "pass":
        return None
    cuts: dict[Ref, int] = {}
    for r, dims in zip(values.operands(node), call.operands, strict=True):
        for d, inside in enumerate(dims):
            if factors[0] in inside:
                if inside != factors or cuts.setdefault(r, d) != d:
                    return None
    return HoistStep(node, cuts)


def _move(values: Values, slice_: fx.Node, steps: list[HoistStep]) -> None:
    """Write the chain again on cut operands, in place of the slice."""
    graph, made = values.gm.graph, {}
    cut = _cutter(graph, slice_)
    with graph.inserting_before(slice_):
        for step in steps:
            inputs = {r: made[r] if r in made else cut(r, d) for r, d in step.cuts.items()}
            by_node = {n: inputs[ref(n)] for n in step.node.all_input_nodes if ref(n) in inputs}
            new = _valued(graph.node_copy(step.node, lambda n, by_node=by_node: by_node.get(n, n)))
            made[step.node, 0] = new
    slice_.replace_all_uses_with(made[steps[-1].node, 0])
    graph.erase_node(slice_)


def _cutter(graph: fx.Graph, slice_: fx.Node) -> Callable[[Ref, int], fx.Node]:
    def cut(r: Ref, dim: int) -> fx.Node:
        source = r[0] if isinstance(r[0].meta["val"], torch.Tensor) else next(u for u in r[0].users if ref(u) == r)
        new = graph.call_function(slice_.target, (source, dim, *slice_.args[2:]))
        new.meta = dict(slice_.meta)
        return _valued(new)

    return cut


def _valued(node: fx.Node) -> fx.Node:
    """The node with the fake value of its call."""
    mode = next(t.fake_mode for n in node.all_input_nodes for t in tensors_of(n.meta["val"]))
    with mode, torch.no_grad():
        node.meta["val"] = node.target(*concrete(node.args), **concrete(node.kwargs))
    return node


__all__ = ["hoist", "hoisted", "last_products"]
