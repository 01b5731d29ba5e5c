"""From a captured graph and the layouts of its ends to a plan, at least cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import attrs
import torch

from ..capture import Captured
from ..collector import uncollected
from ..errors import PlanError
from ..rules import RuleBook, default_rules, is_a
from ..sharding import INVARIANT, REPLICATE, MeshAxis, Placement, Sharding, Split
from ..syntax import Layout
from .alike import Alike, alike
from .answers import Plan
from .assembly import Move, OpSharding, assembled, enters, entry_kind
from .candidates import Region, candidates, mark
from .cost import operator_seconds, reshard, saved_bytes, saved_price
from .device import Device
from .gathering import NeedsRule, refuse_gathering
from .messages import explain_groups
from .notes import notes
from .problem import Op, Problem, Value, build
from .program import Edge, IntegerProgram, SolverError, add_edges, foreign_answer
from .program import solve as run
from .strategies import Strategy, contracts_length, strategies

OutputMode = Literal["none", "local", "whole"]
Answer = tuple[int, ...]  # by operator, in order: which of its strategies it runs by
Settle = Callable[[Problem, Callable[[], Answer]], Answer]  # of a problem and the search for its answer


@attrs.frozen
class Ends:
    """The spec's statements beyond the inputs' layouts: a mode per output (by position), and how
    attention is to be split."""

    outputs: tuple[OutputMode, ...]
    attention: Literal["ulysses", "gather", "auto"] = "ulysses"


@uncollected
def solve(
    captured: Captured,
    ends: Ends,
    *,
    axis: MeshAxis,
    device: Device,
    rules: RuleBook | None = None,
    settle: Settle | None = None,
) -> Plan:
    """The plan of least predicted seconds over `axis`.

    settle: takes the answer from elsewhere (another rank's, an earlier run's), or from the search that it is given.
    Raises RuleError for operators without a rule that would have to gather a split value, and
    PlanError where no plan exists, or the answer is none of this program.
    """
    problem = build(captured, rules or default_rules(), axis)
    mark(problem, seeds(problem, captured.layouts))
    splits = candidates(problem) if axis.size > 1 else {v: frozenset() for v in problem.values}
    kinds = alike(problem, splits)
    ways = _ways(problem, kinds, splits, ends.attention)
    required = _required(problem, ends.outputs)
    costs = _Costs(problem, kinds, device, ends.attention)

    def search() -> Answer:
        return _choose(problem, ways, required, costs)

    answer = search() if settle is None else settle(problem, search)
    chosen = _by_answer(problem, ways, answer)
    sharded = {op: OpSharding.alone(axis.name, way) for op, way in chosen.items()}
    outputs = tuple(at if at is None else Sharding.alone(axis.name, at) for at in required)
    assembly = assembled(problem, (axis,), sharded, outputs)
    moves = [c.on(axis.name) for c in assembly.changes]
    refuse_gathering(problem, ways, moves, chosen)
    return Plan(
        problem=problem,
        mesh=(axis,),
        device=device,
        attention=ends.attention,
        shardings=assembly.shardings,
        chosen=sharded,
        changes=assembly.changes,
        groups=assembly.groups,
        outputs=outputs,
        reshards=explain_groups(problem, assembly, ways, chosen, costs),
        compute_seconds=sum(costs.operator(op, s) for op, s in chosen.items()),
        communication_seconds=sum(map(costs.move, moves)),
        notes=notes(problem, chosen, ends.attention),
        answer=answer,
    )


def _by_answer(problem: Problem, ways: Mapping[Op, Sequence[Strategy]], answer: Answer) -> dict[Op, Strategy]:
    """The strategy of every operator. Raises PlanError for an answer to another problem."""
    fits = len(answer) == len(problem.ops) and all(0 <= i < len(ways[op]) for op, i in zip(problem.ops, answer))
    if not fits:
        raise PlanError(foreign_answer(len(answer), len(problem.ops)))
    return {op: ways[op][i] for op, i in zip(problem.ops, answer)}


def _ways(problem: Problem, kinds: Alike, splits, attention: str) -> dict[Op, tuple[Strategy, ...]]:
    """The strategies of every operator."""
    known: dict[int, tuple[Strategy, ...]] = {}
    for op in problem.ops:
        if kinds.call(op) not in known:
            known[kinds.call(op)] = strategies(problem, op, splits, attention)
    return {op: known[kinds.call(op)] for op in problem.ops}


def seeds(problem: Problem, layouts: Mapping[str, Layout]) -> dict[Value, list[Region]]:
    seeds = {}
    for node, values in problem.of.items():
        layout = layouts.get(node.name) if node.op == "placeholder" else None
        if layout is not None:
            seeds[values[0]] = list(_regions(values[0], layout, problem.axis.name))
    return seeds


def _regions(value: Value, layout: Layout, solved: str):
    dims = layout.dims
    for i, dim in enumerate(dims):
        axes = tuple(a for part in dim.parts for a in part.axes)
        name = "".join(part.name or "" for part in dim.parts)
        if axes or name:
            yield Region(Split(i, 1, value.shape[i], 1), axes, name, solved in axes)


def _required(problem: Problem, modes: tuple[OutputMode, ...]) -> tuple[Placement | None, ...]:
    """The required placement of each graph output; None where it is not produced."""
    placements: list[Placement | None] = []
    for output, mode in zip(problem.captured.outputs, modes, strict=True):
        value = problem.output_value(output)
        if value is None or mode == "none":
            placements.append(None)
        elif mode == "local" and _own_split(problem, value) is not None:
            placements.append(_own_split(problem, value))
        else:
            placements.append(INVARIANT if value.diff else REPLICATE)
    return tuple(placements)


def _own_split(problem: Problem, value: Value) -> Split | None:
    from ..sharding import make_split

    for region in sorted(value.regions, key=repr):
        if region.solved:
            s = region.split
            return make_split(s.dim, s.outer, s.units, s.inner, problem.axis.size)
    return None


@attrs.frozen(eq=False)
class _Costs:
    """Seconds of what the program may choose, worked out once for all that are alike."""

    problem: Problem
    kinds: Alike
    device: Device
    attention: str
    _shares: dict = attrs.Factory(dict)
    _known: dict = attrs.Factory(dict)

    def __attrs_post_init__(self):
        self._shares.update(_shares(self.problem))

    def operator(self, op: Op, s: Strategy) -> float:
        query = s.needs[0] if s.needs and is_a(op.node, "attention") else None
        key = "whole", self.kinds.call(op), query
        if key not in self._known:
            self._known[key] = operator_seconds(op, self.problem, self.device, query)
        return self._known[key] * s.share

    def strategies(self, op: Op, ways: tuple[Strategy, ...]) -> list[float]:
        """Of every strategy: compute, and the price of what the call keeps for backward as it is
        split there."""
        key = "ways", self.kinds.call(op)
        if key not in self._known:
            self._known[key] = [self.operator(op, s) + self._saved(op, s) for s in ways]
        return self._known[key]

    def _saved(self, op: Op, s: Strategy) -> float:
        seconds = 0.0
        if op.diff and op.projection is not None:
            price = saved_price(self.device, self.problem.axis.size)
            for i in op.projection.saves:
                v, at = (op.results[0], s.gives[0]) if i < 0 else (op.operands[i], s.needs[i])
                if not v.param:
                    seconds += price * saved_bytes(v, at, self.problem)
        return seconds

    def reshard(self, value: Value, src: Placement, dst: Placement):
        share = self._shares.get(value.id, {})
        kind = "all_to_all" if isinstance(src, Split) and isinstance(dst, Split) else "all_gather"
        key = "reshard", self.kinds.same(value), share.get(kind, 1.0), src, dst
        if key not in self._known:
            self._known[key] = reshard(value, src, dst, self.problem.axis.size, self.device, share.get(kind, 1.0))
        return self._known[key]

    def move(self, c: Move) -> float:
        return self.reshard(self.problem.values[c.value], c.src, c.dst).seconds


def _shares(problem: Problem) -> dict[int, dict[str, float]]:
    """The tensors that one attention sends together share one latency: q, k and v one
    all-to-all, k and v one gather; one value that holds several of them bears their parts. Known
    by their place: values of the module that the contraction over the key length stands in, before it."""
    reached: dict[int, tuple[set[int], int]] = {}
    maker = {v.id: op for op in problem.ops for v in op.results}
    for op in problem.ops:
        if not contracts_length(op):
            continue
        streams = _streams(op, maker)
        for i, v in enumerate(streams):
            stack = [v]
            while stack:
                v = stack.pop()
                inside = v.id in maker and maker[v.id].module.startswith(op.module)
                seen, _ = reached.setdefault(v.id, (set(), len(streams)))
                if inside and i not in seen:
                    seen.add(i)
                    stack += [u for u in maker[v.id].operands if u.diff]
    return {
        v: {"all_to_all": len(seen) / n, "all_gather": min(1.0, len(seen) / max(n - 1, 1))}
        for v, (seen, n) in reached.items()
        if seen
    }


def _streams(op: Op, maker: dict[int, Op]) -> list[Value]:
    """The values that attention brings together: its operands, and what scores are made of."""
    streams = []
    for v in op.operands:
        if not v.diff:
            continue
        inner = v
        while inner.id in maker and len([u for u in maker[inner.id].operands if u.diff]) == 1:
            inner = next(u for u in maker[inner.id].operands if u.diff)
        made = maker.get(inner.id)
        joins = made is not None and made.module.startswith(op.module) and _scores(made)
        streams += [u for u in made.operands if u.diff] if joins else [v]
    return streams


def _scores(op: Op) -> bool:
    """A product of two tensors with two long dims in the result: query by key."""
    pr = op.projection
    return (
        pr is not None
        and len(pr.operands) == 2
        and all(v.tagged for v in op.operands)
        and (len({r.split.dim for r in op.results[0].regions if r.axes}) > 1)
    )


def _choose(problem: Problem, ways, required, costs: _Costs) -> Answer:
    """The strategies of least cost. Edges on which no reshard need stand are closed; where that
    leaves no plan (a chain whose ends agree with its middle, not with each other), all are open."""
    try:
        return _chosen(problem, ways, required, costs, close=True)
    except SolverError:
        raise
    except PlanError:
        return _chosen(problem, ways, required, costs, close=False)


def _chosen(problem: Problem, ways, required, costs: _Costs, close: bool) -> Answer:
    program = IntegerProgram()
    picked: dict[Op, list[int]] = {}
    give: dict[int, dict[Placement, list[int]]] = {}
    one = program.variable(integer=False)
    program.equal([one], to=1.0)
    for v in problem.values:
        if enters(v):
            give[v.id] = {entry_kind(v): [one]}
    for op in problem.ops:
        picked[op] = [program.variable(cost, integer=True) for cost in costs.strategies(op, ways[op])]
        program.equal(picked[op], to=1.0)
        for r, v in enumerate(op.results):
            give[v.id] = _by_placement(picked[op], [s.gives[r] for s in ways[op]])
    edges = []
    last = _last_uses(problem, required)
    for op in problem.ops:
        for i, v in enumerate(op.operands):
            need = _by_placement(picked[op], [s.needs[i] for s in ways[op]])
            edges.append(_edge(costs, v, give[v.id], need, close and _closed(op, v, last, give[v.id], need)))
    for v, placement in _outputs(problem, required):
        edges.append(_edge(costs, v, give[v.id], {placement: [one]}, False))
    add_edges(program, edges)
    x = run(program)
    return tuple(max(range(len(ids)), key=lambda k: x[ids[k]]) for ids in picked.values())


def _by_placement(variables, placements) -> dict[Placement, list[int]]:
    groups: dict[Placement, list[int]] = {}
    for x, at in zip(variables, placements):
        groups.setdefault(at, []).append(x)
    return groups


def _edge(costs: _Costs, v: Value, give, need, closed: bool) -> Edge:
    cost = {}
    if not closed:
        for s in give:
            for t in need:
                r = costs.reshard(v, s, t)
                if r is not None:
                    cost[s, t] = r.seconds
    return Edge(v.id, give, need, cost, closed)


def _outputs(problem: Problem, required):
    for output, placement in zip(problem.captured.outputs, required):
        if placement is not None:
            yield problem.output_value(output), placement


def _last_uses(problem: Problem, required) -> set[int]:
    return {v.id for v, _ in _outputs(problem, required)}


def _closed(op: Op, v: Value, outputs: set[int], give, need) -> bool:
    """An edge on which no reshard need stand: a one-to-one call on a value that nobody else uses
    can be resharded after it at the same price, so it is; this makes the answer unique."""
    return (
        op.node.target is not torch.ops.autosp.constrain.default  # where the user states a change of layout
        and v.diff
        and v.tagged
        and v.node.op == "call_function"
        and len(v.users) == 1
        and v.id not in outputs
        and len(op.operands) == 1
        and len(op.results) == 1
        and op.results[0].bytes == v.bytes
        and any(isinstance(s, Split) and s in need for s in give)
    )


__all__ = ["Answer", "Ends", "NeedsRule", "OutputMode", "Settle", "seeds", "solve"]
