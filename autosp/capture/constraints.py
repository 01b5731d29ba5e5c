"""A spec's `constrain MODULE-PATH input|output LAYOUT`, as `autosp.constrain` calls in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from ..errors import CaptureError, Problem
from ..spec import Constraint
from ..spec.constraining import constrain_op as _registers_the_operator  # noqa: F401
from ..spec.paths import matches
from .captured import clean_path


def constrain_modules(gm: fx.GraphModule, constraints: Sequence[Constraint]) -> None:
    """Fix the layout of what goes into, or comes out of, every module that a constraint names.

    Raises CaptureError where a module has no such value in the graph.
    """
    faults = []
    for constraint in constraints:
        paths = [p for p in modules_in(gm) if matches(constraint.module, p)]
        for path in paths:
            node = _port(gm, path, constraint)
            if node is None:
                faults.append(_no_port(constraint, path, _dims_at(gm, path, constraint.port)))
            else:
                _fix(gm, node, path, constraint)
        if not paths:
            faults.append(_no_port(constraint, constraint.module))
    if faults:
        raise CaptureError(faults)
    gm.graph.lint()
    gm.recompile()


def paths_of(node: fx.Node) -> list[str]:
    """The paths of all modules that a node was traced in, outermost first."""
    return [clean_path(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def modules_in(gm: fx.GraphModule) -> list[str]:
    """Every module path of the graph, in order of first use."""
    return list(dict.fromkeys(p for n in gm.graph.nodes for p in paths_of(n) if p))


def _inside(node: fx.Node, path: str) -> bool:
    return path in paths_of(node)


def _port(gm: fx.GraphModule, path: str, constraint: Constraint) -> fx.Node | None:
    inside = [n for n in gm.graph.nodes if _inside(n, path)]
    if constraint.port == "output":
        found = [n for n in inside if any(not _inside(u, path) for u in n.users) and _fits(n, constraint)]
        return found[-1] if found else None
    for node in inside:
        for source in node.all_input_nodes:
            if source.op == "call_function" and not _inside(source, path) and _fits(source, constraint):
                return source
    return None


def _fits(node: fx.Node, constraint: Constraint) -> bool:
    val = node.meta.get("val")
    return isinstance(val, torch.Tensor) and val.is_floating_point() and constraint.layout.fits(val.dim())


def _fix(gm: fx.GraphModule, node: fx.Node, path: str, constraint: Constraint) -> None:
    layout = str(constraint.layout.expand(node.meta["val"].dim()))
    users = [u for u in node.users if _inside(u, path) == (constraint.port == "input")]
    with gm.graph.inserting_after(node):
        fixed = gm.graph.call_function(torch.ops.autosp.constrain.default, (node, layout))
    source = users[0] if constraint.port == "input" else node
    fixed.meta = {k: v for k, v in source.meta.items() if k in ("nn_module_stack", "stack_trace")}
    fixed.meta["val"] = node.meta["val"]
    for user in users:
        user.replace_input_with(node, fixed)


def _dims_at(gm: fx.GraphModule, path: str, port: str) -> list[int]:
    """The numbers of dims that floating-point tensors have at a module's port."""
    inside = [n for n in gm.graph.nodes if _inside(n, path)]
    if port == "output":
        found = [n for n in inside if any(not _inside(u, path) for u in n.users)]
    else:
        found = [s for n in inside for s in n.all_input_nodes if s.op == "call_function" and not _inside(s, path)]
    values = [n.meta.get("val") for n in found]
    return sorted({v.dim() for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()})


def _no_port(constraint: Constraint, path: str, dims: Sequence[int] = ()) -> Problem:
    has = " or ".join(map(str, dims))
    return Problem(
        what=f"'{constraint}' finds no floating-point {constraint.port} "
        f"with {len(constraint.layout.dims)} dims at {path}",
        rule="a constraint names a module of the traced graph, by its path in the model",
        fix=f"its {constraint.port} has {has} dims there: write a layout of as many, such as [(batch seq), hidden]"
        if has
        else "compare the path with model.named_modules(), and the layout's dims with the tensor's",
        where=str(constraint.at or "spec"),
    )
