"""A trial from end to end: unsharded, sharded, and the two compared."""

from __future__ import annotations

from ..engine.resolve import spec_for
from .launch import launch
from .sharded import Simulator
from .trial import Trial, build
from .verdict import Verdict, of_outcomes, of_run, references


def judge(trial: Trial, simulate: bool, simulator: Simulator | None = None) -> Verdict:
    """Runs a trial, unsharded and sharded. Raises SpecError where its spec cannot be had.

    simulator: what simulates it, by default a new one.
    """
    spec = spec_for(trial.spec, build(trial)[0])
    expected = references(trial, spec)
    if simulate:
        return of_run(trial, expected, (simulator or Simulator()).run(trial, spec))
    (outcomes,) = launch(
        trial.world, "autosp.parity.sharded:on_rank", [(trial, spec)], 900.0, deepspeed=trial.zero is not None
    )
    return of_outcomes(trial, expected, outcomes)
