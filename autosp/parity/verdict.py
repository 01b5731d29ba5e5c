"""What came of a trial: the sharded run compared with the unsharded one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from ..spec import Spec
from .gap import Gap, measure_gap
from .launch import Outcome, errors
from .sharded import Refusal
from .trial import Trained, Trial, unsharded

FACTOR = 2.0  # times the unsharded program's own distance to fp32, in a lower precision


@attrs.frozen
class Distance:
    """How far a run in lower precision is from the unsharded program in fp32: loss, and all parameters in L2."""

    loss: float
    parameters: float

    def share(self, own: Distance, resolution: float) -> float:
        """How much of the bar this uses, at most 1 being within it: FACTOR times the unsharded program's own distance.

        Roundings of one loss cancel by luck (seen: its own distance changed threefold with the number of
        threads), so the loss is held to the larger of the unsharded program's two distances, and to no less than the
        `resolution` of its own dtype: a classifier's bf16 loss of a few rows is off by a unit in its last place or two.
        """
        loss = self.loss / (FACTOR * max(own.loss, own.parameters, resolution) + 1e-5)
        return max(loss, self.parameters / (FACTOR * own.parameters + 1e-5))


@attrs.frozen
class Verdict:
    """One trial's result. `gap` in fp32; `distance` and the unsharded program's `own` in a lower precision,
    whose loss has the `resolution` of its dtype.

    `refusal`: autosp's error, where it refused. `failure`: what went wrong otherwise.
    """

    trial: Trial
    gap: Gap | None = None
    gradients: Gap | None = None
    distance: Distance | None = None
    own: Distance | None = None
    resolution: float = 0.0
    refusal: Refusal | None = None
    failure: str = ""

    @property
    def exact(self) -> bool:
        """Whether the sharded run is the unsharded one, within the bar."""
        if self.failure or self.refusal:
            return False
        return self.used <= 1

    @property
    def used(self) -> float:
        """The largest share of the bar that any figure uses; 1 is the bar."""
        if self.distance and self.own:
            return self.distance.share(self.own, self.resolution)
        gaps = [gap for gap in (self.gap, self.gradients) if gap]
        return max(max(gap.ratio, gap.loss / gap.bar.loss) for gap in gaps)


def references(trial: Trial, spec: Spec) -> tuple[Trained, Trained]:
    """The unsharded program in fp32, and in the trial's precision."""
    exact = unsharded(attrs.evolve(trial, precision="fp32"), spec)
    return exact, exact if trial.precision == "fp32" else unsharded(trial, spec)


def of_outcomes(trial: Trial, expected: tuple[Trained, Trained], outcomes: Sequence[Outcome]) -> Verdict:
    """The verdict on what each rank of a launch made of a trial."""
    if failed := errors(outcomes):
        return Verdict(trial, failure=failed)
    values = [outcome.value for outcome in outcomes]
    if refused := [value for value in values if isinstance(value, Refusal)]:
        if len(refused) < len(values):
            return Verdict(trial, refusal=refused[0], failure="some ranks refused, others did not")
        return Verdict(trial, refusal=refused[0])
    for rank, value in enumerate(values):
        if not _same(value.losses, values[rank - rank % trial.sp].losses):
            return Verdict(trial, failure=f"rank {rank} has another loss than the first of its group")
    firsts = values[:: trial.sp]
    losses = tuple(sum(step) / trial.dp for step in zip(*(v.losses for v in firsts), strict=True))
    verdicts = [of_run(trial, expected, attrs.evolve(value, losses=losses)) for value in values]
    return max(verdicts, key=lambda verdict: verdict.used)


def of_run(trial: Trial, expected: tuple[Trained, Trained], actual: Trained | Refusal) -> Verdict:
    """The verdict on one run."""
    if isinstance(actual, Refusal):
        return Verdict(trial, refusal=actual)
    exact, own = expected
    gap = measure_gap(exact.losses, actual.losses, exact.parameters, actual.parameters)
    if trial.precision != "fp32":
        apart, usual = _distance(exact, actual), _distance(exact, own)
        return Verdict(trial, gap, distance=apart, own=usual, resolution=own.resolution)
    gradients = None
    if actual.gradients:
        gradients = measure_gap(exact.losses, actual.losses, exact.gradients, actual.gradients)
    return Verdict(trial, gap, gradients)


def _distance(exact: Trained, actual: Trained) -> Distance:
    loss = max(abs(a - b) / abs(a) for a, b in zip(exact.losses, actual.losses, strict=True))
    off = sum(float((actual.parameters[n].double() - p.double()).square().sum()) for n, p in exact.parameters.items())
    whole = sum(float(p.double().square().sum()) for p in exact.parameters.values())
    return Distance(loss, math.sqrt(off / whole))


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True))
