"""`autosp.plan`: the plan of a model before a process group, a GPU or a weight exists."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch

from ..errors import PlanError
from ..recompute.state import Setting, state_of
from ..solve import Device, Plan, load_device
from ..spec import Recompute, Spec
from ..spec.policies import as_recompute
from . import messages
from .fakes import built, cast_of, fake_inputs, fake_model, without_cache
from .request import Request
from .resolve import resolve_spec
from .searching import Search
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


def request(
    model: Any,
    inputs: Mapping[str, Any],
    spec: Spec | str | None = None,
    *,
    sp: int,
    dp: int = 1,
    device: Device | str = "a100-80gb",
    zero: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    optimizer: str = "adamw",
    recompute: Recompute | str | None = None,
) -> Request:
    """A Request from the arguments of `autosp.plan`. Raises PlanError with all that is wrong of them, and SpecError."""
    setting = Setting(dtype, optimizer, zero, sp * dp)
    faults = [*messages.counts(sp=sp, dp=dp), *setting.faults()]
    if faults:
        raise PlanError(faults)
    chip = device if isinstance(device, Device) else load_device(device)
    own = built(model)
    chosen = resolve_spec(spec, own)
    mode, fake = fake_model(own, dtype)
    without_cache(fake)
    state = state_of(
        chain(fake.parameters(), fake.buffers()), dtype=dtype, optimizer=optimizer, zero=zero, ranks=setting.ranks
    )
    said = as_recompute(recompute, chosen, "autosp.plan(recompute=...)")
    given = fake_inputs(inputs, mode, cast_of(own, dtype))
    return Request(fake, given, mode, chosen, sp, chip, said, setting, state, lambda asked: Search(asked).run())
