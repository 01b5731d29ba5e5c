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
    """Plans a training step of `model(**inputs)` over `sp` ranks. Nothing is computed: no GPU, no process group and no
    weights are needed.

    Args:
        model: a module (real, fake or on the meta device; it is left as it is), a callable that makes one, or a
            configuration of transformers.
        inputs: one data-parallel rank's whole batch, by the names of the forward's arguments: tensors of (batch, seq)
            and the like, of which only shapes and dtypes are read.
        spec: a `Spec`, the name of a shipped one, a path, or text; None chooses by the model's class.
        sp: ranks that a sequence is split over.
        dp: data-parallel replicas of those, for what ZeRO shards.
        device: a `Device`, or the name of one in `specs/devices`.
        zero: DeepSpeed's ZeRO stage, 0 to 3, for what a rank holds (0 and 1 are compiled).
        dtype: of parameters and activations.
        optimizer: its name ("adamw", "sgd", ...), for the bytes of its states.
        recompute: what the backward computes again, as in `autosp.compile`; None takes the spec's.

    Returns:
        A `Plan`: `reshards`, the forward's collectives in order, with bytes that a rank sends and seconds;
        `explain()`, where each stands and why, in words; `memory` and `peak_bytes`, what the fullest rank holds, in
        bytes; `fits`; `max_seq_len()`, the longest sequence that fits, in tokens; `step_seconds`, predicted.

    Raises:
        SpecError, InputError, CaptureError, RuleError: as the first call of a compiled model.
        PlanError: no plan exists, or a setting is not one of those above.

    Source:
        The integer program is Alpa's layout assignment (Zheng et al., OSDI 2022, section 4.2).

    Example:
        >>> import autosp, torch
        >>> class Head(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(8, 16)
        ...     def forward(self, x, labels):
        ...         return torch.nn.functional.cross_entropy(self.linear(x).flatten(0, 1), labels.flatten())
        >>> spec = "mesh [dp: local, sp]\\ninput x [batch@dp, seq@sp, hidden]\\ninput labels [batch@dp, seq@sp]"
        >>> batch = {"x": torch.zeros(2, 32, 8), "labels": torch.zeros(2, 32, dtype=torch.int64)}
        >>> plan = autosp.plan(Head(), batch, spec, sp=4)
        >>> [(r.kind, r.before, r.after) for r in autosp.plan(Head(), batch, spec, sp=4).reshards][-1]
        ('all_reduce', ('[] sum@sp',), ('[]',))
        >>> plan.fits
        True
    """
    requested = request(
        model, inputs, spec, sp=sp, dp=dp, device=device, zero=zero, dtype=dtype, optimizer=optimizer,
        recompute=recompute,
    )  # fmt: skip
    return requested.plan()


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
    policy = as_recompute(recompute, chosen, "autosp.plan(recompute=...)")
    fakes = fake_inputs(inputs, mode, cast_of(own, dtype))
    return Request(
        fake, fakes, mode, chosen, sp, chip, policy, setting, state, lambda requested: Search(requested).run()
    )
