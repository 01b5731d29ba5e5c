"""What in-place operators write, their functional forms, and how a view is undone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ..compat.torch import OpOverload, base_name, has_kernel, overload_name, schema_of

aten = torch.ops.aten

Emit = Callable[[Any, tuple, dict], fx.Node]

# Operators whose schema is silent about the statistics that they update: where their switch is, what they write.
SILENT = {
    aten.batch_norm.default: (5, (3, 4)),
    aten.native_batch_norm.default: (5, (3, 4)),
    aten.cudnn_batch_norm.default: (5, (3, 4)),
    aten.instance_norm.default: (5, (3, 4)),
}
REBINDING = frozenset({"set_", "resize_", "resize_as_", "rename_", "requires_grad_"})  # other memory, not other values
_FORMS = {"normal_": "normal_functional"}  # those of another name
RESHAPES = frozenset(
    {
        aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints,
        aten.unflatten.int, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
        aten.view_as.default, aten.reshape_as.default, aten.ravel.default,
    }
)  # fmt: skip
PERMUTES = frozenset(
    {
        aten.transpose.int, aten.permute.default, aten.t.default, aten.numpy_T.default, aten.mT.default,
        aten.movedim.int, aten.movedim.intlist, aten.swapaxes.default, aten.swapdims.default,
    }
)  # fmt: skip
# Views whose elements are other numbers than their parent's, and what gives the parent's numbers back.
UNVIEWS = {
    aten._conj.default: aten.conj_physical.default,
    aten._neg_view.default: aten.neg.default,
    aten.view_as_real.default: aten.view_as_complex.default,
    aten.view_as_complex.default: aten.view_as_real.default,
}


def is_mutable(target: Any) -> bool:
    """Whether the operator's schema says that it writes an argument."""
    return isinstance(target, OpOverload) and schema_of(target).is_mutable


def is_inplace_view(target: OpOverload) -> bool:
    """Whether it changes a tensor's shape in place (`unsqueeze_`) and no value."""
    return torch.Tag.inplace_view in target.tags


def functional_form(target: OpOverload) -> OpOverload | None:
    """`aten.add.Tensor` for `aten.add_.Tensor` and for `aten.add.out`: the operator that takes the same arguments.

    None where there is none, or where more is written than the first argument, or `out`.
    """
    given = schema_of(target).arguments
    written = [i for i, a in enumerate(given) if a.alias_info and a.alias_info.is_write]
    if len(written) != 1 or target.namespace != "aten":
        return None
    out = is_out(target)
    name = base_name(target) if out else _without_write(base_name(target))
    if (not out and written != [0]) or not name or not hasattr(aten, name):
        return None
    packet = getattr(aten, name)
    forms = [getattr(packet, n) for n in (overload_name(target), *packet.overloads()) if n in packet.overloads()]
    wanted = _signature([a for i, a in enumerate(given) if not out or i not in written])
    return next((f for f in forms if not is_mutable(f) and _signature(schema_of(f).arguments) == wanted), None)


def is_out(target: OpOverload) -> bool:
    """Whether the operator writes what it is given as `out=`."""
    return any(a.is_out for a in schema_of(target).arguments)


def written_by(node: fx.Node) -> fx.Node | None:
    """The operand that a call writes, its first or its `out`."""
    if is_out(node.target):
        return node.kwargs.get("out")
    return next(iter(node.all_input_nodes), None)


def _without_write(name: str) -> str:
    """`add` for `add_`, `__and__` for `__iand__`; '' for what has no such name."""
    if re.fullmatch(r"__i\w+__", name):
        return f"__{name[3:]}"
    return _FORMS.get(name) or (name[:-1] if name.endswith("_") and name not in REBINDING else "")


def _signature(arguments: Sequence) -> list[tuple[str, str]]:
    """Names and types; the tensor that an operator begins with has several names (dropout's `input`)."""
    return [("self" if i == 0 and a.name == "input" else a.name, str(a.type)) for i, a in enumerate(arguments)]


def silent_writes(node: fx.Node) -> list[fx.Node]:
    """The running statistics that a normalisation updates though its schema does not say so."""
    if node.target not in SILENT:
        return []
    switch, places = SILENT[node.target]
    on = len(node.args) > switch and node.args[switch]
    return [node.args[i] for i in places if on and isinstance(node.args[i], fx.Node)]


def autocast_changes(target: OpOverload, device: str) -> bool:
    """Whether autocast casts the operands of an operator: it does so for functional forms only."""
    key = {"cuda": "AutocastCUDA", "cpu": "AutocastCPU"}.get(device, "AutocastCUDA")
    return has_kernel(target, key)


def returns_its_input(node: fx.Node) -> bool:
    """Dropout that drops nothing gives back its very operand in eager mode; its fake version gives a copy."""
    if node.target is not aten.dropout.default:
        return False
    return node.args[1] == 0 or not node.args[2]


def invertible(view: fx.Node, parent: fx.Node) -> bool:
    """Whether what is written to a view can be put back into what it views."""
    if _same(parent, view) or view.target in (*RESHAPES, *PERMUTES, *UNVIEWS, aten.select.int, aten.slice.Tensor):
        return True
    return view.target is aten.narrow.default and isinstance(view.args[2], int) and view.args[2] >= 0


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
    if view.target in RESHAPES:
        return emit(aten.reshape.default, (value, sizes_of(now, emit)), {})
    if view.target in UNVIEWS:
        return emit(UNVIEWS[view.target], (emit(aten.contiguous.default, (value,), {}),), {})
    if view.target in PERMUTES:
        return emit(aten.permute.default, (value, _order_back(view, parent)), {})
    if view.target is aten.select.int:
        return emit(aten.select_scatter.default, (now, value, *args[1:]), {})
    if view.target is aten.narrow.default:
        return emit(aten.slice_scatter.default, (now, value, args[1], args[2], args[2] + args[3]), {})
    return emit(aten.slice_scatter.default, (now, value, *args[1:]), dict(view.kwargs))


def _same(parent: fx.Node, view: fx.Node) -> bool:
    """Whether a view is its parent's elements in the same order: a cast to the dtype that it has, say."""
    a, b = parent.meta["val"], view.meta["val"]
    if returns_its_input(view):
        return True
    if view.target in UNVIEWS:
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
