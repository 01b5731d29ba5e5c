"""Hooks on parameters, where an engine sums their gradients after the backward."""

from __future__ import annotations

import warnings

import torch

from ..compat.torch import has_gradient_hooks


def warn_of_hooks(model: torch.nn.Module | None) -> None:
    """Warns of parameters whose hooks see a part of the gradient: their rank's, as in data parallelism."""
    names = [name for name, p in model.named_parameters() if has_gradient_hooks(p)] if model is not None else []
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        warnings.warn(
            f"autosp: parameter '{names[0]}'{more} has a hook on its gradient. The engine sums gradients over ranks "
            "after it, so the hook sees this rank's part: what is linear in the gradient is right, a norm or a clip is "
            "not. Do that with the engine's own setting, or after engine.backward",
            stacklevel=2,
        )
