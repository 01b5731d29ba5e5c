"""A model and its inputs as fakes: the user's own are left as they are, and no weight is allocated."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..compat.torch import FakeTensor, FakeTensorMode
from ..errors import PlanError
from ..spec import annotate, annotation_of
from ..spec.sample import switch_off_cache
from .messages import no_module
from .step import prepare


def built(model: Any) -> torch.nn.Module:
    """A module from a module, from a callable that makes one, or from a configuration of transformers.

    Raises PlanError for anything else.
    """
    if isinstance(model, torch.nn.Module):
        return model
    with torch.device("meta"):
        made = _from_config(model) if hasattr(model, "model_type") else model() if callable(model) else None
    if not isinstance(made, torch.nn.Module):
        raise PlanError(no_module(type(model).__name__))
    return made


def _from_config(config: Any) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config)


def fake_model(model: torch.nn.Module, dtype: torch.dtype) -> tuple[FakeTensorMode, torch.nn.Module]:
    """A copy on fakes, in training, its floating parameters in `dtype` (buffers keep theirs); and the fakes'
    mode: that of the model, if it is fake itself."""
    known: dict[int, Any] = {}
    own = [*model.parameters(), *model.buffers()]
    mode = next((x.fake_mode for x in own if isinstance(x, FakeTensor)), None) or FakeTensorMode()
    for x in own:
        cast = isinstance(x, torch.nn.Parameter) and x.is_floating_point()
        fake = fake_tensor(x, mode, dtype if cast else x.dtype)
        known[id(x)] = torch.nn.Parameter(fake, x.requires_grad) if isinstance(x, torch.nn.Parameter) else fake
    return mode, copy.deepcopy(model, known).train()


def fake_tensor(x: torch.Tensor, mode: FakeTensorMode, dtype: torch.dtype, shape: tuple[int, ...] = ()) -> torch.Tensor:
    """A fake on the CPU of `x`, in `dtype`, of another shape where one is given; marked as `x` is."""
    with mode:
        made = torch.empty(shape or tuple(x.shape), dtype=dtype)
    marked = annotation_of(x)
    return annotate(made, marked) if marked else made


def fake_inputs(
    inputs: Mapping[str, Any],
    mode: FakeTensorMode,
    cast: Callable[[torch.dtype], torch.dtype] = lambda dtype: dtype,
    shape: Callable[[str, torch.Tensor], tuple[int, ...]] = lambda name, x: tuple(x.shape),
) -> dict[str, Any]:
    """The inputs, each tensor a fake of the dtype and shape that `cast` and `shape` give."""
    return {
        name: fake_tensor(x, mode, cast(x.dtype), shape(name, x)) if isinstance(x, torch.Tensor) else x
        for name, x in inputs.items()
    }


def cast_of(model: torch.nn.Module, dtype: torch.dtype) -> Callable[[torch.dtype], torch.dtype]:
    """Inputs in a dtype of the model's parameters follow it to `dtype`; others stay."""
    own = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return lambda of: dtype if of in own else of


def without_cache(model: torch.nn.Module) -> None:
    """A copy's cache is switched off without the warning that its user's own model would get."""
    switch_off_cache(model)
    prepare(model)
