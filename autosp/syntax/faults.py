"""What can be wrong in a layout that reads well: found here, worded in `messages`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import attrs

from ..errors import Problem
from . import messages
from .source import At, problem_at


@attrs.frozen
class Mark:
    """One word of a layout: a "dim", a "size", an "axis", an axis of a "sum", or an "ellipsis"."""

    kind: str
    text: str


def repeated(marks: tuple[Mark, ...], kinds: tuple[str, ...]) -> Iterator[int]:
    """Indices of the marks of these kinds whose text stood there before."""
    seen: set[str] = set()
    for i, mark in enumerate(marks):
        if mark.kind in kinds and mark.text != "_":
            if mark.text in seen:
                yield i
            seen.add(mark.text)


def split_ones(marks: tuple[Mark, ...]) -> Iterator[int]:
    """Indices of sizes of 1 that an axis follows."""
    for i, (mark, after) in enumerate(pairwise(marks)):
        if mark.kind == "size" and mark.text == "1" and after.kind == "axis":
            yield i


def layout_faults(marks: tuple[Mark, ...]) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Every fault: the mark that it points at, and its message."""
    for i in repeated(marks, ("axis", "sum")):
        yield i, messages.axis_twice(marks[i].text)
    for i in repeated(marks, ("dim",)):
        yield i, messages.dim_twice(marks[i].text)
    for i in repeated(marks, ("ellipsis",)):
        yield i, messages.ellipsis_twice()
    for i in split_ones(marks):
        yield i, messages.one_split()
    for i, mark in enumerate(marks):
        if mark == Mark("dim", "None"):
            yield i, messages.none_dim()
        if mark.kind == "size" and int(mark.text) < 1:
            yield i, messages.no_size(mark.text)


def layout_problems(marks: tuple[Mark, ...], at: At | None) -> list[Problem]:
    """Every fault of a layout as a problem; `at` holds the places of its marks, if a text does."""
    faults = sorted(layout_faults(marks))
    return [problem_at(at and at.spot(i, marks[i].text), *message) for i, message in faults]
