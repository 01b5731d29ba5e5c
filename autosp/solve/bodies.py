"""The two bodies of an autograd.Function's call, under a split: which values are split, and how every operator runs.

A split of one dim is followed through every operator of the forward and of the backward: what was
saved lies in the backward as the forward left it, the gradient of a result as the result's kind
requires, and the gradient of an operand must come out as the operand's kind requires:

    value       split    partial    replicate
    gradient    split    replicate  partial

A factor may be split where all of this holds. Inside a body three changes of placement are made
where an operator needs them: a value that all ranks have equal is cut, or counted on the first
rank only, and a partial sum of a single number is completed.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping

import attrs
from torch import fx

from ..capture import source_line, tensor_nodes, tensors_of
from ..capture.own import OwnBackward
from ..errors import RuleError
from ..rules import Projection, factor_of, op_name, project
from ..sharding import PARTIAL, REPLICATE, Placement, Size, Split, as_size

UNCUT = 2**61 - 1  # as a number of ranks: no dim is a multiple of it, so a split keeps its units
Ref = tuple[fx.Node, int]  # a call in a body, and which of its results


class Refused(Exception):
    """This split does not hold in the bodies; the message says why."""


@attrs.frozen(eq=False)
class BodyStep:
    """One operator of a body. projection is None where no rule speaks of it."""

    node: fx.Node
    operands: tuple[Ref, ...]
    results: tuple[Ref, ...]
    projection: Projection | None
    error: RuleError | None


@attrs.frozen(eq=False)
class PlacedStep:
    """How a step runs: the placements that it takes and gives."""

    step: BodyStep
    needs: tuple[Placement, ...]
    gives: tuple[Placement, ...]


@attrs.frozen(eq=False)
class Placing:
    """Both bodies under one split. at: the placement of every value as it is made. gradients: of each
    operand's gradient, the placement as it is made and as it leaves; None where it has none."""

    forward: tuple[PlacedStep, ...]
    backward: tuple[PlacedStep, ...]
    at: Mapping[Ref, Placement]
    gradients: tuple[tuple[Placement, Placement] | None, ...]

    @property
    def pure(self) -> bool:
        """Whether, run whole, the gradients follow from those given by linear operators alone."""
        pairs = [(self.at.get(r, REPLICATE), n) for s in self.backward for r, n in zip(s.step.operands, s.needs)]
        return all(have == need for have, need in (*pairs, *filter(None, self.gradients)))


