"""The layout of each input: what the spec says by name, else what the tensor is marked with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import attrs
import torch

from ..errors import InputError, Problem
from ..spec import Spec, annotation_of, check_inputs
from ..spec.joined import join
from ..spec.messages import no_axis, wrong_ndim
from ..syntax import Layout


def layout_of(spec: Spec, name: str, tensor: torch.Tensor) -> Layout | None:
    """The layout of one input, with a dim for each of the tensor's; None where neither names it.

    Raises InputError where it does not fit the tensor, or a mark does not fit the spec.
    """
    marked, named = annotation_of(tensor), spec.input(name)
    for axis in spec.axes:
        marked = None if marked is None else join(marked, axis)
    layout = named.layout if named else marked
    if layout is None:
        return None
    unknown = [a for a in (marked.axes if marked else ()) if a not in spec.axes]
    if unknown:
        raise InputError([Problem(*no_axis(a, spec.axes), where=f"input '{name}', marked {marked}") for a in unknown])
    if not layout.fits(tensor.dim()):
        message = wrong_ndim(f"input '{name}'", tuple(tensor.shape), layout)
        raise InputError(Problem(*message, where=f"input '{name}'"))
    expanded = layout.expand(tensor.dim())
    if marked and named and not _alike(expanded, marked):
        raise InputError(_contradiction(name, marked, named.layout))
    return expanded


def check_call(spec: Spec, inputs: Mapping[str, Any], sizes: Mapping[str, int], *, training: bool) -> None:
    """Check the inputs of a call that the spec names or a mark does, on axes of these sizes.

    Outside training nothing is owed: a forward may run without labels. Raises InputError, where no input is known too.
    """
    known = {n: x for n, x in inputs.items() if spec.input(n) or (isinstance(x, torch.Tensor) and annotation_of(x))}
    if inputs and not known:
        raise InputError(nothing_known(sorted(inputs), spec))
    check_inputs(spec if training else _all_optional(spec), known, sizes)


def _all_optional(spec: Spec) -> Spec:
    return attrs.evolve(spec, inputs=tuple(attrs.evolve(i, optional=True) for i in spec.inputs))


def _alike(one: Layout, two: Layout) -> bool:
    """Whether both split the same dims over the same axes."""
    return two.fits(len(one.dims)) and all(
        one.axes_of(d) == two.expand(len(one.dims)).axes_of(d) for d in range(len(one.dims))
    )


def with_marks(spec: Spec, module: torch.nn.Module) -> Spec:
    """The general spec for a module that takes other inputs than it names: those are then marked."""
    names = inspect.signature(module.forward).parameters
    return attrs.evolve(
        spec, inputs=tuple(attrs.evolve(i, optional=True) if i.name not in names else i for i in spec.inputs)
    )


def nothing_known(names: list[str], spec: Spec) -> Problem:
    """No input of a call is named or marked: the whole program would run on every rank."""
    return Problem(
        what=f"no input of the call is known: {', '.join(names) or 'it has none'}",
        rule=f"the spec names the inputs that are split ({', '.join(i.name for i in spec.inputs)}), or a mark does",
        fix='mark each: autosp.annotate(tensor, "[batch@dp, seq@sp]"), or write a spec with its name',
        where=f"spec {spec.family or '<unnamed>'}",
    )


def _contradiction(name: str, marked: Layout, layout: Layout) -> Problem:
    return Problem(
        what=f"input '{name}' is marked {marked}, and the spec says {layout}",
        rule="an input has one layout; marks are for tensors that the spec does not name",
        fix="drop the mark, or change the spec",
        where=f"input '{name}'",
    )
