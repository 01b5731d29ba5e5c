"""The local version of an operator: the call itself, or one of a table of small functions.

A call must change where its arguments hold sizes (`view`, `expand`), counts (`mean`), or where it
would fail or mean something else on a shorter dim (a slice that keeps everything, `squeeze`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch

from ..compat.torch import schema_of
from ..sharding import PARTIAL, Coordinate, Placement, Sharding, Size, Split
from ..sharding.sharding import local_shape
from .call import op_name
from .projection import Projection
from .strategies import factor_of, narrowed, product

aten = torch.ops.aten


@attrs.frozen
class LocalCall:
    """One rank's call: what was called, how its tensors lie, where the rank is, and how to emit another."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    projection: Projection
    inputs: tuple[Sharding, ...]
    outputs: tuple[Sharding, ...]
    shapes: tuple[tuple[Size, ...], ...]
    where: tuple[Coordinate, ...]
    emit: Callable[[Any, tuple, dict], Any]
    size: Callable[[Size], Any]

    def again(self) -> Any:
        """The call as it stands."""
        return self.emit(self.target, self.args, self.kwargs)

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the schema."""
        for i, a in enumerate(schema_of(self.target).arguments):
            if a.name == name:
                value = self.args[i] if i < len(self.args) and not a.kwarg_only else a.default_value
                return self.kwargs.get(name, value)
        return default

    def with_argument(self, name: str, value: Any) -> Any:
        """The call with one argument changed."""
        names = [a.name for a in schema_of(self.target).arguments]
        at = names.index(name)
        if name in self.kwargs or at >= len(self.args):
            return self.emit(self.target, self.args, {**self.kwargs, name: value})
        return self.emit(self.target, (*self.args[:at], value, *self.args[at + 1 :]), self.kwargs)

    def sizes(self) -> list[Any]:
        """The local sizes of the first result."""
        return [self.size(n) for n in self.result_shape()]

    def result_shape(self) -> tuple[Size, ...]:
        """The local shape of the first result."""
        return local_shape(self.shapes[0], self.outputs[0], self.where)

    @property
    def is_split(self) -> bool:
        """Whether any tensor of the call is split."""
        return any(x.dims for x in (*self.inputs, *self.outputs))

    @property
    def sums(self) -> bool:
        """Whether an axis sums here: its ranks' results are parts of a sum, and no operand is."""
        return any(
            PARTIAL in [x.on(here.axis) for x in self.outputs] and PARTIAL not in [x.on(here.axis) for x in self.inputs]
            for here in self.where
        )


def reshape(call: LocalCall) -> Any:
    """A view may be illegal on local strides, and its sizes are global: reshape to the local sizes."""
    return call.emit(aten.reshape.default, (call.args[0], call.sizes()), {})


def reshape_if_split(call: LocalCall) -> Any:
    """Operators that look at sizes of 1 would see other ones on a rank."""
    return reshape(call) if call.is_split else call.again()


def packed(call: LocalCall) -> Any:
    """Two elements are taken for one: they must lie beside each other, as they did in the whole tensor."""
    self = call.emit(aten.contiguous.default, (call.args[0],), {})
    return call.emit(call.target, (self, *call.args[1:]), call.kwargs)


def expand(call: LocalCall) -> Any:
    """Expand to the local sizes."""
    return call.emit(aten.expand.default, (call.args[0], call.sizes()), {})


def with_size(call: LocalCall) -> Any:
    """A new tensor of the local sizes."""
    return call.with_argument("size", call.sizes())


def repeat(call: LocalCall) -> Any:
    """Copies themselves may be split: each rank makes its own."""
    name = "repeats" if call.argument("repeats") is not None else "dims"
    copies, made = call.argument(name), _copies(call)
    if not made:
        return call.again()
    if not isinstance(copies, (list, tuple)):
        return call.with_argument(name, next(iter(made.values())))
    copies = [1] * (len(call.shapes[0]) - len(copies)) + list(copies)
    return call.with_argument(name, [made.get(d, n) for d, n in enumerate(copies)])


def _copies(call: LocalCall) -> dict[int, Any]:
    """By dim of the result, how many copies the rank makes, where copies are split."""
    copies, projection = {}, call.projection
    for here in call.where:
        own, operand = call.outputs[0].on(here.axis), call.inputs[0].on(here.axis)
        if not isinstance(own, Split):
            continue
        part = factor_of(projection, -1, own)
        projection = narrowed(projection, part, here.size, here.rank)
        if not isinstance(operand, Split):
            copies[own.dim] = call.size(projection.sizes[part[0]])
    return copies


def interleave(call: LocalCall) -> Any:
    """As `repeat`; a result size that the caller foresaw is the global one."""
    if call.argument("output_size") is not None:
        call = attrs.evolve(call, kwargs={k: v for k, v in call.kwargs.items() if k != "output_size"})
    return repeat(call)


def mean(call: LocalCall) -> Any:
    """A partial mean: the local sum over the global count."""
    if not call.sums:
        return call.again()
    dim, keepdim = call.argument("dim"), call.argument("keepdim", False)
    cast = {k: v for k, v in call.kwargs.items() if k == "dtype"}
    summed = call.emit(aten.sum.dim_IntList, (call.args[0], dim, keepdim), cast)
    return call.emit(aten.div.Tensor, (summed, call.size(summed_count(call))), {})


