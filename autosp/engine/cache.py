"""Calls with a cache of keys and values: those of generation run as the uncompiled model; training holds none."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import Problem
from ..spec.sample import switch_off_cache

# Arguments by which a forward is given a cache: those that transformers' `generate` knows.
CACHES = ("past_key_values", "past_key_value", "cache_params", "past_buckets_states", "mems", "state")


def cache_argument(module: torch.nn.Module, inputs: Mapping[str, Any], named: frozenset[str]) -> str | None:
    """The argument that is a cache, if one is; `named` are inputs that the spec knows."""
    names = CACHES if hasattr(module, "generate") else CACHES[:1]  # others may mean anything elsewhere
    arguments = (n for n in names if inputs.get(n) is not None and n not in named)
    return next((n for n in arguments if not isinstance(inputs[n], torch.Tensor)), None)


def returns_cache(module: torch.nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Whether a call returns a cache: by its argument, else by the configuration."""
    use_cache = inputs.get("use_cache")
    return (
        bool(use_cache) if use_cache is not None else bool(getattr(getattr(module, "config", None), "use_cache", False))
    )


def switch_off_with_warning(module: torch.nn.Module, stacklevel: int = 3) -> bool:
    """Switches a model's cache off with a warning. A training step that returns its cache would return every layer's
    keys and values. Whether one was on."""
    was_on = switch_off_cache(module)
    if was_on:
        warnings.warn(
            "autosp: use_cache is switched off; a training step that returns its cache would gather it",
            stacklevel=stacklevel,
        )
    return was_on


def restart(position_ids: torch.Tensor) -> bool:
    """Whether positions do anything else than to go up by one: rows of more than one document."""
    return position_ids.dim() > 0 and bool((position_ids.diff(dim=-1) != 1).any())


def uncompiled(model: str, why: str) -> str:
    """A call is left to the model as it stands."""
    return (
        f"autosp: {model} is called with a cache ({why}): such calls, as generate() makes them, run as the uncompiled "
        "model, whole on each rank that makes them; training goes on split"
    )


def cache_requested(model: str) -> str:
    """A training call requested a cache."""
    return (
        f"autosp: {model} is called in training with use_cache=True; it is called with use_cache=False instead, "
        "since a training step that returns its cache would gather it"
    )


def packed(model: str) -> str:
    """A training call whose loss is another with the cache that the model had on."""
    return (
        f"autosp: {model} is given position_ids that restart, and no attention_mask. Without a cache a Hugging Face "
        "model keeps packed documents apart; with one (the default of its configuration, which autosp switched off) it "
        "lets each see those before it, so that its unsharded loss is another. For documents apart in both, set "
        "use_cache=False in the unsharded run; for documents that see each other here too, give "
        "attention_mask=torch.ones_like(input_ids)"
    )


def cache_in_training(name: str, model: str) -> Problem:
    """A training call is given a cache."""
    return Problem(
        what=f"{model} is called in training with a cache, '{name}'",
        rule="a training step is split over the positions of its own inputs; a cache holds others, whole",
        fix=f"leave '{name}' out, or make the call under model.eval(), where it runs as the uncompiled model",
    )
