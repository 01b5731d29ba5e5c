"""Rewrites of the global-view graph into forms whose rules are simple. Each keeps its meaning."""

from __future__ import annotations

import torch
from torch import fx

from ..compat.torch import ENTER_AUTOCAST, SET_GRAD_ENABLED, FakeTensor, OpOverload, schema_of, statically_known_true
from ..rules import argument, arguments, is_a, traits
from ..rules.inplace import is_mutable
from .means import MARK

aten = torch.ops.aten
MEAN, SUM = 1, 2


def canonicalise(gm: fx.GraphModule, training: bool) -> None:
    """Mean token losses as sum over valid tokens over their count, so that a split over tokens is
    two partial sums (a mean of local means would be wrong wherever ranks hold different counts)."""
    for node in list(gm.graph.nodes):
        if is_a(node, "token_loss") and argument(node, "reduction") == MEAN:
            _mean_as_sum_over_count(gm, node)
    for node in list(gm.graph.nodes):
        if is_a(node, "broadcast"):
            _each_by_itself(gm, node)
    for node in list(gm.graph.nodes):
        if is_a(node, "sizes_like"):
            _with_its_sizes(gm, node, traits(node.target).operator_of("sizes_like"))
        if is_a(node, "dtype_like"):
            _with_its_dtype(node, traits(node.target).operator_of("dtype_like"))
    _operands_themselves(gm, training)
    gm.graph.eliminate_dead_code()
    gm.graph.lint()
    gm.recompile()


def _operands_themselves(gm: fx.GraphModule, training: bool) -> None:
    """A call that gives its operand itself (`x.to` of x's own dtype, say) hides no gradient, not even where none is
    recorded: what `torch.no_grad()` makes new has none."""
    grad = training
    if any(n.target is ENTER_AUTOCAST for n in gm.graph.nodes):  # what is in a region is traced as outside of it
        return
    for node in list(gm.graph.nodes):
        if node.target is SET_GRAD_ENABLED:
            grad = bool(node.args[0])
        elif training and not grad and (same := _given_back(node)) is not None:
            node.replace_all_uses_with(same)
            gm.graph.erase_node(node)


def _given_back(node: fx.Node) -> fx.Node | None:
    """The operand that a call gives back as it is, asked of PyTorch on fake tensors."""
    given, found = node.all_input_nodes[:1], node.meta.get("val")
    if not isinstance(node.target, OpOverload) or is_mutable(node.target):
        return None
    if not (given and isinstance(found, FakeTensor) and _alike(given[0].meta.get("val"), found)):
        return None
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    with found.fake_mode:
        made = node.target(*args, **kwargs)
    return given[0] if made is given[0].meta["val"] else None


def _alike(x: object, y: torch.Tensor) -> bool:
    """Whether one may be the other, told by what costs nothing."""
    return (
        isinstance(x, FakeTensor) and (x.dtype, x.device, x.ndim) == (y.dtype, y.device, y.ndim)
        and all(statically_known_true(a == b) for a, b in zip(x.shape, y.shape, strict=True))
    )  # fmt: skip


def _with_its_sizes(gm: fx.GraphModule, node: fx.Node, target) -> None:
    """`x.view_as(y)` as the view that it is: of `y` only the sizes are read."""
    with gm.graph.inserting_before(node):
        sizes = [_size(gm, node.args[1], d, n) for d, n in enumerate(node.meta["val"].shape)]
    node.target, node.args = target, (node.args[0], sizes)


def _with_its_dtype(node: fx.Node, target) -> None:
    """`x.type_as(y)` as the cast that it is: of `y` only the dtype is read, whatever its shape and layout."""
    x, other = node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs["other"]
    if x.meta["val"].device == other.meta["val"].device:
        node.target, node.args, node.kwargs = target, (x, other.meta["val"].dtype), {}


def _size(gm: fx.GraphModule, tensor: fx.Node, dim: int, size):
    if isinstance(size, int):
        return size
    found = gm.graph.call_function(aten.sym_size.int, (tensor, dim))
    found.meta = {k: v for k, v in tensor.meta.items() if k in ("nn_module_stack", "stack_trace")} | {"val": size}
    return found


def _each_by_itself(gm: fx.GraphModule, node: fx.Node) -> None:
    """`broadcast_tensors`, which every mean squared error begins with, as an expand of each that is smaller."""
    for user in list(node.users):
        index = user.args[1]
        operand, value = node.args[0][index], node.meta["val"][index]
        if operand.meta["val"].dim() != value.dim() or any(
            statically_known_true(a != b) for a, b in zip(operand.meta["val"].shape, value.shape, strict=True)
        ):
            with gm.graph.inserting_before(user):
                expanded = gm.graph.call_function(aten.expand.default, (operand, list(value.shape)))
            expanded.meta = {k: v for k, v in node.meta.items() if k not in ("val", "tensor_meta")}
            expanded.meta["val"] = value
            operand = expanded
        user.replace_all_uses_with(operand)
        gm.graph.erase_node(user)
    gm.graph.erase_node(node)


def _mean_as_sum_over_count(gm: fx.GraphModule, node: fx.Node) -> None:
    target, weight = argument(node, "target"), argument(node, "weight")
    ignore = argument(node, "ignore_index", -100)
    graph = gm.graph
    value = node.meta["val"]

    def call(op, *args, val, **kwargs):
        new = graph.call_function(op, args, kwargs)
        new.meta = {k: v for k, v in node.meta.items() if k not in ("val", "tensor_meta")}
        new.meta["val"] = val
        return new

    tv = target.meta["val"]
    with graph.inserting_before(node), value.fake_mode:
        args, kwargs = _summed(node)
        total = call(node.target, *args, **kwargs, val=value)
        if tv.is_floating_point():  # soft labels: every position counts
            tokens = tv.numel() // tv.shape[1 if tv.dim() > 1 else 0]
            mean = call(aten.div.Tensor, total, tokens, val=value)
        elif weight is None:
            valid = call(aten.ne.Scalar, target, ignore, val=torch.empty_like(tv, dtype=torch.bool))
            number = call(aten.sum.default, valid, val=torch.empty((), dtype=torch.int64, device=tv.device))
            mean = call(aten.div.Tensor, total, number, val=value)
        else:
            valid = call(aten.ne.Scalar, target, ignore, val=torch.empty_like(tv, dtype=torch.bool))
            safe = call(aten.mul.Tensor, target, valid, val=torch.empty_like(tv))
            picked = call(aten.take.default, weight, safe, val=torch.empty(tv.shape, dtype=value.dtype))
            kept = call(aten.mul.Tensor, picked, valid, val=torch.empty(tv.shape, dtype=value.dtype))
            number = call(aten.sum.default, kept, val=torch.empty((), dtype=value.dtype))
            mean = call(aten.div.Tensor, total, number, val=value)
    mean.meta[MARK] = not tv.is_floating_point()
    node.replace_all_uses_with(mean)
    graph.erase_node(node)


def _summed(node: fx.Node) -> tuple[tuple, dict]:
    """The arguments of a token loss that is summed: all of them, by place where they have one."""
    given = arguments(node.target, node.args, node.kwargs) | {"reduction": SUM}
    by_name = {a.name for a in schema_of(node.target).arguments if a.kwarg_only}
    return tuple(v for n, v in given.items() if n not in by_name), {n: v for n, v in given.items() if n in by_name}