def mean_loss(call: LocalCall) -> Any:
    """A partial mean of a loss per element: the local sum over the global count."""
    mean_of, sum_of = 1, 2
    if not call.sums or call.argument("reduction") != mean_of:
        return call.again()
    return call.emit(aten.div.Tensor, (call.with_argument("reduction", sum_of), call.size(summed_count(call))), {})


def summed_count(call: LocalCall) -> Size:
    """How many values the call sums into one."""
    reduced = [n for n, kind in zip(call.projection.sizes, call.projection.kinds, strict=True) if kind == "reduce"]
    return product(reduced)


def _without_heads(call: LocalCall) -> Any:
    """An attention of no element: of the result's shape, and with gradients of its operands'."""
    key, value = (call.emit(aten.slice.Tensor, (call.argument(x), -3, 0, 0), {}) for x in ("key", "value"))
    scores = call.emit(aten.matmul.default, (call.argument("query"), call.emit(aten.mT.default, (key,), {})), {})
    return call.emit(aten.matmul.default, (scores, value), {})


def attention(call: LocalCall) -> Any:
    """Where a rank has no query, PyTorch leaves the mask (a position bias, say) without a gradient, and the other
    ranks would wait in the backward of what made it: the sum of none of its elements is added to no element.
    Where it has no head, PyTorch 2.11's kernel divides by their number and ends the process: two products serve."""
    mask, shape = call.argument("attn_mask"), call.result_shape()
    out = _without_heads(call) if shape[-3:-2] == (0,) else call.again()
    if mask is None or 0 not in shape:
        return out
    none = call.emit(aten.sum.default, (call.emit(aten.slice.Tensor, (mask, -1, 0, 0), {}),), {})
    return call.emit(aten.add.Tensor, (out, none), {})


def keep(call: LocalCall) -> Any:
    """A slice of a dim that may be split keeps all of it; its bounds are global."""
    if call.argument("dim", 0) % len(call.shapes[0]) in call.outputs[0].dims:
        return call.emit(aten.alias.default, (call.args[0],), {})
    return call.again()


def _table(*groups: tuple[Callable[[LocalCall], Any], str]) -> dict[str, Callable[[LocalCall], Any]]:
    return {f"aten.{name}": function for function, names in groups for name in names.split()}


TABLE = _table(
    (reshape, "view.default _unsafe_view.default reshape.default view_as.default reshape_as.default"),
    (reshape_if_split, "unflatten.int flatten.using_ints squeeze.default squeeze.dim squeeze.dims ravel.default "
                       "atleast_1d.default atleast_2d.default atleast_3d.default"),
    (packed, "view_as_complex.default view.dtype"),
    (expand, "expand.default broadcast_to.default"),
    (with_size, "new_zeros.default new_ones.default new_empty.default new_full.default"),
    (repeat, "repeat.default tile.default"),
    (mean, "mean.dim mean.default"),
    (mean_loss, "mse_loss.default l1_loss.default smooth_l1_loss.default huber_loss.default kl_div.default "
                "binary_cross_entropy_with_logits.default binary_cross_entropy.default soft_margin_loss.default "
                "hinge_embedding_loss.default poisson_nll_loss.default margin_ranking_loss.default "
                "cosine_embedding_loss.default triplet_margin_loss.default"),
    (keep, "slice.Tensor narrow.default"),
    (attention, "scaled_dot_product_attention.default"),
    (interleave, "repeat_interleave.self_int"),
)  # fmt: skip


def has_sizes(target: Any) -> bool:
    """Whether a rank's call of an operator may have other arguments than the whole one: sizes, counts, bounds."""
    return op_name(target) in TABLE


def localise(
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    projection: Projection,
    inputs: Sequence[Sharding],
    outputs: Sequence[Sharding],
    shapes: Sequence[tuple[Size, ...]],
    where: Sequence[Coordinate],
    emit: Callable[[Any, tuple, dict], Any],
    size: Callable[[Size], Any] = lambda n: n,
) -> Any:
    """Run the operator's local version on one rank; gives what the (last) emitted call gives.

    `args` hold any handles where the call has tensors; `shapes` are the global shapes of the results; `where` is the
    rank's place on each axis; `emit(target, args, kwargs)` performs a call; `size(n)` makes a size usable in args.
    """
    call = LocalCall(
        target, tuple(args), dict(kwargs), projection, tuple(inputs), tuple(outputs), tuple(shapes), tuple(where),
        emit, size,
    )  # fmt: skip
    return TABLE.get(op_name(target), LocalCall.again)(call)


def localise_on_axis(
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    projection: Projection,
    inputs: Sequence[Placement],
    outputs: Sequence[Placement],
    shapes: Sequence[tuple[Size, ...]],
    p: int,
    rank: int,
    emit: Callable[[Any, tuple, dict], Any],
    size: Callable[[Size], Any] = lambda n: n,
) -> Any:
    """As `localise`, of placements on one axis of `p` ranks."""
    here = Coordinate("", p, rank, "")
    lying = ([Sharding.alone("", at) for at in places] for places in (inputs, outputs))
    return localise(target, args, kwargs, projection, *lying, shapes, (here,), emit, size)
