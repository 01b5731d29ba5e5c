"""The message of every fault of a layout: (what, rule, fix), from pure functions."""

from __future__ import annotations

from ..errors import Problem

Message = tuple[str, str, str]


def axis_twice(axis: str) -> Message:
    return (
        f"axis '{axis}' is used twice in one layout",
        "an axis splits one dim, or sums, once",
        f"keep '@{axis}' where the split belongs and drop the other",
    )


def dim_twice(name: str) -> Message:
    return (
        f"dim '{name}' is named twice in one layout",
        "a dim name stands once in a layout and means one size",
        f"give the second a name of its own, such as 'kv_{name}'",
    )


def ellipsis_twice() -> Message:
    return (
        "'...' stands twice in one layout",
        "'...' is all the dims that are not written, so it can stand once",
        "name the dims of one of them, or write '_' for each",
    )


def one_split() -> Message:
    return (
        "a dim of size 1 is split",
        "a split dim has something to deal out to the ranks",
        "write '1' without an axis, or the dim's name",
    )


def none_dim() -> Message:
    return (
        "'None' stands where a dim belongs",
        "in text a dim without a name is '_'; None is said in P(...)",
        "write '_', or the dim's name",
    )


def no_size(size: str) -> Message:
    return (
        f"{size} is not a valid size of a dim",
        "a size is a whole number from 1",
        "write the dim's size, its name, or '_'",
    )


def bad_entry(entry: object) -> Problem:
    return Problem(
        f"P was given {entry!r}",
        "each entry of P is an axis name, a tuple of them, None for a dim that is not split, or ...",
        'write for example P("dp", "sp", None)',
    )


def not_a_layout(value: object) -> Problem:
    return Problem(
        f"a value of type {type(value).__name__} stands where a layout belongs",
        "a layout is text such as '[batch@dp, seq@sp]', a Layout, or P(...)",
        'write for example "[batch@dp, seq@sp]" or P("dp", "sp")',
    )
