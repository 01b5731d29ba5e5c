"""`autosp.plan`: the plan of a model before a process group, a GPU or a weight exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..solve import Device, Plan
from ..spec import Recompute, Spec
from .request import request
from .traced import planned

__all__ = ["plan", "planned", "request"]


def plan(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    spec: Spec | str | None = None,
    *,
    sp: int,
    dp: int = 1,
    device: Device | str = "a100-80gb",
    zero: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    optimizer: str = "adamw",
    recompute: Recompute | str | None = None,
) -> Plan:
    """The plan for a training step of `model(**inputs)` split over `sp` ranks. Nothing is computed.

    model: a module (real, fake or on the meta device; it is left as it is), a callable that makes
    one, or a configuration of transformers. inputs: one data-parallel rank's whole batch. spec, and
    recompute: as in `autosp.compile`. device: a Device, or a name in specs/devices. dp, zero, dtype
    and optimizer say what a rank holds of the model's states (`autosp.recompute.state`).

    `plan.explain()` tells where each collective stands and why, and what a rank holds;
    `plan.reshards` are those of the forward, in order; `plan.peak_bytes` and `plan.max_seq_len()`
    answer whether it fits. Raises what the first call of a compiled model raises, and PlanError.
    """
    asked = request(
        model, inputs, spec, sp=sp, dp=dp, device=device, zero=zero, dtype=dtype, optimizer=optimizer,
        recompute=recompute,
    )  # fmt: skip
    return asked.plan()
