"""What a compiled program holds: its forward and backward graphs, and which storages are live when."""

from __future__ import annotations

import torch
from functorch.compile import make_boxed_func
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition

from autosp.capture import tensors_of
from tests.recompute.programs import WIDTH, own


def graphs(gm: fx.GraphModule, inputs: tuple) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The forward and the backward graph that a compiler is given."""
    found = {}

    def keep(name):
        def compiler(graph, example_inputs):
            found[name] = graph
            return graph.forward

        return compiler

    def boxed(name):
        return lambda graph, given: make_boxed_func(keep(name)(graph, given))

    compiled = aot_autograd(
        fw_compiler=boxed("forward"), bw_compiler=boxed("backward"), partition_fn=min_cut_rematerialization_partition
    )(gm, [own(x) for x in inputs])
    compiled(*(own(x) for x in inputs))[0].backward()
    return found["forward"], found["backward"]


def storages(node: fx.Node) -> dict[int, int]:
    """The memory behind a node's tensors: its identity, and bytes."""
    stores = [t.untyped_storage() for t in tensors_of(node.meta.get("val"))]
    return {s._cdata: s.nbytes() for s in stores}


def made(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.op == "call_function"]


def largest(gm: fx.GraphModule) -> int:
    """Bytes of the largest storage that the graph makes."""
    inputs = {s for n in gm.graph.nodes if n.op == "placeholder" for s in storages(n)}
    return max(b for n in made(gm) for s, b in storages(n).items() if s not in inputs)


def peak(gm: fx.GraphModule, counts=lambda node: True) -> int:
    """The most bytes live at once, of storages that the graph makes by nodes that `counts` names."""
    nodes = list(gm.graph.nodes)
    inputs = {s for n in nodes if n.op == "placeholder" for s in storages(n)}
    last = {s: i for i, n in enumerate(nodes) for a in (n, *n.all_input_nodes) for s in storages(a)}
    live: dict[int, int] = {}
    most = 0
    for i, n in enumerate(nodes):
        if n.op == "call_function" and counts(n):
            live |= {s: b for s, b in storages(n).items() if s not in inputs}
        most = max(most, sum(live.values()))
        live = {s: b for s, b in live.items() if last[s] > i}
    return most


def wide(*sizes: int):
    """Counts values with a dim of one of `sizes`; a weight's other dim is WIDTH, and it is left out."""

    def counts(node: fx.Node) -> bool:
        shapes = [set(t.shape) for t in tensors_of(node.meta.get("val"))]
        return any(s & set(sizes) and s - {*sizes, WIDTH} for s in shapes)

    return counts


def saved(fw: fx.GraphModule) -> list[torch.Tensor]:
    """What the forward gives beside its loss."""
    outputs = fw.graph.output_node().args[0]
    return [t for n in outputs[1:] if isinstance(n, fx.Node) for t in tensors_of(n.meta["val"])]
