"""`flex_attention`: a higher-order operator, whose rule no table can express.

Batch and heads pass (a group of query heads with its kv head); positions and features are whole. Its score and
mask functions are given the batch and head numbers: a rank that holds a part counts on from where its part begins.
A BlockMask's tensors are split with the heads or the batch where they have them, and broadcast where they have 1.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import fx

from ..compat.torch import tree_map
from ..sharding import Split, start
from .call import tensor_args
from .coded import Letters
from .local_call import TABLE, LocalCall
from .projection import Projection

FLEX = torch.ops.higher_order.flex_attention
SCORE_INDICES, MASK_INDICES = (1, 2), (0, 1)  # places of (batch, head) among a function's arguments


def flex_projection(args: Any, kwargs: Any, results: Any) -> Projection:
    """A call of `flex_attention(q[b, h, s, d], k[b, h/g, t, d], v[b, h/g, t, e], …)` in factors."""
    tensors = tensor_args(args, kwargs)
    q, k, v = (tuple(t.shape) for t in tensors[:3])
    letters = _Heads()
    letters.add("b", q[0]), letters.add("h", k[1]), letters.add("g", q[1] // k[1])
    for name, size in (("s", q[2]), ("d", q[3]), ("t", k[2]), ("e", v[3])):
        letters.add(name, size)
    heads = letters.of("h") + letters.of("g")
    own = k[0] == q[0] and k[1] * (q[1] // k[1]) == q[1]
    batch = letters.of("b") if own else ()
    operands = [
        (letters.of("b"), heads, letters.of("s"), letters.of("d")),
        (batch, letters.of("h"), letters.of("t"), letters.of("d")),
        (batch, letters.of("h"), letters.of("t"), letters.of("e")),
    ]
    masks = len(tensor_args(args[4], {}))
    for place, t in enumerate(tensors[3:]):
        shape = tuple(t.shape)
        dims = [letters.whole(n) for n in shape]
        if place < masks:
            dims[0] = letters.of("b") if shape[0] == q[0] != 1 else dims[0]
            dims[1] = heads if shape[1] == q[1] != 1 else dims[1]
        operands.append(tuple(dims))
    out = (letters.of("b"), heads, letters.of("s"), letters.of("e"))
    outputs = tuple(out if t.dim() == 4 else out[: t.dim()] for t in tensor_args(list(results), {}))
    return letters.projection(
        tuple(operands), outputs, saves=(0, 1, 2, -1), rule="flex_attention: batch and heads pass"
    )


class _Heads(Letters):
    """Letters whose factors are whole unless they are the batch or the heads."""

    def add(self, name: str, size: Any) -> None:
        if size != 1:
            self.sizes[name] = size
            self.kinds[name] = "pass" if name in ("b", "h") else "whole"

    def of(self, name: str) -> tuple[int, ...]:
        return (list(self.sizes).index(name),) if name in self.sizes else ()

    def whole(self, size: Any) -> tuple[int, ...]:
        name = f"w{len(self.sizes)}"
        self.add(name, size)
        return self.of(name)


def local_flex(call: LocalCall) -> Any:
    """The call on one rank: its functions count batches and heads from where the rank's part begins."""
    for here in call.where:
        split = call.inputs[0].on(here.axis)
        if isinstance(split, Split):
            begin = call.size(start(split.units, here.size, here.rank) * split.inner)
            call = attrs.evolve(call, args=_counting(call.args, split.dim, begin))
    return call.again()


def _counting(args: tuple, dim: int, begin: Any) -> tuple:
    """The call's arguments with the functions of a rank whose part of `dim` begins there."""
    score = counting_from(args[3], SCORE_INDICES[dim], begin)
    mask = tree_map(
        lambda x: counting_from(x, MASK_INDICES[dim], begin) if isinstance(x, fx.GraphModule) else x, args[4]
    )
    return (*args[:3], score, mask, *args[5:])


def counting_from(function: fx.GraphModule, place: int, begin: int) -> fx.GraphModule:
    """The function, with `begin` added to the argument at `place`."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(function.graph, known := {}))
    argument = known[[n for n in function.graph.nodes if n.op == "placeholder"][place]]
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    with graph.inserting_after(last):
        shifted = graph.call_function(torch.ops.aten.add.Tensor, (argument, begin))
    shifted.meta = dict(argument.meta)
    argument.replace_all_uses_with(shifted, delete_user_cb=lambda user: user is not shifted)
    return fx.GraphModule(function, graph)


TABLE["flex_attention"] = local_flex
