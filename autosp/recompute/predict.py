"""From a solved plan to what its fullest rank holds: lowered, tiled, decided, on fake tensors."""

from __future__ import annotations

from collections.abc import Sequence

from ..lower import Rank, lower
from ..solve import Plan
from ..spec import Recompute
from .decide import Decision, decide

FIRST = Rank(0, "predicted", complete=False)  # the rank whose part is never the smaller one


def predict(
    plan: Plan, recompute: Recompute, *, examples: Sequence, limit: int | None = None, rank: Rank = FIRST
) -> Decision | None:
    """What one rank saves, recomputes and holds at the peak; None where no gradient flows.

    examples: the values of the captured graph's placeholders, fake or real. limit: bytes that
    activations may take, for a policy with a budget of bytes or `auto`.
    """
    local = lower(plan, rank)
    return decide(local, examples, recompute, device=plan.device, p=plan.p, limit=limit, plan=plan.fingerprint())


__all__ = ["FIRST", "predict"]
