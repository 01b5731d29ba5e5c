"""A verdict in words, and for a machine."""

from __future__ import annotations

from typing import Any

import attrs

from .verdict import Verdict

PACKED = (
    "use_cache is off in both runs, so that packed documents do not see each other; in plain eager training it is on "
    "by default in a Hugging Face model, they do, and the loss is another (a mask of ones gives that here too)"
)


def page(verdict: Verdict) -> str:
    """A verdict in words."""
    trial = verdict.trial
    head = (
        f"{trial.model}: {trial.steps} steps of {trial.optimizer}, dp {trial.dp} x sp {trial.sp}, "
        f"batch {trial.batch}, length {' '.join(map(str, trial.lengths))}, mask {trial.mask}, labels {trial.labels}, "
        f"{trial.precision}, " + ("a DeviceMesh" if trial.zero is None else f"ZeRO-{trial.zero}")
    )
    head = "\n".join([head, *(f"  {note}" for note in notes(verdict))])
    if verdict.failure:
        return f"{head}\nFAILED\n{verdict.failure}"
    if verdict.refusal:
        return f"{head}\nrefused:\n{verdict.refusal.text}"
    lines = [head, str(verdict.gap)]
    if verdict.gradients:
        lines.append(
            f"  gradients   {verdict.gradients.parameter:.1e} of their largest value, in {verdict.gradients.name}"
        )
    if verdict.distance and verdict.own:
        lines.append(
            f"  to fp32     loss {verdict.distance.loss:.1e}, parameters {verdict.distance.parameters:.1e}; the "
            f"unsharded program's own: {verdict.own.loss:.1e}, {verdict.own.parameters:.1e}; a loss of its dtype resolves "
            f"{verdict.resolution:.0e} (bar: twice the own)"
        )
    lines.append("the sharded run equals the unsharded one" if verdict.exact else "MISS: the two runs differ")
    return "\n".join(lines)


def as_fields(verdict: Verdict) -> dict[str, Any]:
    """A verdict for a machine."""
    return {**attrs.asdict(verdict), "exact": verdict.exact, "notes": notes(verdict)}


def notes(verdict: Verdict) -> list[str]:
    """What both runs have in common, and a user's own run may have not."""
    return [PACKED] if verdict.trial.mask == "packed" else []
