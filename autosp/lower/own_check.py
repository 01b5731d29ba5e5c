"""Verifies the two bodies of an autograd.Function on one rank: the types of all values in both, and their shapes.

As `check` does for the graph around it, this starts from what the call's operands are and infers by
the operators' rules what everything is, up to the results and to the gradients, which must be those
that the operands ask for.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

import torch
from torch import fx

from ..capture import tensors_of
from ..capture.own import own_of
from ..compat.torch import FakeTensorMode
from ..rules import factor_of, project
from ..sharding import INVARIANT, PARTIAL, REPLICATE, Coordinate, Placement, Sharding, Split, local_shape, row_key
from ..solve import Plan
from ..solve.bodies import BodyStep, Ref
from ..solve.problem import Op, hint_of
from .conversions import convert
from .match import by_operand, known_reads
from .own import STEP, axis_of
from .shapes import OnShapes, placement_in_numbers

RULE = "both bodies of a call are typed by the rules of their operators, and each gradient as its operand asks"
_FREE = {("replicate", "split"), ("replicate", "partial"), ("partial", "replicate")}  # rows of the table of transitions
Typed = tuple[Ref, Placement]


class _WrongOwn(Exception):
    """What does not hold."""


def own_faults(
    op: Op, node: fx.Node, operands, gives: Sequence[Sharding], plan: Plan, where: Sequence[Coordinate]
) -> Iterator[tuple[str, str]]:
    """What is wrong with a local call. operands: the types (with `sharding`, `diff`) that it takes."""
    own = own_of(node)
    if own is None:
        yield "a call of an autograd.Function has lost its backward", RULE
        return
    here = axis_of([t.sharding for t in operands], gives, where)
    taken = [t.sharding.on(here.axis) for t in operands]
    alike = any(at is INVARIANT for at, t in zip(taken, operands) if t.diff)
    at = [REPLICATE if a is INVARIANT else a for a in taken]
    out = [REPLICATE if g.on(here.axis) is INVARIANT else g.on(here.axis) for g in gives]
    try:
        _types(op, own, at, out, alike, here)
        _shapes(op, own, at, plan.problem.hints, here)
    except _WrongOwn as fault:
        yield str(fault), RULE


def _types(op: Op, own, at: list[Placement], gives: list[Placement], alike: bool, here: Coordinate) -> None:
    bodies = op.own
    inside = _Walk(own.forward, here, alike)
    inside.begin(list(zip(bodies.inputs, at, strict=True)))
    results, saved = own.forward.graph.output_node().args[0]
    inside.expect("result", results, list(zip(bodies.results, gives, strict=True)))
    kept = [inside.types[s] for s in saved if s in inside.types]
    back = _Walk(own.backward, here, alike)
    incoming = [REPLICATE if alike else g.gradient for g in gives]
    for i in own.constant:
        incoming[i] = gives[i] if isinstance(gives[i], Split) else REPLICATE
    back.begin([*zip(bodies.incoming, incoming, strict=True), *kept])
    required = [(r, REPLICATE if alike else a.gradient) for r, a in zip(bodies.outgoing, at, strict=True)]
    gradients = own.backward.graph.output_node().args[0]
    expected = [(g, w) for g, w in zip(gradients, required) if w[0] is not None]
    back.expect("gradient", [g for g, _ in expected], [w for _, w in expected])


class _Walk:
    """The types of one body's values, inferred in order."""

    def __init__(self, body: fx.GraphModule, here: Coordinate, alike: bool):
        self.body, self.here, self.alike = body, here, alike
        self.types: dict[fx.Node, Typed | tuple[Typed, ...]] = {}

    def begin(self, entering: list[Typed]) -> None:
        rest = iter(entering)
        for node in self.body.graph.nodes:
            if node.op == "placeholder":
                typed = next(rest, None)
                if typed is not None:
                    self.types[node] = typed
            elif node.op == "get_attr":
                self.types[node] = node.meta["autosp"][0], REPLICATE
            elif node.target is convert:
                self.types[node] = self._converted(node)
            elif node.target is operator.getitem and isinstance(self.types.get(node.args[0]), tuple):
                self.types[node] = self._item(node)
            elif isinstance(node.meta.get(STEP), BodyStep):
                self._step(node, node.meta[STEP])

    def expect(self, what: str, nodes: Sequence[fx.Node], expected: list[Typed]) -> None:
        for i, (node, (ref, at)) in enumerate(zip(nodes, expected, strict=True)):
            if self.types.get(node) != (ref, at):
                raise _WrongOwn(f"{what} {i} of an autograd.Function is {self.types.get(node)}; it is wanted {at!r}")

    def _item(self, node: fx.Node) -> Typed:
        source = node.args[0]
        return self.types[source] if source.target is convert else self.types[source][node.args[1]]

    def _converted(self, node: fx.Node) -> Typed:
        (x,), (src,), (dst,), here, diff = node.args
        ref, at = self.types[x]
        noted = next(iter(node.users)).meta["autosp"][1]
        before, after = _placement(src, at), _placement(dst, noted)
        if self.alike or diff or row_key(src, dst) not in _FREE or here != self.here or before != at:
            raise _WrongOwn(f"{ref[0].name} is {at!r} in a body, and is changed {src.word} to {dst.word}")
        return ref, after

    def _step(self, node: fx.Node, step: BodyStep) -> None:
        reads = [self.types[n] for n in known_reads(node, self.types.__contains__)]
        if {ref for ref, _ in reads} != set(step.operands):
            raise _WrongOwn(f"{step.node.target} in a body is called on other values than the program calls it on")
        gives = self._infer(node, step, by_operand(step.operands, reads))
        typed = tuple(zip(step.results, gives, strict=True))
        self.types[node] = typed[0] if isinstance(step.node.meta["val"], torch.Tensor) else typed

    def _infer(self, node: fx.Node, step: BodyStep, have: list[Placement]) -> tuple[Placement, ...]:
        """What a step gives, by its rule alone."""
        pr, count = step.projection, len(step.results)
        splits = [(i, s) for i, s in enumerate(have) if isinstance(s, Split)]
        if not splits and PARTIAL not in have:
            return (REPLICATE,) * count if pr is None else self._made(node, step)
        partial = frozenset(i for i, a in enumerate(have) if a is PARTIAL)
        if pr is not None and not splits and partial in pr.linear:
            return (PARTIAL,) * count
        part = factor_of(pr, *splits[0]) if pr is not None and splits else None
        if part is not None and pr.kinds[part[0]] != "whole":
            needs, gives = project(pr, *part, self.here.size)
            if have == [REPLICATE if n is None else n for n in needs]:
                return gives
        raise _WrongOwn(f"{step.node.target} in a body has no strategy for {', '.join(map(repr, have))}")

    def _made(self, node: fx.Node, step: BodyStep) -> tuple[Placement, ...]:
        """Whole operands give whole results, or a part of a dim that only the results have."""
        noted = node.meta.get("autosp") or next((u.meta["autosp"] for u in node.users if "autosp" in u.meta), None)
        if noted is None or not isinstance(noted[1], Split):
            return (REPLICATE,) * len(step.results)
        part = factor_of(step.projection, ~step.results.index(noted[0]), noted[1])
        if part is not None and step.projection.kinds[part[0]] != "whole":
            needs, gives = project(step.projection, *part, self.here.size)
            if all(n is None for n in needs):
                return gives
        raise _WrongOwn(f"{step.node.target} in a body gives no {noted[1]!r}")


