"""`map MODULE-PATH over DIM`: a module's calls as one call that runs per shard as it stands.

As in JAX's shard_map, the user says that positions along the dim do not mix there. The module's
part of the graph becomes one node, whose sizes are symbolic: on a rank it runs with the length
that the rank holds.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import attrs
import torch
from torch import fx

from ..errors import CaptureError, Problem
from ..spec import Map
from .calls import Call, calls_named, uncalled
from .names import Names

KEY = "autosp_map"


@attrs.frozen
class Mapped:
    """What stands in `node.meta[KEY]`: the statement, the module's path, and its operators."""

    over: str
    path: str
    operators: int


def map_modules(gm: fx.GraphModule, maps: Sequence[Map], names: Names) -> None:
    """Make every call of the modules that a `map` statement names one node.

    Raises CaptureError where none is in the graph.
    """
    faults = []
    for statement in maps:
        calls = calls_named(gm, statement.module, names)
        for call in calls:
            _collapse(gm, call, statement)
        if not calls:
            faults.append(uncalled(statement, gm, names))
    if faults:
        raise CaptureError(faults)
    gm.graph.eliminate_dead_code()
    gm.graph.lint()
    gm.recompile()


def _collapse(gm: fx.GraphModule, of: Call, statement: Map) -> None:
    inside = [n for n in of.nodes if n.op in ("call_function", "get_attr")]
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
    call.meta[KEY] = Mapped(statement.over, of.path, len(inside))
    at = call
    for i, n in enumerate(outputs):
        with gm.graph.inserting_after(at):
            at = gm.graph.call_function(operator.getitem, (call, i))
        at.meta = dict(call.meta, val=n.meta["val"])
        at.meta.pop(KEY)
        n.replace_all_uses_with(at, delete_user_cb=lambda user: user not in held)
    for n in reversed(inside):
        gm.graph.erase_node(n)


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
