"""What can be wrong between the statements of a spec: found here, worded in `messages`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

from ..errors import Problem
from ..syntax import At, Layout, problem_at
from ..syntax.faults import Mark
from . import messages
from .values import Statements

NOTHING: frozenset[str] = frozenset()
LAYOUT_STATEMENTS = frozenset({"input", "output", "constrain", "include"})


def first_place(value: Any) -> str:
    """Where an earlier value of the same name stood."""
    return str(value.at) if value.at else ""


def layouts(spec: Statements) -> Iterator[tuple[Layout, At | None]]:
    """Every layout of the spec and its place."""
    for value in chain(spec.inputs, spec.outputs, spec.constraints):
        if value.layout is not None:
            yield value.layout, value.at


def dim_names(spec: Statements) -> tuple[str, ...]:
    """Every dim name of the spec, each once, in reading order."""
    distinct = dict.fromkeys(layout for layout, _ in layouts(spec))
    return tuple(dict.fromkeys(name for layout in distinct for name in layout.names))


def mark_message(kind: str, text: str, axes: tuple[str, ...]) -> messages.Message | None:
    """What is wrong with one word of a layout under a mesh, if anything is."""
    if kind == "sum":
        return messages.sum_written(text)
    if kind == "axis" and text not in axes:
        return messages.no_axis(text, axes)
    if kind == "dim" and text in axes:
        return messages.axis_as_dim(text)
    return None


def marks_against_mesh(marks: Iterable[Mark], at: At | None, axes: tuple[str, ...]) -> Iterator[Problem]:
    """Axes that the mesh lacks, axes that stand as dims, and partial sums."""
    for i, mark in enumerate(marks):
        message = mark_message(mark.kind, mark.text, axes)
        if message:
            yield problem_at(at and at.spot(i, mark.text), *message)


@lru_cache(maxsize=4096)
def fits_mesh(layout: Layout, axes: tuple[str, ...]) -> bool:
    """Whether nothing in a layout is against the mesh; a spec says few layouts many times."""
    return not any(mark_message(mark.kind, mark.text, axes) for mark in layout.marks())


def twice(values: Iterable[Any], name: Callable[[Any], Any], word: Callable[[Any], str]) -> Iterator[Problem]:
    """Values whose `name` an earlier one has."""
    seen: dict[Any, Any] = {}
    for value in values:
        first = seen.setdefault(name(value), value)
        if first is not value:
            yield problem_at(value.at, *messages.given_twice(word(value), first_place(first)))


def repeats(spec: Statements) -> Iterator[Problem]:
    """Everything that is stated twice."""
    yield from twice(spec.mesh, lambda a: a.name, lambda a: f"axis '{a.name}'")
    yield from twice(spec.inputs, lambda i: i.name, lambda i: f"input '{i.name}'")
    yield from twice(spec.outputs, lambda o: o.name, lambda o: f"output '{o.name}'")
    yield from twice(spec.maps, lambda m: m.module, lambda m: f"map of '{m.module}'")
    yield from twice(spec.dims, lambda d: (d.name, d.axis), lambda d: f"the fact about dim '{d.name}'")
    yield from twice(spec.tile, lambda t: t.what, lambda t: f"tile of '{t.what}'")


def contradictions(spec: Statements) -> Iterator[Problem]:
    """Constraints on one port of one path: repeated, or differing."""
    seen: dict[tuple[str, str], Any] = {}
    for this in spec.constraints:
        first = seen.setdefault((this.module, this.port), this)
        if first is this:
            continue
        message = messages.contradiction(str(this), str(first), first_place(first))
        if first == this:
            message = messages.given_twice(f"'{this}'", first_place(first))
        yield problem_at(this.at, *message)


def reduce_faults(spec: Statements) -> Iterator[Problem]:
    """Axes of `reduce` that the mesh lacks, and axes of the mesh that it may not leave out."""
    at = spec.places.get("reduce")
    for i, axis in enumerate(spec.reduce):
        spot = at and at.spot(i, axis)
        if axis not in spec.axes:
            yield problem_at(spot, *messages.no_axis(axis, spec.axes))
        elif axis in spec.reduce[:i]:
            yield problem_at(spot, *messages.given_twice(f"axis '{axis}'", ""))
    for axis in spec.mesh:
        if not axis.local and axis.name not in spec.reduce:
            yield problem_at(at, *messages.reduce_leaves_out(axis.name))


def dim_faults(spec: Statements) -> Iterator[Problem]:
    """Facts and maps about dims that no layout names."""
    known = dim_names(spec)
    for fact in spec.dims:
        if fact.name not in known:
            yield problem_at(fact.at, *messages.no_dim(fact.name, known))
    for each in spec.maps:
        if each.over not in known:
            at = each.at and each.at.spot(0, each.over)
            yield problem_at(at, *messages.no_dim(each.over, known))


def fact_axes(spec: Statements) -> Iterator[Problem]:
    """Facts that name an axis that the mesh lacks."""
    for fact in spec.dims:
        if fact.axis is not None and fact.axis not in spec.axes:
            at = fact.at and fact.at.spot(0, fact.axis)
            yield problem_at(at, *messages.no_axis(fact.axis, spec.axes))


def loss_faults(spec: Statements) -> Iterator[Problem]:
    """A loss that is not global."""
    for output in spec.outputs:
        if output.name == "loss" and output.mode == "local":
            yield problem_at(output.at, *messages.local_loss())


def spec_problems(spec: Statements, broken: frozenset[str] = NOTHING) -> list[Problem]:
    """Every fault between the statements. `broken` are statements that could not be read: what
    hangs on them is left out, so that one error does not cause others.
    """
    problems = [*repeats(spec), *contradictions(spec), *loss_faults(spec)]
    if not broken & LAYOUT_STATEMENTS:
        problems += dim_faults(spec)
    if "mesh" in broken:
        return problems
    if not spec.mesh:
        return [*problems, problem_at(None, *messages.no_mesh())]
    for layout, at in layouts(spec):
        if fits_mesh(layout, spec.axes):
            continue
        problems += marks_against_mesh(layout.marks(), at, spec.axes)
    return [*problems, *fact_axes(spec), *reduce_faults(spec)]
