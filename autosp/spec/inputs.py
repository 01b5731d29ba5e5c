"""Whether the inputs of a call fit the spec: names, numbers of dims, sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import attrs
import torch

from ..errors import InputError, Problem, did_you_mean
from ..syntax import Dim, Layout, Part
from . import messages
from .marks import annotation_of
from .spec import Spec

Sizes = Mapping[str, int]


@attrs.frozen
class Argument:
    """One input of a call: its name, its shape, the layout it should have."""

    name: str
    shape: tuple[int, ...]
    layout: Layout


@attrs.frozen
class Seen:
    """A size that a dim has on the whole, and where that was seen."""

    size: int
    where: str


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor, or the shape that was given for one; None for anything else."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(n, int) for n in value):
        return tuple(value)
    return None


def layout_for(spec: Spec, name: str, value: Any) -> Layout | None:
    """The layout of an input: the spec's, else the one that it is marked with."""
    named = spec.input(name)
    if named:
        return named.layout
    return annotation_of(value) if isinstance(value, torch.Tensor) else None


def missing_inputs(spec: Spec, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Problem]:
    """Inputs that are not optional and not given."""
    for each in spec.inputs:
        if not each.optional and each.name not in shapes:
            yield Problem(*messages.missing(each.name, tuple(shapes)), where=str(each.at or ""))


def unknown_inputs(spec: Spec, layouts: Mapping[str, Layout | None]) -> Iterator[Problem]:
    """Tensors that have no layout."""
    free = [each.name for each in spec.inputs if each.name not in layouts]
    for name, layout in layouts.items():
        if layout is None:
            otherwise = f"add a line such as: input {name} [...], or mark it with autosp.annotate"
            yield Problem(*messages.unknown(name, did_you_mean(name, free, otherwise)))


def local_share(part: Part, spec: Spec, axis_sizes: Sizes) -> list[tuple[str, int]]:
    """The local axes of a part, with their sizes: a rank holds one share of so many."""
    return [(axis, axis_sizes.get(axis, 1)) for axis in part.axes if axis in spec.local_axes]


def seen_in(argument: Argument, size: int, part: Part, spec: Spec, axis_sizes: Sizes) -> Seen:
    """The whole size of a plain dim of which this rank was given `size`."""
    axes = local_share(part, spec, axis_sizes)
    return Seen(size * prod(n for _, n in axes), messages.place(argument.name, argument.shape, messages.share(axes)))


def bind_dim(
    argument: Argument, size: int, dim: Dim, bound: dict[str, Seen], spec: Spec, axis_sizes: Sizes
) -> Problem | None:
    """Bind the name of a plain dim to its size; what is wrong where it has another already."""
    part = dim.parts[0]
    seen = seen_in(argument, size, part, spec, axis_sizes)
    if part.size is not None and part.size != seen.size:
        return Problem(*messages.other_size(part.word, seen.size, seen.where, part.size))
    if part.name is None:
        return None
    first = bound.setdefault(part.name, seen)
    if first.size != seen.size:
        return Problem(*messages.two_sizes(part.name, first.size, first.where, seen.size, seen.where))
    return None


def check_merged(
    argument: Argument, size: int, dim: Dim, bound: dict[str, Seen], spec: Spec, axis_sizes: Sizes
) -> Problem | None:
    """What is wrong where the parts of a merged dim are known and do not make its size."""
    known = [
        part.size if part.name is None else bound[part.name].size if part.name in bound else None for part in dim.parts
    ]
    sizes = [each for each in known if each is not None]
    if len(sizes) < len(known):
        return None
    axes = [pair for part in dim.parts for pair in local_share(part, spec, axis_sizes)]
    whole = size * prod(n for _, n in axes)
    if whole == prod(sizes):
        return None
    where = messages.place(argument.name, argument.shape, messages.share(axes))
    return Problem(*messages.other_product(str(dim), whole, where, prod(sizes)))


def size_problems(inputs: list[Argument], spec: Spec, axis_sizes: Sizes) -> Iterator[Problem]:
    """Sizes that contradict each other or the spec."""
    bound: dict[str, Seen] = {}
    dims = [
        (argument, size, dim)
        for argument in inputs
        for size, dim in zip(argument.shape, argument.layout.expand(len(argument.shape)).dims, strict=True)
    ]
    for check, merged in ((bind_dim, False), (check_merged, True)):
        problems = (check(*each, bound, spec, axis_sizes) for each in dims if (len(each[2].parts) > 1) == merged)
        yield from filter(None, problems)
    yield from fact_problems(bound, spec, axis_sizes)


def fact_problems(bound: Mapping[str, Seen], spec: Spec, axis_sizes: Sizes) -> Iterator[Problem]:
    """Sizes that the spec's facts about dims forbid."""
    for fact in spec.dims:
        seen = bound.get(fact.name)
        if seen is None:
            continue
        if fact.size is not None and fact.size != seen.size:
            yield Problem(*messages.other_size(fact.name, seen.size, seen.where, fact.size), where=str(fact.at or ""))
        parts = 1 if fact.axis is None else axis_sizes.get(fact.axis, 1)
        if fact.axis is not None and seen.size % parts:
            message = messages.not_divided(fact.name, seen.size, fact.axis, parts)
            yield Problem(*message, where=str(fact.at or ""))


def check_inputs(spec: Spec, values: Mapping[str, Any], axis_sizes: Sizes) -> None:
    """Check the inputs of a call, tensors or shapes by name, on a mesh of these axis sizes.

    What is neither (None, a flag) is passed over, as if it were not given. Raises InputError with
    everything that does not fit: an input missing, unknown, or of another number of dims; a dim
    with two sizes; a size that contradicts the spec.
    """
    shapes = {name: shape for name, value in values.items() if (shape := shape_of(value)) is not None}
    layouts = {name: layout_for(spec, name, values[name]) for name in shapes}
    problems = [*missing_inputs(spec, shapes), *unknown_inputs(spec, layouts)]
    fitting = []
    for name, layout in layouts.items():
        if layout is None:
            continue
        if layout.fits(len(shapes[name])):
            fitting.append(Argument(name, shapes[name], layout))
        else:
            problems.append(Problem(*messages.wrong_ndim(f"input '{name}'", shapes[name], layout)))
    problems += size_problems(fitting, spec, axis_sizes)
    if problems:
        raise InputError(problems)
