"""An autograd.Function's call in factors, from the rules of the operators in its two bodies."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ..errors import Problem as Fault
from ..rules import Projection, op_name, project
from ..sharding import PARTIAL, REPLICATE, Size, Split, divide
from .bodies import UNCUT, Bodies, Placing, Ref, Refused, whole_placing


def own_projection(bodies: Bodies, rule: str) -> tuple[Projection, tuple[str, ...]]:
    """The call in factors: every split that both bodies allow passes or sums, all else is whole.
    Gives the reasons too: why dims of operands with a gradient are whole."""
    reasons: dict[str, None] = {}
    allowed = tuple(_allowed(bodies, reasons))
    factors = _Factors([next(iter(split.values())).units for split, _ in allowed])
    partial = set()
    for f, (_, placing) in enumerate(allowed):
        gives = [placing.at.get(r, REPLICATE) for r in bodies.results]
        summed = all(g is PARTIAL for g in gives)
        factors.kinds.append("reduce" if summed else "pass")
        partial |= {(f, i) for i, g in enumerate(gives) if g is PARTIAL and not summed}
    splits = [split for split, _ in allowed]
    operands = tuple(factors.dims(r, bodies.shape(r), splits) for r in bodies.inputs)
    results = tuple(factors.dims(r, bodies.shape(r), splits) for r in bodies.results)
    saves = [bodies.inputs.index(r) for r in bodies.saved if r in bodies.inputs]
    if bodies.results and bodies.results[0] in bodies.saved:
        saves.append(-1)
    projection = Projection(
        operands, results, tuple(factors.sizes), tuple(factors.kinds), factors.names, saves=tuple(saves), rule=rule,
        partial=frozenset(partial), nonlinear=whole_placing(bodies) is None,
    )  # fmt: skip
    return projection, tuple(reasons)


def _allowed(bodies: Bodies, reasons: dict[str, None]) -> Iterator[tuple[dict[Ref, Split], Placing]]:
    """The splits of one factor each that both bodies allow, of dims that do not overlap."""
    tried: set = set()
    kept: list[dict[Ref, Split]] = []
    ends = list(dict.fromkeys((*bodies.inputs, *bodies.results)))
    for r, s in _seeds(bodies):
        if (r, s) in tried:
            continue
        tried.add((r, s))
        followed = _tried(bodies, r, s, reasons)
        if followed is None:
            continue
        split, _ = followed
        tried |= set(split.items())
        clear = all(_order([k[e] for k in (*kept, split) if e in k]) is not None for e in ends)
        if clear and any(e in split for e in ends):
            kept.append(split)
            yield followed


def _tried(bodies: Bodies, r: Ref, s: Split, reasons: dict[str, None]) -> tuple[dict[Ref, Split], Placing] | None:
    """The split of one value through both bodies: with everything that its rules reach, or, where
    that fails, with what depends on a gradient alone."""
    for loose in (False, True):
        try:
            split = bodies.followed({r: s}, UNCUT, loose)
            return split, bodies.placed(split, UNCUT)
        except Refused as reason:
            if r in bodies.flowing and r in bodies.inputs and not loose:
                reasons.setdefault(str(reason))
    return None


def _seeds(bodies: Bodies) -> Iterator[tuple[Ref, Split]]:
    """Where a split may begin: a dim of an operand or a result, then the factors of each operator."""
    for r in (*bodies.inputs, *bodies.results):
        for d, n in enumerate(bodies.shape(r)):
            if n != 1:
                yield r, Split(d, 1, n, 1)
    for step in (*bodies.forward, *bodies.backward):
        pr = step.projection
        for f in range(len(pr.sizes)) if pr is not None else ():
            if pr.kinds[f] != "whole" and pr.sizes[f] != 1:
                ins, outs = project(pr, f, 1, pr.sizes[f], 1, UNCUT)
                yield from (
                    (r, s) for r, s in zip((*step.operands, *step.results), (*ins, *outs)) if isinstance(s, Split)
                )


def _order(splits: list[Split]) -> list[Split] | None:
    """Parts of dims in order, outermost first; None where two overlap."""
    left, ordered = list(splits), []
    while left:
        first = next((a for a in left if all(a is b or _before(a, b) for b in left)), None)
        if first is None:
            return None
        ordered.append(first)
        left.remove(first)
    return ordered


def _before(a: Split, b: Split) -> bool:
    return a.dim != b.dim or divide(b.outer, a.outer * a.units) is not None


@attrs.define(eq=False)
class _Factors:
    """Numbers the factors: first those that may be split, then one for each rest of a dim."""

    sizes: list[Size]
    kinds: list[str] = attrs.field(factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{'w' if kind == 'whole' else 'f'}{i}" for i, kind in enumerate(self.kinds))

    def dims(self, r: Ref, shape: tuple[Size, ...], splits: list[dict[Ref, Split]]) -> tuple[tuple[int, ...], ...]:
        """A tensor's dims in factors."""
        known = {s[r]: f for f, s in enumerate(splits) if r in s}
        return tuple(
            self._dim([s for s in _order(list(known)) if s.dim == d], known, size) for d, size in enumerate(shape)
        )

    def _dim(self, parts: list[Split], known: dict[Split, int], size: Size) -> tuple[int, ...]:
        factors, done = [], 1
        for s in parts:
            factors += [*self._rest(divide(s.outer, done)), known[s]]
            done = s.outer * s.units
        return (*factors, *self._rest(divide(size, done)))

    def _rest(self, size: Size) -> list[int]:
        if size == 1:
            return []
        self.sizes.append(size)
        self.kinds.append("whole")
        return [len(self.sizes) - 1]


def refused(op, name: str) -> Fault:
    """An operator in a body has no rule, and the call would gather a split value."""
    step = op.own.missing[0]
    where = f"{op.source or op.node.name} (module {op.module or '<root>'})"
    inside = "backward" if step in op.own.backward else "forward"
    return Fault(
        what=f"the {inside} of an autograd.Function calls {op_name(step.node.target)}, which has no rule, "
        f"and its operand {name} is split",
        rule="a call with a backward of its own is split by the rules of the operators in its forward and its backward",
        fix=step.error.problems[0].fix,
        where=where,
    )
