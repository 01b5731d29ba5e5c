"""A checker that verifies a finished local graph by itself.

It starts from what the inputs are, infers by the operators' rules and the table of conversions
what every value is (which global value, in which placement, with a gradient or without), and
believes nothing that the lowering noted. Every gradient follows from these types (the type system
of meta-pytorch/spmd_types: each kind has its gradient's kind, each change its backward), so a
graph that checks has right gradients. Local shapes are verified by running the graph on fake
tensors. Nothing is run before it checks.
"""

from __future__ import annotations

import operator

import attrs
import torch
from torch import fx

from ..capture import source_line
from ..capture.masks import drops_mask
from ..errors import CheckError, Problem
from ..layout import INVARIANT, PARTIAL, REPLICATE, Placement, Split, as_size, local_shape
from ..rules import factor_of, project
from ..solve import Plan
from ..solve.problem import Op, Value
from .convert import TABLE, convert, scale_gradient
from .own_check import own_faults
from .shapes import in_numbers, local_shapes

aten = torch.ops.aten


@attrs.frozen
class Typed:
    """What a local value is: a global value's id, its placement, whether a gradient flows."""

    value: int
    placement: Placement
    diff: bool


def check(plan: Plan, gm: fx.GraphModule, *, complete: bool = True) -> dict[fx.Node, Typed]:
    """Verify one rank's local graph against the plan's global graph; gives the inferred types.

    complete: parameters enter as invariant values whose gradients the graph itself completes.
    Raises CheckError with every fault found.
    """
    return _Checker(plan, gm, complete).run()


