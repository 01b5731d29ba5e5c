"""The words of every fault of a model's inputs: (what, rule, fix), from pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from ..syntax import Layout

Said = tuple[str, str, str]


def sizes(shape: Sequence[object]) -> str:
    """`[2, 128]`."""
    return f"[{', '.join(map(str, shape))}]"


def dims(count: int) -> str:
    """`1 dim`, `2 dims`."""
    return f"{count} dim" + ("" if count == 1 else "s")


def wrong_ndim(name: str, shape: Sequence[object], layout: Layout) -> Said:
    least = f"at least {dims(len(layout.dims) - 1)}" if layout.has_ellipsis else dims(len(layout.dims))
    return (
        f"{name} of shape {sizes(shape)} has {dims(len(shape))}, its layout {layout} has {least}",
        "a layout names every dim of its tensor",
        "name the missing dims, or '...' for those that are not split"
        if len(shape) > len(layout.dims)
        else "drop the dims that the tensor lacks",
    )


def marked_sum(name: str, layout: Layout) -> Said:
    return (
        f"{name} is given as a partial sum, {layout}",
        "an input is whole or split; partial sums stand in plans and reports only",
        "drop the 'sum@...'",
    )


def not_a_batch(value: object) -> Said:
    return (
        f"a value of type {type(value).__name__} is annotated with a spec",
        "a spec marks a batch: a mapping from input names to tensors",
        "give the batch, or a layout for one tensor",
    )


def not_a_tensor(value: object) -> Said:
    return (
        f"a value of type {type(value).__name__} is annotated with a layout",
        "a layout marks one tensor; a spec marks a batch",
        'give a tensor, or a batch and a spec such as autosp.load("llama")',
    )


def missing(name: str, keyword_names: Sequence[str]) -> Said:
    given = ", ".join(keyword_names) or "none"
    return (
        f"input '{name}' is missing; given: {given}",
        "every input that the spec does not call optional is given at each call",
        f"give '{name}', or write 'optional' after its layout",
    )


def unknown(name: str, fix: str) -> Said:
    return (
        f"no input '{name}' in the spec",
        "a tensor that goes in is named by the spec or marked with autosp.annotate",
        fix,
    )


def place(name: str, shape: Sequence[object], share: str) -> str:
    """`input 'ids' of shape [2, 8] (a share of 4 on axis 'dp')`."""
    return f"input '{name}' of shape {sizes(shape)}{share}"


def share(axes: Sequence[tuple[str, int]]) -> str:
    """What a local shard is of the whole, in words."""
    ranks = " and ".join(f"{size} ranks of '{axis}'" for axis, size in axes if size > 1)
    return f" on each of {ranks}" if ranks else ""


def two_sizes(dim: str, size: object, where: str, other: object, elsewhere: str) -> Said:
    return (
        f"dim '{dim}' is {size} by {where} and {other} by {elsewhere}",
        "a dim name means one size wherever it stands in a spec",
        f"give both the same size, or name one of the dims otherwise, such as 'kv_{dim}'",
    )


def other_size(dim: str, size: object, where: str, stated: object) -> Said:
    return (
        f"dim '{dim}' is {size} by {where}, and {stated} by the spec",
        "a size that the spec states holds at every call",
        f"give a tensor of size {stated}, or change the spec",
    )


def not_divided(dim: str, size: int, axis: str, parts: int) -> Said:
    return (
        f"dim '{dim}' of size {size} is no multiple of {parts}, the size of axis '{axis}'",
        f"the spec states: dim {dim} divides {axis}",
        f"pad it to {-(-size // parts) * parts}, or drop the line: uneven splits work too",
    )


def other_product(dim: str, size: object, where: str, product: int) -> Said:
    return (
        f"the merged dim {dim} is {size} by {where}; the sizes of its parts make {product}",
        "a merged dim is as large as the product of its parts",
        "give a tensor whose sizes agree with the other inputs'",
    )
