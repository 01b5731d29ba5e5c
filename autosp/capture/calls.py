"""The calls of a graph's modules that a spec's path names, and what to say where it names none."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from torch import fx

from ..compat.torch import called_module
from ..errors import Problem
from ..spec import Constraint, Map
from ..spec.model import SHOWN, path_problem
from ..spec.paths import matches
from .captured import module_calls_of, paths_of
from .names import Names


@attrs.frozen(eq=False)
class ModuleCall:
    """One call of a module: its key in the nodes' stacks, its path, and the nodes traced in it, in order."""

    key: str
    path: str
    nodes: tuple[fx.Node, ...]

    def meta(self, like: fx.Node) -> dict:
        """The metadata of a node that stands for the call: of a node in it, but in none of its parts."""
        stack = list(like.meta["nn_module_stack"].items())
        own = dict(stack[: [key for key, _ in stack].index(self.key) + 1])
        return {"nn_module_stack": own} | {k: v for k, v in like.meta.items() if k == "stack_trace"}


def calls_named(gm: fx.GraphModule, pattern: str, names: Names) -> list[ModuleCall]:
    """Every call of the modules that a path names, in order. A shared module that the graph calls
    by another of its paths counts where none is called by this one."""
    found = _calls(gm, lambda key, path: matches(pattern, path))
    if found:
        return found
    wanted = {i for i, paths in names.modules.items() if any(matches(pattern, path) for path in paths)}
    return _calls(gm, lambda key, path: called_module(key) in wanted) if wanted else []


def _calls(gm: fx.GraphModule, wanted: Callable[[str, str], bool]) -> list[ModuleCall]:
    found: dict[tuple[str, str], list[fx.Node]] = {}
    for node in gm.graph.nodes:
        for key, path in module_calls_of(node):
            if path and wanted(key, path):
                found.setdefault((key, path), []).append(node)
    return [ModuleCall(key, path, tuple(nodes)) for (key, path), nodes in found.items()]


def called(gm: fx.GraphModule, call: tuple[str, str]) -> ModuleCall:
    """A call by its key and path; without nodes where the graph does not make it."""
    return ModuleCall(*call, tuple(node for node in gm.graph.nodes if call in module_calls_of(node)))


def uncalled(statement: Constraint | Map, gm: fx.GraphModule, names: Names) -> Problem:
    """A statement whose path names no module, or none that the forward calls."""
    called = list(dict.fromkeys(p for n in gm.graph.nodes for p in paths_of(n) if p))
    problem = path_problem(statement, [*names.paths, *called], names.model)
    if problem is None:
        named = [path for path in names.paths if matches(statement.module, path)]
        problem = _not_called(statement, [p for p in called if any(p.startswith(f"{path}.") for path in named)])
    return attrs.evolve(problem, where=problem.where or str(statement.at or "spec"))


def _not_called(statement: Constraint | Map, below: list[str]) -> Problem:
    return Problem(
        what=f"'{statement}' names a module that runs no operator of the traced forward",
        rule="a statement about a module holds for what its calls compute",
        fix=f"name a module that is called: {', '.join(below[:SHOWN])}" if below else "leave the line out",
    )
