"""How far a sharded run is from the unsharded one: the worst step and the worst parameter, and the bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen
class Bar:
    """What is allowed: of the loss, of a parameter's own largest value, and of the largest value of all
    (where the exact gradient is zero, both runs hold noise)."""

    loss: float
    parameter: float
    floor: float

    def __str__(self) -> str:
        return f"loss {self.loss:.0e} relative; a parameter {self.parameter:.0e} of its largest value"


EXACT = Bar(loss=1e-5, parameter=1e-5, floor=1e-7)


@attrs.frozen
class Gap:
    """The worst step and the worst parameter. `ratio`: how much of what the bar allows is used, so 1 is the bar."""

    loss: float
    step: int
    parameter: float
    name: str
    ratio: float
    bar: Bar

    @property
    def within(self) -> bool:
        return self.loss <= self.bar.loss and self.ratio <= 1

    def __str__(self) -> str:
        return (
            f"  loss        {self.loss:.1e} relative, at step {self.step} (bar {self.bar.loss:.0e})\n"
            f"  parameters  {self.parameter:.1e} of their largest value, in {self.name} (bar {self.bar.parameter:.0e})"
        )


def measure_gap(
    expected_losses: Sequence[float],
    losses: Sequence[float],
    expected: Mapping[str, Tensor],
    actual: Mapping[str, Tensor],
    bar: Bar = EXACT,
) -> Gap:
    """The sharded run against the unsharded one. What is no number in both is equal; in one, infinitely far."""
    errors = [_relative(a, b) for a, b in zip(expected_losses, losses, strict=True)]
    largest = max(_largest(value) for value in expected.values())
    worst = max((_distance(name, value, actual.get(name), largest, bar) for name, value in expected.items()))
    ratio, parameter, name = worst
    return Gap(max(errors), errors.index(max(errors)) + 1, parameter, name, ratio, bar)


def _relative(a: float, b: float) -> float:
    if a != a or b != b:
        return 0.0 if a != a and b != b else float("inf")
    return abs(a - b) / abs(a) if a else abs(b)


def _largest(value: Tensor) -> float:
    finite = value[value.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _distance(name: str, expected: Tensor, actual: Tensor | None, largest: float, bar: Bar) -> tuple[float, float, str]:
    """(used of the bar, relative to the parameter's own largest, name)."""
    infinite = (float("inf"), float("inf"), name)
    if actual is None or actual.shape != expected.shape:
        return infinite
    numbers = expected.isfinite()
    if not numbers.equal(actual.isfinite()):
        return infinite
    own = _largest(expected)
    off = _largest((expected.double() - actual.double())[numbers])
    allowed = bar.parameter * own + bar.floor * largest
    ratio = off / allowed if allowed else (float("inf") if off else 0.0)
    return ratio, off / max(own, bar.floor * largest) if off else 0.0, name
