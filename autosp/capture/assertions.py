"""Assertions on data, in a form that all ranks of a split program can keep.

Dynamo writes `torch._check_tensor_all(x)` as `_is_all_true`, `.item()` and an assertion for each bound
of the number. Here each is one `_assert_scalar` or `_assert_async`, with an error in four parts. Whether
all (or any) elements hold becomes a count of those that do: a sum, which ranks that hold parts add up, so
that every rank reads the same verdict and all of them raise.
"""

from __future__ import annotations

import operator
import re

import torch
from torch import fx

from ..errors import Problem
from ..rules import is_a
from .captured import module_path, source_line

aten = torch.ops.aten
SAID = "autosp_assertion"
_GENERATED = "Runtime assertion failed for expression"  # Dynamo's own words, about a symbol


def keep_assertions(gm: fx.GraphModule) -> None:
    """Each assertion of the user's once, with its place; reductions that only feed them as counts."""
    if not any(is_a(n, "assertion") for n in gm.graph.nodes):
        return
    for node in gm.graph.nodes:
        if node.target is aten._assert_async.default:  # which dead code is swept with
            node.target, node.args = aten._assert_async.msg, (*node.args, "")
        if is_a(node, "item") and isinstance(node.meta.get("val"), torch.SymBool):
            _assert_once(gm.graph, node)
    gm.graph.eliminate_dead_code()
    for number, node in enumerate(list(gm.graph.nodes)):
        if node.target is aten._assert_scalar.default and (node.args[0] is True or _of_any_size(node.args[0])):
            gm.graph.erase_node(node)
        elif is_a(node, "assertion"):
            _say(node, number)
        elif is_a(node, "all", "any") and _only_asserted(node):
            _counted(gm.graph, node)
    gm.graph.eliminate_dead_code()
    gm.graph.lint()
    gm.recompile()


def _assert_once(graph: fx.Graph, read: fx.Node) -> None:
    """A truth value that is read is asserted as itself, and as a number that is 1: keep the first, with the
    user's message where one has it."""
    direct = [u for u in read.users if u.target is aten._assert_scalar.default]
    numbers = [u for u in read.users if u.target is torch.sym_ite and u.args[1:] == (1, 0)]
    bounds = [c for n in numbers for c in n.users if _holds_for_one(c, n)]
    more = [a for c in bounds for a in c.users if a.target is aten._assert_scalar.default]
    if not direct:
        return
    kept = next((a for a in direct if not _generated(a)), direct[0])
    for node in (*direct, *more):
        if node is not kept:
            graph.erase_node(node)


def _holds_for_one(c: fx.Node, n: fx.Node) -> bool:
    """Whether a comparison of a number that is 0 or 1 says no more than that it is 1."""
    return c.target in (operator.ge, operator.eq, operator.le) and c.args == (n, 1)


def _of_any_size(condition: object) -> bool:
    """Whether it says of a tensor's size that it is not negative, as Dynamo does where the data tell the size."""
    if getattr(condition, "target", None) is not operator.ge:
        return False
    size, bound = condition.args
    return bound == 0 and getattr(size, "target", None) is aten.sym_size.int


def _only_asserted(node: fx.Node) -> bool:
    """Whether all that comes of a value is asserted."""
    return bool(node.users) and all(is_a(u, "assertion") or _only_asserted(u) for u in node.users)


def _counted(graph: fx.Graph, node: fx.Node) -> None:
    """`all(x)` as no element that fails, `any(x)` as one that holds."""
    x, every = node.args[0], is_a(node, "all")
    value = x.meta["val"]

    def call(op, *args, shape=(), dtype=torch.bool) -> fx.Node:
        new = graph.call_function(op, args)
        new.meta = {k: v for k, v in node.meta.items() if k not in ("val", "tensor_meta")}
        with value.fake_mode:
            new.meta["val"] = torch.empty(shape, dtype=dtype, device=value.device)
        return new

    with graph.inserting_before(node):
        picked = call(aten.eq.Scalar if every else aten.ne.Scalar, x, 0, shape=value.shape)
        number = call(aten.sum.default, picked, dtype=torch.int64)
        verdict = call(aten.eq.Scalar if every else aten.ne.Scalar, number, 0)
    node.replace_all_uses_with(verdict)
    graph.erase_node(node)


def _generated(assertion: fx.Node) -> bool:
    return len(assertion.args) < 2 or str(assertion.args[1]).startswith(_GENERATED)


def _say(assertion: fx.Node, number: int) -> None:
    """The assertion's message names it: Inductor writes it into source text, where no newline or quote may stand.
    The error in four parts is kept beside it."""
    condition = _expression(str(assertion.args[1])) if len(assertion.args) > 1 else ""
    problem = fails(condition, _place(assertion))
    plain = re.sub(r"[^\w .,:;()/=<>+-]", " ", f"{condition} at {problem.where}")
    assertion.args = (assertion.args[0], f"autosp assertion {number}: {plain}")
    assertion.meta[SAID] = problem


def texts(gm: fx.GraphModule) -> dict[str, str]:
    """The errors of a graph's assertions, by their messages."""
    return {str(n.args[1]): str(n.meta[SAID]) for n in gm.graph.nodes if SAID in n.meta}


def _expression(message: str) -> str:
    """The user's message; of Dynamo's own, the condition that it is about."""
    if not message.startswith(_GENERATED):
        return message
    condition = message.removeprefix(_GENERATED).split(" on node")[0].strip()
    return "" if condition == "True" else condition


def _place(assertion: fx.Node) -> str:
    """The user's line and module; a condition on sizes has those of the value that it reads."""
    read = assertion.all_input_nodes
    for node in (assertion, *read, *(m for n in read for m in n.all_input_nodes)):
        if line := source_line(node):
            path = module_path(node)
            return f"{line} (module {path})" if path else line
    return "the forward"


def fails(condition: str, where: str) -> Problem:
    """An assertion of the model that its inputs do not meet, as read at run time."""
    return Problem(
        what="an assertion of the model fails on these inputs" + (f": {condition}" if condition else ""),
        rule="what the model asserts of its values holds in every call; it is asserted on all ranks",
        fix="look at that line: the batch of this step is not one that the model takes",
        where=where,
    )
