"""Hooks on parameters: where an engine sums gradients after them, their user is told."""

from __future__ import annotations

import warnings

import pytest
import torch

from autosp.engine.hooks import warn_of_hooks


def test_a_hooked_parameter_is_named_with_what_works():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_hooks(model)
        warn_of_hooks(None)
    for p in model[1].parameters():
        p.register_hook(lambda grad: grad / grad.norm())
    with pytest.warns(UserWarning) as seen:
        warn_of_hooks(model)
    assert str(seen[0].message) == (
        "autosp: parameter '1.weight' and 1 more has a hook on its gradient. The engine sums gradients over ranks after "
        "it, so the hook sees this rank's part: what is linear in the gradient is right, a norm or a clip is not. Do "
        "that with the engine's own setting, or after engine.backward"
    )
