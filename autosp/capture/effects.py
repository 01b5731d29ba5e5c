"""Operators that take functions, and what a trace keeps of them.

Dynamo holds a hook, a scan, a checkpoint as an operator with a subgraph. A trace runs it: either its body's operators
are then in the trace, or it is there itself. One that only acts while it runs (a hook is put on the value at hand)
would leave nothing behind, and the program would be another.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from ..compat.torch import HigherOrderOperator, OpOverload, schema_of

# Those whose body's operators the trace holds in their place, and what stands for an own backward.
INLINED = {
    "associative_scan", "autograd_function_apply", "foreach_map", "tag_activation_checkpoint", "wrap",
    "wrap_activation_checkpoint", "wrap_with_autocast", "wrap_with_set_grad_enabled",
}  # fmt: skip


def sparse_gradients(graph: fx.GraphModule) -> Iterator[fx.Node]:
    """The calls whose backward gives a tensor of another layout than strided: `nn.Embedding(sparse=True)`."""
    for node in graph.graph.nodes:
        if isinstance(node.target, OpOverload):
            names = [a.name for a in schema_of(node.target).arguments]
            given = {**dict(zip(names, node.args)), **node.kwargs}
            if given.get("sparse") is True:
                yield node


def lost_effects(dynamos: fx.GraphModule, traced: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """The calls of such operators in Dynamo's graph of which the trace has nothing, with their names."""
    kept = {n.target for n in traced.graph.nodes}
    for module in dynamos.modules():
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            if isinstance(node.target, HigherOrderOperator) and node.target not in kept:
                name = str(node.target)
                if name not in INLINED:
                    yield node, name
