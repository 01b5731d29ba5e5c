"""A spec's `constrain MODULE-PATH input|output LAYOUT`, as `autosp.constrain` calls in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from ..errors import CaptureError, Problem
from ..spec import Constraint
from ..spec.constraining import constrain_op as _registers_the_operator  # noqa: F401
from .calls import ModuleCall, calls_named, uncalled
from .names import Names


def constrain_modules(gm: fx.GraphModule, constraints: Sequence[Constraint], names: Names) -> None:
    """Fix the layout of what goes into, or comes out of, every call of the modules that a constraint names.

    Raises CaptureError where a path names no module of the graph, or a module has no such value.
    """
    faults = []
    for constraint in constraints:
        calls = calls_named(gm, constraint.module, names)
        for call in calls:
            node = _port(call, constraint)
            if node is None:
                faults.append(_no_port(constraint, call.path, _dims_at(call, constraint.port)))
            else:
                _fix(gm, node, call, constraint)
        if not calls:
            faults.append(uncalled(constraint, gm, names))
    if faults:
        raise CaptureError(faults)
    gm.graph.lint()
    gm.recompile()


def _port(call: ModuleCall, constraint: Constraint) -> fx.Node | None:
    inside = set(call.nodes)
    if constraint.port == "output":
        found = [n for n in call.nodes if any(u not in inside for u in n.users) and _fits(n, constraint)]
        return found[-1] if found else None
    for node in call.nodes:
        for source in node.all_input_nodes:
            if source.op == "call_function" and source not in inside and _fits(source, constraint):
                return source
    return None


def _fits(node: fx.Node, constraint: Constraint) -> bool:
    val = node.meta.get("val")
    return isinstance(val, torch.Tensor) and val.is_floating_point() and constraint.layout.fits(val.dim())


def _fix(gm: fx.GraphModule, node: fx.Node, call: ModuleCall, constraint: Constraint) -> None:
    layout = str(constraint.layout.expand(node.meta["val"].dim()))
    inside = set(call.nodes)
    users = [u for u in node.users if (u in inside) == (constraint.port == "input")]
    with gm.graph.inserting_after(node):
        fixed = gm.graph.call_function(torch.ops.autosp.constrain.default, (node, layout))
    fixed.meta = call.meta(users[0] if constraint.port == "input" else node) | {"val": node.meta["val"]}
    for user in users:
        user.replace_input_with(node, fixed)


def _dims_at(call: ModuleCall, port: str) -> list[int]:
    """The numbers of dims that floating-point tensors have at a module's port."""
    inside = set(call.nodes)
    if port == "output":
        found = [n for n in call.nodes if any(u not in inside for u in n.users)]
    else:
        found = [s for n in call.nodes for s in n.all_input_nodes if s.op == "call_function" and s not in inside]
    values = [n.meta.get("val") for n in found]
    return sorted({v.dim() for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()})


def _no_port(constraint: Constraint, path: str, dims: Sequence[int]) -> Problem:
    has = " or ".join(map(str, dims))
    return Problem(
        what=f"'{constraint}' finds no floating-point {constraint.port} "
        f"with {len(constraint.layout.dims)} dims at {path}",
        rule="a constraint fixes a floating-point tensor of as many dims as its layout has",
        fix=f"its {constraint.port} has {has} dims there: write a layout of as many, such as [(batch seq), hidden]"
        if has
        else f"constrain another module, or the {'input' if constraint.port == 'output' else 'output'} of this one",
        where=str(constraint.at or "spec"),
    )
