"""Marks on tensors: which layout an input has, kept by the tensor's identity while it lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from ..compat.torch import WeakIdKeyDictionary
from ..errors import InputError, Problem
from ..syntax import Layout, as_layout, parse_layout
from . import messages
from .spec import Spec

T = TypeVar("T")
TAG = "autosp:"  # of `tensor.tag`, the one attribute that Dynamo hands on to a placeholder

_layouts: WeakIdKeyDictionary = WeakIdKeyDictionary()


def mark(tensor: torch.Tensor, layout: Layout) -> None:
    """Remember the layout of one tensor, by identity and as a tag where none of the user's stands."""
    _layouts[tensor] = layout
    tag = getattr(tensor, "tag", None)
    if tag is None or (isinstance(tag, str) and tag.startswith(TAG)):
        setattr(tensor, "tag", f"{TAG}{layout}")  # noqa: B010  # an attribute of our own


def misfit(name: str, tensor: torch.Tensor, layout: Layout) -> Problem | None:
    """What is wrong where the tensor cannot have the layout."""
    if layout.partial:
        return Problem(*messages.marked_sum(name, layout))
    if not layout.fits(tensor.dim()):
        return Problem(*messages.wrong_ndim(name, tuple(tensor.shape), layout))
    return None


def annotate_tensor(tensor: torch.Tensor, layout: Layout) -> None:
    """Mark one tensor. Raises InputError where it does not fit."""
    problem = misfit("tensor", tensor, layout)
    if problem:
        raise InputError(problem)
    mark(tensor, layout)


def annotate_batch(batch: Mapping[str, Any], spec: Spec) -> None:
    """Mark every tensor of the batch that the spec names. Raises InputError with every misfit."""
    named = [(i, batch[i.name]) for i in spec.inputs if isinstance(batch.get(i.name), torch.Tensor)]
    problems = [misfit(f"input '{i.name}'", tensor, i.layout) for i, tensor in named]
    if any(problems):
        raise InputError(filter(None, problems))
    for each, tensor in named:
        mark(tensor, each.layout)


def annotate(value: T, layout: str | Layout | Spec) -> T:
    """Marks a tensor with a layout, or the tensors of a batch with those of a spec.

    For tensors that no spec names, and for code that has none: inputs that a spec names are known by name. A mark is
    kept by the tensor's identity, so a copy (`x.to(...)`, `x + 0`) has none.

    Args:
        value: a tensor, or a batch: a mapping of names to tensors.
        layout: of a tensor, its layout, as text or as `autosp.P(...)`, with a dim for each of its own; of a batch, the
            `Spec` that names its tensors.

    Returns:
        `value` itself.

    Raises:
        InputError: a tensor does not fit its layout, or `value` is neither a tensor nor a batch.
        SpecError: the layout cannot be read.

    Example:
        >>> import autosp, torch
        >>> ids = torch.zeros(2, 128, dtype=torch.int64)
        >>> autosp.annotate(ids, "[batch@dp, seq@sp]") is ids
        True
    """
    if isinstance(layout, Spec):
        if not isinstance(value, Mapping):
            raise InputError(Problem(*messages.not_a_batch(value)))
        annotate_batch(value, layout)
    elif isinstance(value, torch.Tensor):
        annotate_tensor(value, as_layout(layout, "autosp.annotate"))
    else:
        raise InputError(Problem(*messages.not_a_tensor(value)))
    return value


def annotation_of(tensor: torch.Tensor) -> Layout | None:
    """The layout that a tensor was marked with, or None."""
    layout = _layouts.get(tensor)
    if layout is None:
        return layout_of_tag(getattr(tensor, "tag", None))
    return layout


def layout_of_tag(tag: object) -> Layout | None:
    """The layout that a `tag` written by `annotate` states, or None."""
    if isinstance(tag, str) and tag.startswith(TAG):
        return parse_layout(tag.removeprefix(TAG))
    return None
