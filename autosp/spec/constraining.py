"""`constrain`: a layout fixed inside a model, by an operator that stays in captured graphs."""

from __future__ import annotations

from functools import lru_cache

import torch

from ..errors import Problem, SpecError
from ..syntax import Layout, P, as_layout
from . import messages


@torch.library.custom_op("autosp::constrain", mutates_args=(), schema="(Tensor x, str layout) -> Tensor")
def constrain_op(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The value of `x`. A copy, since an operator's result may not share memory with its input."""
    return x.clone()


@constrain_op.register_fake
def _(x: torch.Tensor, layout: str) -> torch.Tensor:
    return torch.empty_like(x)


def gradient(ctx: object, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
    """The identity's."""
    return grad, None


constrain_op.register_autograd(gradient)


@lru_cache(maxsize=4096)
def checked(layout: str | Layout, ndim: int) -> str:
    """The canonical text of a layout for a tensor of `ndim` dims. Raises SpecError."""
    value = as_layout(layout, "autosp.constrain")
    if value.partial:
        raise SpecError(Problem(*messages.sum_written(value.partial[0])))
    if not value.fits(ndim):
        raise SpecError(Problem(*messages.constrained_ndim(ndim, value)))
    return str(value)


@torch.compiler.assume_constant_result
def layout_text(layout: str | Layout, ndim: int) -> str:
    """`checked`, which a captured graph holds as the text it gave."""
    return checked(layout, ndim)


@torch.compiler.assume_constant_result
def text_of_p(*entries: object) -> str:
    """The canonical text of `P(*entries)`."""
    return str(P(*entries))


@torch.compiler.substitute_in_graph(P)  # pyrefly: ignore[bad-argument-type]  # a text for a Layout, as below
def _(*entries: object) -> str:
    """`P(...)` written inside a model: Dynamo cannot build the value, and its text serves as well."""
    return text_of_p(*entries)


def constrain(x: torch.Tensor, layout: str | Layout) -> torch.Tensor:
    """Fixes the layout of a value inside a model, as JAX's `with_sharding_constraint` does.

    A graph that autosp captures holds it as an operator, which the solver's plan keeps to; anywhere else the call does
    nothing.

    Args:
        x: a tensor of any shape.
        layout: its layout, as text or as `autosp.P(...)`, with a dim for each of `x`.

    Returns:
        `x`.

    Raises:
        SpecError: the layout cannot be read, or has another number of dims than `x`.

    Example:
        >>> import autosp, torch
        >>> x = torch.ones(2, 8, 4)
        >>> autosp.constrain(x, "[batch@dp, seq@sp, hidden]") is x
        True
        >>> autosp.constrain(x, autosp.P("dp", "sp", None)) is x
        True
    """
    text = layout_text(getattr(layout, "text", layout), x.dim())  # in torch 2.11 text alone is a constant
    if not torch.compiler.is_compiling():
        return x
    return torch.ops.autosp.constrain(x, text)
