"""What in-place operators write, their functional forms, and how a view is undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ..compat.torch import OpOverload, has_kernel
from ..rules import is_a, is_call, named, traits
from ..rules.inplace import is_out

aten = torch.ops.aten

Emit = Callable[[Any, tuple, dict], fx.Node]


def is_inplace_view(target: OpOverload) -> bool:
    """Whether it changes a tensor's shape in place (`unsqueeze_`) and no value."""
    return torch.Tag.inplace_view in target.tags


def written_by(node: fx.Node) -> fx.Node | None:
    """The operand that a call writes, its first or its `out`."""
    if is_out(node.target):
        return node.kwargs.get("out")
    return next(iter(node.all_input_nodes), None)


def silent_writes(node: fx.Node) -> list[fx.Node]:
    """The running statistics that a normalisation updates though its schema does not say so."""
    return [n for n in named(node, "updates") if isinstance(n, fx.Node)] if is_call(node, "updates") else []


def autocast_changes(target: OpOverload, device: str) -> bool:
    """Whether autocast casts the operands of an operator: it does so for functional forms only."""
    key = {"cuda": "AutocastCUDA", "cpu": "AutocastCPU"}.get(device, "AutocastCUDA")
    return has_kernel(target, key)


def returns_its_input(node: fx.Node) -> bool:
    """Dropout that drops nothing gives back its very operand in eager mode; its fake version gives a copy."""
    return is_call(node, "itself")


def invertible(view: fx.Node, parent: fx.Node) -> bool:
    """Whether what is written to a view can be put back into what it views."""
    if _same(parent, view) or is_a(view, "reshape", "permute", "undone", "scattered"):
        return True
    return is_a(view, "narrow") and isinstance(view.args[2], int) and view.args[2] >= 0


def copied(to: fx.Node, source: fx.Node, emit: Emit) -> fx.Node:
    """What `to.copy_(source)` leaves in `to`. (`aten.copy` has no derivative.)"""
    here, there = to.meta["val"], source.meta["val"]
    if there.dtype != here.dtype:
        source = emit(aten.to.dtype, (source, here.dtype), {})
    return emit(aten.expand.default, (source, sizes_of(to, emit)), {})


def undone(view: fx.Node, parent: fx.Node, now: fx.Node, value: fx.Node, emit: Emit) -> fx.Node:
    """The parent's value, `now` until then, once `value` is written to a view of it."""
    args = view.args
    if _same(parent, view):
        return value
    found = traits(view.target)
    if "reshape" in found:
        return emit(aten.reshape.default, (value, sizes_of(now, emit)), {})
    if "undone" in found:
        return emit(found.operator_of("undone"), (emit(aten.contiguous.default, (value,), {}),), {})
    if "permute" in found:
        return emit(aten.permute.default, (value, _order_back(view, parent)), {})
    if "narrow" in found:
        return emit(aten.slice_scatter.default, (now, value, args[1], args[2], args[2] + args[3]), {})
    return emit(found.operator_of("scattered"), (now, value, *args[1:]), dict(view.kwargs))


def _same(parent: fx.Node, view: fx.Node) -> bool:
    """Whether a view is its parent's elements in the same order: a cast to the dtype that it has, say."""
    a, b = parent.meta["val"], view.meta["val"]
    if returns_its_input(view):
        return True
    if is_a(view, "undone"):
        return False
    if not isinstance(a, torch.Tensor) or a.dtype != b.dtype or a.dim() != b.dim():
        return False
    pairs = [*zip(a.shape, b.shape, strict=True), *zip(a.stride(), b.stride(), strict=True)]
    return all(str(x) == str(y) for x, y in (*pairs, (a.storage_offset(), b.storage_offset())))


def _order_back(view: fx.Node, parent: fx.Node) -> list[int]:
    """The permutation that undoes a view's, which is read off a probe whose sizes are all different."""
    probe = torch.empty([i + 2 for i in range(parent.meta["val"].dim())], device="meta")
    order = [n - 2 for n in view.target(probe, *view.args[1:], **view.kwargs).shape]
    return [order.index(i) for i in range(len(order))]


def sizes_of(node: fx.Node, emit: Emit) -> list[int | fx.Node]:
    """A value's sizes as arguments of a call."""
    shape: Sequence = node.meta["val"].shape
    return [n if isinstance(n, int) else emit(aten.sym_size.int, (node, d), {}) for d, n in enumerate(shape)]