def _placement(stated: Placement, noted: Placement) -> Placement:
    """The placement that a change names; of a symbolic split, the sizes as noted (shapes are run)."""
    symbolic = isinstance(stated, Split) and any(isinstance(x, fx.Node) for x in stated)
    return noted if symbolic else stated


def _shapes(op: Op, own, at: list[Placement], hints: dict, here: Coordinate) -> None:
    """Both bodies on fake tensors: each gradient has the shape of its operand."""
    shapes = [
        local_shape(v.hint, placement_in_numbers(a, hints), here.size, here.rank) for v, a in zip(op.operands, at)
    ]
    vals = [tensors_of(v.node.meta["val"])[v.index or 0] for v in op.operands]
    symbols = [hint_of(s, hints) for s in own.symbols]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fakes = [torch.empty(shape, dtype=t.dtype, device=t.device) for shape, t in zip(shapes, vals)]
        results, saved = OnShapes(own.forward).run(*fakes, *symbols)
        gradients = OnShapes(own.backward).run(*map(torch.empty_like, results), *saved)
    for v, shape, gradient in zip(op.operands, shapes, gradients):
        if gradient is not None and tuple(gradient.shape) != tuple(shape):
            raise _WrongOwn(f"the gradient of {v.name} has local shape {list(gradient.shape)}, not {list(shape)}")