class _Checker:
    def __init__(self, plan: Plan, gm: fx.GraphModule, complete: bool):
        self.plan, self.gm, self.complete = plan, gm, complete
        self.problem = plan.problem
        self.types: dict[fx.Node, Typed | tuple[Typed, ...]] = {}
        self.faults: list[Problem] = []
        self.makers = {op.node: op for op in self.problem.ops}

    def run(self) -> dict[fx.Node, Typed]:
        for node in self.gm.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "get_attr":
                self._constant(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._outputs(node)
        if not self.faults:
            self._shapes()
        if self.faults:
            raise CheckError(self.faults[:10])
        return {n: t for n, t in self.types.items() if isinstance(t, Typed)}

    def _placeholder(self, node: fx.Node) -> None:
        for p, source in self._sources():
            if source.name != node.name or source not in self.problem.of:
                continue
            v = self.problem.of[source][0]
            own = p.role == "param" and not (self.complete and self.plan.p > 1)
            kind = REPLICATE if own or not v.diff else INVARIANT
            self.types[node] = Typed(v.id, kind, v.diff)

    def _sources(self):
        named = {n.name: n for n in self.problem.captured.graph.graph.nodes if n.op == "placeholder"}
        return [(p, named[p.node]) for p in self.problem.captured.placeholders]

    def _constant(self, node: fx.Node) -> None:
        for source, values in self.problem.of.items():
            if source.op == "get_attr" and source.target == node.target:
                self.types[node] = Typed(values[0].id, REPLICATE, False)

    def _call(self, node: fx.Node) -> None:
        if node.target is convert:
            self._convert(node)
        elif node.target is scale_gradient:
            self.types[node] = self.types[node.args[0]]
        elif node.target is operator.getitem and isinstance(self.types.get(node.args[0]), tuple):
            self.types[node] = self.types[node.args[0]][node.args[1]]
        elif node.target is aten.detach.default and "autosp_op" not in node.meta and node.args[0] in self.types:
            self.types[node] = attrs.evolve(self.types[node.args[0]], diff=False)
        elif isinstance(node.meta.get("autosp_op"), Op):
            self._operator(node, node.meta["autosp_op"])

    def _convert(self, node: fx.Node) -> None:
        xs, kinds, srcs, dsts, p, _, _, diff = node.args
        found = []
        if tuple(kinds) not in TABLE or p != self.plan.p:
            self._fault(
                node,
                f"no conversion {' to '.join(kinds)} over {p} ranks",
                "a change of placement is one of the table's",
            )
        for x, src, dst in zip(xs, srcs, dsts, strict=True):
            t = self.types.get(x)
            if not isinstance(t, Typed):
                self._fault(node, f"{x} has no placement", "a change starts from a value that has one")
                found.append(None)
                continue
            v = self.problem.values[t.value]
            before, after = self._placement(kinds[0], src), self._placement(kinds[1], dst)
            if before != t.placement:
                self._fault(
                    node,
                    f"{v.name} is {t.placement!r}, and is changed from {before!r}",
                    "a change starts from what the value is",
                )
            if diff != t.diff:
                self._fault(node, f"{v.name} has {'a' if t.diff else 'no'} gradient, and is changed as if it had {'none' if t.diff else 'one'}",
                            "a change has a backward exactly where a gradient flows")  # fmt: skip
            for s in (before, after):
                if isinstance(s, Split) and not _fits(s, v):
                    self._fault(
                        node, f"{s!r} is no split of {v.name} of shape {list(v.shape)}", "a split covers its dim"
                    )
            found.append(Typed(v.id, after, t.diff))
        self.types[node] = tuple(found)

    def _placement(self, kind: str, s) -> Placement:
        if kind != "split":
            return {"replicate": REPLICATE, "invariant": INVARIANT, "partial": PARTIAL}[kind]
        return Split(s[0], *(self._size(x) for x in s[1:]))

    def _size(self, x):
        return self.sizes[x] if isinstance(x, fx.Node) else x

    @property
    def sizes(self) -> dict[fx.Node, object]:
        """Size nodes as expressions, evaluated from the graph itself."""
        if not hasattr(self, "_sizes"):
            self._sizes = _expressions(self.gm, self.problem)
        return self._sizes

    def _operator(self, node: fx.Node, op: Op) -> None:
        found = _typed_inputs(node, self.types)
        if found and drops_mask(op.node, found[0][1].placement) and node.args[3:6:2] == (None, True):
            mask = op.operands[3]  # it says `is_causal`, as capture found of the mask
            found.append((node, Typed(mask.id, self.plan.chosen[op].needs[3], mask.diff)))
        ids = [t.value for _, t in found]
        if sorted(set(ids)) != sorted({v.id for v in op.operands}):
            wanted = ", ".join(v.name for v in op.operands)
            got = ", ".join(self.problem.values[i].name for i in ids)
            self._fault(
                node,
                f"{op.node.target} is called on {got}; the program calls it on {wanted}",
                "a local call takes the same values",
            )
            return
        by_value = {t.value: t for _, t in found}
        operands = [by_value[v.id] for v in op.operands]
        if (
            len(found) == len(op.operands)
            and all(n in _flat(node) for n, _ in found)
            and ids != [v.id for v in op.operands]
        ):
            self._fault(
                node,
                f"{op.node.target} has its operands in another order",
                "a local call takes the same values in the same order",
            )
        flows = op.diff and any(t.diff for t in operands)
        placed = self._infer(op, operands)
        if placed is None:
            have = ", ".join(f"{v.name} {t.placement!r}" for v, t in zip(op.operands, operands))
            self._fault(
                node,
                f"{op.node.target} has no strategy for {have}",
                f"the operator's rule: {op.projection.rule if op.projection else 'none, whole only'}",
            )
            return
        for what, rule in own_faults(op, node, operands, placed, self.plan, _rank_of(self.gm)) if op.own else ():
            self._fault(node, what, rule)
        results = tuple(Typed(v.id, at, flows and v.diff) for v, at in zip(op.results, placed))
        self.types[node] = results[0] if op.results[0].index is None else results

    def _infer(self, op: Op, operands: list[Typed]) -> tuple[Placement, ...] | None:
        """What the call gives, by its rule alone."""
        placements = [t.placement for t in operands]
        splits = [(i, s) for i, s in enumerate(placements) if isinstance(s, Split)]
        diff = [p for p, t in zip(placements, operands) if t.diff]
        if not splits and PARTIAL not in placements:
            if not diff or all(p is REPLICATE for p in diff):
                given = self.plan.chosen[op]
                if given.part is not None:  # a factor that only the results have
                    return self._split_results(op, given.part, placements)
                return tuple(REPLICATE for _ in op.results)
            if all(p is INVARIANT for p in diff):
                return tuple(INVARIANT if v.diff else REPLICATE for v in op.results)
            return None
        if op.projection is None:
            return None
        if not splits:
            partial = {i for i, p in enumerate(placements) if p is PARTIAL}
            others = all(p is REPLICATE for p in placements if p is not PARTIAL)
            return tuple(PARTIAL for _ in op.results) if others and partial in map(set, op.projection.linear) else None
        part = factor_of(op.projection, *splits[0])
        return None if part is None else self._split_results(op, part, placements)

    def _split_results(self, op: Op, part, placements) -> tuple[Placement, ...] | None:
        pr = op.projection
        if pr.kinds[part[0]] == "whole":
            return None
        needs, gives = project(pr, *part, self.plan.p)
        fits = all(have == (REPLICATE if need is None else need) for have, need in zip(placements, needs))
        return tuple(gives) if fits else None

    def _outputs(self, node: fx.Node) -> None:
        for output, x, at in zip(self.problem.captured.outputs, node.args[0], self.plan.outputs, strict=True):
            t = self.types.get(x)
            if at is None or not isinstance(t, Typed):
                continue
            v = self.problem.values[t.value]
            if t.placement != at:
                self._fault(
                    node,
                    f"output {output.name or output.position} is {t.placement!r}; it is wanted {at!r}",
                    "an output is given as the spec asks",
                )
            if not any(n.name == output.node and v in self.problem.of[n] for n in self.problem.of):
                self._fault(
                    node,
                    f"output {output.position} is {v.name}; it is wanted to be {output.node}",
                    "outputs keep their order",
                )

    def _shapes(self) -> None:
        for node, shape in local_shapes(self.plan, self.gm, self.types):
            t = self.types[node]
            v = self.problem.values[t.value]
            rank = _rank_of(self.gm)
            wanted = local_shape(v.hint, in_numbers(t.placement, self.problem.hints), self.plan.p, rank)
            if tuple(shape) != tuple(wanted):
                self._fault(
                    node,
                    f"{v.name} has local shape {list(shape)}; {t.placement!r} of {list(v.hint)} is {list(wanted)}",
                    "a local value has the shape of its placement",
                )

    def _fault(self, node: fx.Node, what: str, rule: str) -> None:
        self.faults.append(
            Problem(
                what=what,
                rule=rule,
                fix="this is a fault of autosp or of a rule: run `autosp rules verify` and report it with AUTOSP_DUMP's files",
                where=f"local graph, {node.name}" + (f" ({source_line(node)})" if source_line(node) else ""),
            )  # fmt: skip
        )


def _rank_of(gm: fx.GraphModule) -> int:
    return next((n.args[5] for n in gm.graph.nodes if n.target is convert), 0)


def _fits(s: Split, v: Value) -> bool:
    return s.dim < len(v.shape) and as_size(s.outer * s.units * s.inner) == v.shape[s.dim]


def _flat(node: fx.Node) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def _typed_inputs(node: fx.Node, types) -> list[tuple[fx.Node, Typed]]:
    """The typed values that a local version reads, through the calls that it is made of."""
    found, stack, seen = [], list(reversed(_flat(node))), set()
    while stack:
        n = stack.pop()
        if isinstance(types.get(n), Typed):
            found.append((n, types[n]))
        elif n not in seen and n.op == "call_function":
            seen.add(n)
            stack += reversed(_flat(n))
    return found


def _expressions(gm: fx.GraphModule, problem) -> dict[fx.Node, object]:
    """Every size node of a local graph as an expression of the global sizes."""
    known: dict[fx.Node, object] = {}
    by_name = {n.name: n for n in problem.captured.graph.graph.nodes}
    arithmetic = {operator.add, operator.mul, operator.floordiv, operator.mod, operator.sub}
    for node in gm.graph.nodes:
        if node.op == "placeholder" and isinstance(by_name[node.name].meta.get("val"), torch.SymInt):
            known[node] = as_size(by_name[node.name].meta["val"])
        elif node.target is aten.sym_size.int and node.args[0].op == "placeholder":
            known[node] = as_size(by_name[node.args[0].name].meta["val"].shape[node.args[1]])
        elif node.target in arithmetic and all(not isinstance(a, fx.Node) or a in known for a in node.args):
            known[node] = as_size(node.target(*(known.get(a, a) if isinstance(a, fx.Node) else a for a in node.args)))
    return known


__all__ = ["Typed", "check"]
