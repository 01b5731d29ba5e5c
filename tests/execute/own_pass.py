"""DeepSpeed's own `autosp` pass under the parity engine, for comparison: its figures are reported, never asserted."""

from __future__ import annotations

import re

import attrs
import torch
import torch.distributed as dist

from autosp.engine.resolve import spec_for
from autosp.parity.launch import Outcome, launch
from autosp.parity.sharded import deepspeed_config
from autosp.parity.trial import Trained, Trial, batches, build, loss_of, make_optimizer, snapshot
from autosp.parity.verdict import of_outcomes, references
from autosp.spec import Spec
from tests.failures import without_paths


def trial_of(row: str) -> Trial:
    """As the matrix trains, by Inductor, which is all that DeepSpeed's pass runs on. It needs an attention mask."""
    return Trial(f"tests.execute.families:{row}", zero=1, backend="inductor", lr=0.1, steps=2, mask="ones")


def on_rank(item: tuple[Trial, Spec]) -> Trained:
    """What this rank makes of a trial by DeepSpeed's pass."""
    from deepspeed.compile.passes.sp_compile import prepare_autosp_inputs

    from autosp.engine.deepspeed import initialize

    trial, spec = item
    model, given = build(trial)
    batch = batches(trial, spec, model, given)
    engine = initialize(model, make_optimizer(trial, model), deepspeed_config(trial))
    engine.compile(backend="inductor")
    losses = []
    for step in range(trial.steps):
        inputs = batch(step, 0, dist.get_rank() // trial.sp)
        places = torch.arange(inputs["input_ids"].shape[1]).expand_as(inputs["input_ids"]).contiguous()
        inputs["position_ids"] = places  # it does not compile without
        prepare_autosp_inputs(
            inputs["input_ids"], inputs["labels"], inputs.get("position_ids"), inputs.get("attention_mask")
        )
        loss = loss_of(engine(**inputs))
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    engine.destroy()
    return Trained(tuple(losses), snapshot(engine.module))


def figures(trial: Trial, expected, outcomes: tuple[Outcome, ...]) -> str:
    """What came of a trial, in a few words."""
    failed = [outcome.error for outcome in outcomes if outcome.error]
    if failed:
        named = [line for line in failed[0].splitlines() if re.match(r"[\w.]*(Error|Exception|Unsupported)\b", line)]
        return f"fails: {without_paths(named[-1] if named else failed[0].splitlines()[-1])[:90]}"
    off = [of_outcomes(attrs.evolve(trial, sp=1, dp=1), expected, [outcome]).gap for outcome in outcomes]
    worst = max(off, key=lambda gap: gap.ratio)
    return f"loss off by {max(gap.loss for gap in off):.0e}, parameters by {worst.parameter:.0e}"


def figures_of(row: str) -> str:
    """What DeepSpeed's pass makes of a family. Each has its own launch: a second engine in a process fails."""
    trial = trial_of(row)
    spec = spec_for(None, build(trial)[0])
    expected = references(trial, spec)
    (outcomes,) = launch(2, "tests.execute.own_pass:on_rank", [(trial, spec)], 300.0)
    return figures(trial, expected, outcomes)
