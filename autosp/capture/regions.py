"""A module's calls as one call that runs per shard as it stands.

As in JAX's shard_map, positions along the dim do not mix there: `map MODULE-PATH over DIM` says so, or it was proved
(`autosp.solve.automap`). The module's part of the graph becomes one node, whose sizes are symbolic: on a rank it runs
with the length that the rank holds.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence

import attrs
import sympy
import torch
from torch import fx

from ..errors import CaptureError, Problem
from ..rules import is_a
from ..sharding import Size, as_size
from ..spec import Map
from ..spec.model import nested_maps
from ..syntax import Layout
from .calls import ModuleCall, called, calls_named, uncalled
from .captured import Captured, source_line
from .copies import copy_graph, with_numbers

KEY = "autosp_map"
Shape = tuple[Size, ...]


@attrs.frozen(eq=False)
class Mapped:
    """What stands in `node.meta[KEY]`.

    over: the dim's name; None where it is the one that the operands' dims descend from. path: the module's.
    operators: how many it holds. lengths: the sizes of split dims by name, symbols. operands: per argument, a tensor's
    sizes or a number; results: sizes. All are of the graph with symbols; hints: what these were, where it is static.
    body: the module's graph. statement: the spec's; None where nobody named the module, and it was found.
    """

    over: str | None
    path: str
    operators: int
    lengths: Mapping[str, Size]
    operands: tuple[Shape | Size, ...]
    results: tuple[Shape, ...]
    body: fx.GraphModule
    statement: Map | None = None
    hints: Mapping = attrs.Factory(dict)

    @property
    def length(self) -> Size | None:
        """The size of the mapped dim."""
        return self.lengths.get(self.over)

    def on_shard(self, held: Size) -> tuple[Size | None, ...]:
        """The numbers among the arguments, for a shard that holds so much of the mapped dim; None for all else."""

        def local(size: object) -> Size | None:
            if not isinstance(size, (int, sympy.Expr)):
                return None
            return as_size(sympy.sympify(size).subs(self.length, held).xreplace(dict(self.hints)))

        return tuple(map(local, self.operands))


def with_modules_mapped(captured: Captured, maps: Sequence[Map]) -> Captured:
    """The program with every call of the modules that a `map` statement names as one node, in a graph of its own.

    Raises CaptureError where none is in the graph.
    """
    graph, lengths = copy_graph(captured.graph), lengths_of(captured.graph, captured.layouts)
    faults = list(nested_maps(maps, captured.names.paths))
    if faults:
        raise CaptureError(faults)
    for statement in maps:
        calls = calls_named(graph, statement.module, captured.names)
        for call in calls:
            _collapse(graph, call, statement, lengths)
        if not calls:
            faults.append(uncalled(statement, graph, captured.names))
    if faults:
        raise CaptureError(faults)
    return _finished(captured, graph)


def with_calls_mapped(captured: Captured, calls: Iterable[tuple[str, str]], lengths: Mapping[str, Size]) -> Captured:
    """The program with each of these calls of modules as one node, in a graph of its own."""
    graph = copy_graph(captured.graph)
    for key in calls:
        _collapse(graph, called(graph, key), None, lengths)
    return _finished(captured, graph)


def _finished(captured: Captured, graph: fx.GraphModule) -> Captured:
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return attrs.evolve(captured, graph=graph)


def for_the_example(captured: Captured) -> Captured:
    """The program for the lengths of the example alone: numbers for symbols, but for those of mapped modules."""
    graph = with_numbers(captured.graph, captured.hints)
    for node in graph.graph.nodes:
        if KEY in node.meta:
            node.meta[KEY] = attrs.evolve(node.meta[KEY], hints=captured.hints)
    return attrs.evolve(captured, graph=graph, hints={})


def lengths_of(graph: fx.GraphModule, layouts: Mapping[str, Layout]) -> dict[str, Size]:
    """The size of every dim that a layout names, by its name. layouts: by placeholder."""
    found: dict[str, Size] = {}
    for node in graph.graph.find_nodes(op="placeholder"):
        if node.name in layouts:
            for size, dim in zip(node.meta["val"].shape, layouts[node.name].dims, strict=False):
                if len(dim.parts) == 1 and dim.parts[0].name:
                    found.setdefault(dim.parts[0].name, as_size(size))
    return found


def is_one_node(gm: fx.GraphModule, call: tuple[str, str]) -> bool:
    """Whether a call's operators can be one node: it takes tensors and numbers, asserts nothing of them, and what
    stands between its operators does not hang on them."""
    held = set(_inside(called(gm, call)))
    if any(is_a(n, "assertion") for n in held):
        return False
    between: set[fx.Node] = set()
    left = len(held)
    for node in gm.graph.nodes:
        if not left:
            break
        left -= node in held
        if node not in held:
            if any(a in held or a in between for a in node.all_input_nodes):
                between.add(node)
        elif any(a in between for a in node.all_input_nodes):
            return False
    given = {a for n in held for a in n.all_input_nodes} - held
    return not between and all(isinstance(n.meta.get("val"), (torch.Tensor, torch.SymInt)) for n in given)


def _inside(of: ModuleCall) -> list[fx.Node]:
    return [n for n in of.nodes if n.op in ("call_function", "get_attr")]


def _collapse(gm: fx.GraphModule, of: ModuleCall, statement: Map | None, lengths: Mapping[str, Size]) -> None:
    inside = _inside(of)
    if asserted := next((n for n in inside if is_a(n, "assertion")), None):
        raise CaptureError(_asserts(of.path, asserted))
    held = set(inside)
    inputs = list(dict.fromkeys(a for n in inside for a in n.all_input_nodes if a not in held))
    outputs = [n for n in inside if any(u not in held for u in n.users)]
    outputs.sort(key=lambda n: not isinstance(n.meta["val"], torch.Tensor))  # tensors, then sizes
    body = _body(gm, inside, inputs, outputs)
    last = inside[-1]
    with gm.graph.inserting_after(last):
        call = gm.graph.call_function(_callable(body, of.path), tuple(inputs))
    call.meta = of.meta(last)
    call.meta["val"] = tuple(n.meta["val"] for n in outputs)
    call.meta[KEY] = Mapped(
        statement and statement.over, of.path, len(inside), lengths, tuple(_sizes(n.meta.get("val")) for n in inputs),
        tuple(_sizes(n.meta["val"]) for n in outputs), body, statement,
    )  # fmt: skip
    at = call
    for i, n in enumerate(outputs):
        with gm.graph.inserting_after(at):
            at = gm.graph.call_function(operator.getitem, (call, i))
        at.meta = dict(call.meta, val=n.meta["val"])
        at.meta.pop(KEY)
        n.replace_all_uses_with(at, delete_user_cb=lambda user: user not in held)
    for n in reversed(inside):
        gm.graph.erase_node(n)


def _sizes(val: object) -> Shape | Size | object:
    if isinstance(val, torch.Tensor):
        return tuple(as_size(n) for n in val.shape)
    return as_size(val) if isinstance(val, torch.SymInt) else val


def _body(gm: fx.GraphModule, inside, inputs, outputs) -> fx.GraphModule:
    graph = fx.Graph()
    env = {}
    for i, n in enumerate(inputs):
        env[n] = graph.placeholder(f"x{i}")
    for n in inside:
        env[n] = graph.node_copy(n, lambda a: env[a])
    graph.output(tuple(env[n] for n in outputs))
    return fx.GraphModule(gm, graph)


def _callable(body: fx.GraphModule, path: str):
    """A function that graphs can call: named after the module, so that printed graphs read well."""

    def mapped(*args):
        try:
            return body(*args)
        except Exception as error:  # on a shard the user's claim may not hold
            raise CaptureError(_not_on_a_shard(path, error)) from error

    mapped.__name__ = mapped.__qualname__ = "mapped_" + path.replace(".", "_")
    mapped.__module__ = "autosp"
    return mapped


def _not_on_a_shard(path: str, error: Exception) -> Problem:
    reason = str(error).splitlines()[0] if str(error) else ""
    return Problem(
        what=f"module '{path}' is mapped, and does not run on a rank's shard: {type(error).__name__}: {reason}",
        rule="a mapped module gives a position the same whatever other positions are with it",
        fix="drop the map line, or map a module inside it that treats each position by itself; "
        "'autosp check SPEC --model MODEL' tries it beforehand",
        where=path,
    )


def _asserts(path: str, node: fx.Node) -> Problem:
    return Problem(
        what=f"module {path} is mapped, and asserts something of its values",
        rule="a mapped module runs on each rank's shard: where one rank alone sees the assertion fail, the others wait",
        fix="assert it outside of the module, or drop the map line",
        where=source_line(node) or path,
    )