class Bodies:
    """The bodies of one call as steps, and how their ends belong together.

    inputs, results: the call's tensors in the forward. incoming: the gradient of each result, in
    the backward; outgoing: of each input, None where the backward gives none or none is required.
    saved: tensors that the backward reads, as the forward knows them.
    """

    def __init__(self, own: OwnBackward, diff: tuple[bool, ...], bind: Callable):
        """diff: which of its tensors a gradient flows to. bind: a call's projection, or None and why."""
        self.own, self.diff, self._bind = own, diff, bind
        self._same: dict[Ref, Ref] = {}
        results, saved = own.forward.graph.output_node().args[0]
        gives = own.backward.graph.output_node().args[0]
        forward, backward = _placeholders(own.forward), _placeholders(own.backward)
        tensors = [i for i, n in enumerate(forward) if tensors_of(n.meta.get("val"))]
        self.inputs = [(forward[i], 0) for i in tensors]
        self.results = [self.ref(n) for n in results]
        self.incoming = [(n, 0) for n in backward[: len(results)]]
        for inside, outside in zip(backward[len(results) :], saved, strict=True):
            if isinstance(outside, fx.Node) and tensors_of(outside.meta.get("val")):
                self._same[inside, 0] = self.ref(outside)
        self.saved = list(dict.fromkeys(self._same.values()))
        self.forward = self._steps(own.forward)
        self.backward = self._steps(own.backward)
        gradients = [gives[i] if d else None for i, d in zip(tensors, diff, strict=True)]
        self.outgoing = [None if n is None else self.ref(n) for n in gradients]
        self.links: dict[Ref, list[Ref]] = {}
        for a, b in [*zip(self.results, self.incoming), *zip(self.inputs, self.outgoing)]:
            if b is not None:
                self.links.setdefault(a, []).append(b)
                self.links.setdefault(b, []).append(a)
        self.around: dict[Ref, list[BodyStep]] = {}
        for step in (*self.forward, *self.backward):
            for r in dict.fromkeys((*step.operands, *step.results)):
                self.around.setdefault(r, []).append(step)
        self.flowing = self._flowing()

    def ref(self, node: fx.Node) -> Ref:
        """The value that a node stands for; what was saved goes by its name in the forward."""
        value = (node.args[0], node.args[1]) if _is_item(node) else (node, 0)
        return self._same.get(value, value)

    def _steps(self, body: fx.GraphModule) -> list[BodyStep]:
        steps = []
        for node in body.graph.nodes:
            vals = tensors_of(node.meta.get("val"))
            if node.op != "call_function" or _is_item(node) or not vals:
                continue
            projection, error = self._bind(node)
            operands = tuple(self.ref(n) for n in tensor_nodes(node))
            steps.append(BodyStep(node, operands, tuple((node, i) for i in range(len(vals))), projection, error))
        return steps

    def _flowing(self) -> set[Ref]:
        """The values that depend on an operand with a gradient, or on a gradient."""
        flowing = {r for r, d in zip(self.inputs, self.diff) if d} | set(self.incoming)
        for step in (*self.forward, *self.backward):
            if flowing & set(step.operands):
                flowing |= set(step.results)
        return flowing

    def shape(self, r: Ref) -> tuple[Size, ...]:
        """The global shape of a value."""
        return tuple(as_size(n) for n in tensors_of(r[0].meta["val"])[r[1]].shape)

    @functools.cached_property
    def linear(self) -> bool:
        """Whether its gradients are linear in those given; else a scaled gradient gives others."""
        placing = whole_placing(self)
        return placing is not None and placing.pure

    @property
    def missing(self) -> list[BodyStep]:
        """The operators that no rule speaks of."""
        return [s for s in (*self.forward, *self.backward) if s.projection is None]

    def followed(self, seeds: Mapping[Ref, Split], p: int, loose: bool) -> dict[Ref, Split]:
        """Every value that is split where `seeds` are. Raises Refused where an operator's rule does
        not allow it. loose: only values that depend on what has a gradient need be split."""
        splits: dict[Ref, Split] = {}
        pending = list(seeds.items())
        while pending:
            r, s = pending.pop()
            if r in splits:
                if splits[r] != s:
                    raise Refused(f"{r[0].name} would be split in two ways")
                continue
            if loose and r not in self.flowing and r not in seeds:
                continue
            splits[r] = s
            pending += [(other, s) for other in self.links.get(r, ())]
            for step in self.around.get(r, ()):
                pending += _ends(step, r, s, p)
        return splits

    def placed(self, split: Mapping[Ref, Split], p: int) -> Placing:
        """Every step of both bodies where `split` are the values that are split; no value for the
        call run whole on ranks whose gradients are partial sums. Raises Refused."""
        at: dict[Ref, Placement] = {r: split.get(r, REPLICATE) for r in self.inputs}
        forward = [self._place(step, split, at, p) for step in self.forward]
        for result, incoming in zip(self.results, self.incoming, strict=True):
            at[incoming] = at.get(result, REPLICATE).gradient
        for i in self.own.constant:  # zeros: nothing is summed
            at[self.incoming[i]] = split.get(self.incoming[i], REPLICATE)
        backward = [self._place(step, split, at, p) for step in self.backward]
        gradients = tuple(
            None if out is None else self._leaves(at[r], at.get(out, REPLICATE))
            for r, out in zip(self.inputs, self.outgoing, strict=True)
        )
        return Placing(tuple(forward), tuple(backward), at, gradients)

    def plain(self) -> Placing:
        """Both bodies as they stand: every rank does the same work on equal values and gradients."""
        forward, backward = (
            tuple(PlacedStep(s, (REPLICATE,) * len(s.operands), (REPLICATE,) * len(s.results)) for s in steps)
            for steps in (self.forward, self.backward)
        )
        return Placing(forward, backward, {}, tuple(o and (REPLICATE, REPLICATE) for o in self.outgoing))

    def _leaves(self, operand: Placement, gradient: Placement) -> tuple[Placement, Placement]:
        """A gradient as the backward makes it, and as the operand requires it."""
        required = operand.gradient
        if gradient != required and gradient is not REPLICATE:
            raise Refused(f"a gradient comes out {_named(gradient)}, not {_named(required)}")
        return gradient, required

    def _place(self, step: BodyStep, split: Mapping[Ref, Split], at: dict[Ref, Placement], p: int) -> PlacedStep:
        have = tuple(at.get(r, REPLICATE) for r in step.operands)
        needs, gives = self._needed(step, split, have, p)
        for r, a, b in zip(step.operands, have, needs):
            free = a == b or (a is REPLICATE and b is not REPLICATE)
            if not free and not (a is PARTIAL and b is REPLICATE and not self.shape(r)):
                raise Refused(f"{_step_text(step)} wants {r[0].name} {_named(b)}, and it is {_named(a)}")
        at.update(zip(step.results, gives))
        return PlacedStep(step, needs, gives)

    def _needed(self, step: BodyStep, split: Mapping[Ref, Split], have: tuple[Placement, ...], p: int):
        """The placements that a step takes and gives, by its rule."""
        whole = (REPLICATE,) * len(have), (REPLICATE,) * len(step.results)
        part = next((q for i, r in _places(step) if r in split and (q := _part(step, i, split[r]))), None)
        if part is not None:
            ins, outs = project(step.projection, *part, p)
            return tuple(REPLICATE if s is None else s for s in ins), outs
        if PARTIAL not in have or step.projection is None:
            return whole
        partial = {i for i, a in enumerate(have) if a is PARTIAL}
        sets = [s for s in step.projection.linear if s & partial]
        if not sets:
            return whole
        best = max(sets, key=lambda s: (len(s & partial), -len(s)))
        return tuple(PARTIAL if i in best else REPLICATE for i in range(len(have))), (PARTIAL,) * len(step.results)


