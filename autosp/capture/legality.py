"""What a captured graph may hold. Each law is a function of the program to what breaks it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

from torch import fx

from ..compat.torch import SET_GRAD_ENABLED, HigherOrderOperator, OpOverload, schema_of
from ..errors import Problem
from ..rules import argument, is_a
from .captured import Captured, place_in, tensors_of
from .casts import REGION
from .own import own_of
from .regions import KEY

Broken = tuple[fx.Node, str]
MEAN = 1


def _operators(program: Captured) -> Iterator[Broken]:
    """Calls that give or take tensors are operators, calls of autograd.Functions, and mapped modules."""
    for node in program.graph.graph.nodes:
        if node.op not in ("placeholder", "get_attr", "call_function", "output"):
            yield node, f"it is a {node.op}"
        elif node.op == "call_function" and not _is_operator(node) and _has_tensors(node):
            yield node, f"{node.target} is not an operator"


def _is_operator(node: fx.Node) -> bool:
    known = isinstance(node.target, (OpOverload, HigherOrderOperator)) or node.target in (*REGION, SET_GRAD_ENABLED)
    return known or node.target is operator.getitem or own_of(node) is not None or KEY in node.meta


def _has_tensors(node: fx.Node) -> bool:
    return any(tensors_of(n.meta.get("val")) for n in (node, *node.all_input_nodes))


def _writes(program: Captured) -> Iterator[Broken]:
    """No call writes to what it is given."""
    for node in program.graph.graph.nodes:
        if isinstance(node.target, OpOverload) and schema_of(node.target).is_mutable:
            yield node, f"{node.target} writes in place"


def _losses(program: Captured) -> Iterator[Broken]:
    """A token loss is a sum, whose count is divided by in the graph."""
    for node in program.graph.graph.nodes:
        if is_a(node, "token_loss") and argument(node, "reduction") == MEAN:
            yield node, f"{node.target} takes the mean itself"


def _values(program: Captured) -> Iterator[Broken]:
    """Every value has a fake value, and every placeholder is known."""
    known = {p.node for p in program.placeholders}
    for node in program.graph.graph.nodes:
        if node.op == "placeholder" and node.name not in known:
            yield node, "it is not a parameter, buffer or input"
        elif _gives_something(node) and "val" not in node.meta:
            yield node, f"of what {node.target} gives nothing is known"


def _gives_something(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and bool(schema_of(node.target).returns)


LAWS: tuple[Callable[[Captured], Iterator[Broken]], ...] = (_operators, _writes, _losses, _values)


def illegal(program: Captured) -> list[Problem]:
    """All that a captured graph holds and may not."""
    return [_problem(law, *broken) for law in LAWS for broken in law(program)]


def _problem(law: Callable, node: fx.Node, what: str) -> Problem:
    rule = (law.__doc__ or "").strip().rstrip(".")
    return Problem(
        what=f"the captured graph is not a program: at {node.name}, {what}",
        rule=rule[:1].lower() + rule[1:],
        fix="this is a fault of autosp: report it with AUTOSP_DUMP's files",
        where=place_in("global", node),
    )


__all__ = ["LAWS", "illegal"]
