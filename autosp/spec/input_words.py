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
        "name the missing dims, or '...' for those that are not split" if len(shape) > len(layout.dims)
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
        f"a {type(value).__name__} is annotated with a spec",
        "a spec marks a batch: a mapping from input names to tensors",
        "give the batch, or a layout for one tensor",
    )


def not_a_tensor(value: object) -> Said:
    return (
        f"a {type(value).__name__} is annotated with a layout",
        "a layout marks one tensor; a spec marks a batch",
        'give a tensor, or a batch and a spec such as autosp.load("llama")',
    )