def whole_placing(bodies: Bodies) -> Placing | None:
    """The call run whole on gradients that are partial sums; None where its backward cannot be."""
    try:
        return bodies.placed({}, UNCUT)
    except Refused:
        return None


def _places(step: BodyStep) -> list[tuple[int, Ref]]:
    """A step's operands and results under the numbers by which its rule knows them."""
    return [*enumerate(step.operands), *((~i, r) for i, r in enumerate(step.results))]


def _part(step: BodyStep, place: int, s: Split):
    """The part of a factor that a split of an operand or result is. Raises Refused where it may not be."""
    if step.projection is None:
        raise Refused(f"{_step_text(step)} has no rule")
    part = factor_of(step.projection, place, s)
    if part is None or step.projection.kinds[part[0]] == "whole":
        raise Refused(f"{_step_text(step)} wants a dim of {_operand(step, place)} whole")
    return part


def _ends(step: BodyStep, r: Ref, s: Split, p: int) -> Iterator[tuple[Ref, Split]]:
    """What else of a step is split where one of its values is."""
    for place, other in _places(step):
        if other == r:
            ins, outs = (  # pyrefly: ignore[bad-unpacking]  # without a rule `_part` raises
                project(step.projection, *_part(step, place, s), p) if step.projection else _part(step, place, s)
            )
            for v, at in zip((*step.operands, *step.results), (*ins, *outs), strict=True):
                if isinstance(at, Split):
                    yield v, at


def _operand(step: BodyStep, place: int) -> str:
    return f"operand {place + 1}" if place >= 0 else "its result"


def _step_text(step: BodyStep) -> str:
    line = source_line(step.node)
    return f"{op_name(step.node.target)}" + (f" ({line})" if line else "")


def _named(at: Placement) -> str:
    return "split" if isinstance(at, Split) else {PARTIAL: "a partial sum", REPLICATE: "whole"}[at]


def _placeholders(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.op == "placeholder"]


def _is_item(node: fx.Node) -> bool:
    return node.target is operator.getitem and isinstance(node.args[0].meta.get("val"), (tuple, list))
