"""One class of transformers, trained a step unsharded and split over simulated ranks, and what came of it."""

from __future__ import annotations

import math
import time
import traceback
from typing import Any

import attrs
import torch

from tests.failures import without_paths
from tests.models.tiny import build

# Rows and lengths: even, every label counts; odd, padded on the right, the first labels masked.
CASES = (
    dict(sp=2, lengths=(32,)),
    dict(sp=2, lengths=(27,), mask="right", labels="prompt"),
)


@attrs.frozen
class Found:
    """What came of a class.

    outcome: exact, refused, failed, or untried (no tiny model that trains unsharded). why: in a line. used: the
    largest share of the bar that any loss or gradient uses. text: all that was said.
    """

    name: str
    outcome: str
    why: str = ""
    used: float = 0.0
    seconds: float = 0.0
    text: str = ""


def examine(name: str) -> Found:
    """Every case on one class, until one is not exact."""
    began = time.time()
    torch.set_num_threads(1)
    try:
        problem = untrainable(name)
    except Exception as error:
        return Found(name, "untried", line_of(error), seconds=time.time() - began, text=traceback.format_exc())
    if problem:
        return Found(name, "untried", problem, seconds=time.time() - began)
    used = 0.0
    for case in CASES:
        found = run_case(name, case)
        if found.outcome != "exact":
            return attrs.evolve(found, seconds=time.time() - began)
        used = max(used, found.used)
    return Found(name, "exact", used=used, seconds=time.time() - began)


def untrainable(name: str) -> str:
    """Why a tiny model cannot serve as a reference: two runs differ, or its loss is no number. Empty where it can."""
    ids = torch.randint(1, 128, (2, 16), generator=torch.Generator().manual_seed(0))
    model = build(name).train()
    first, second = (model(input_ids=ids, labels=ids).loss for _ in range(2))
    if first is None:
        return "it gives no loss"
    first.backward()
    if not math.isfinite(first.detach()):
        return f"its loss is {float(first.detach())}"
    if not torch.equal(first, second):
        return f"two runs of one batch differ: {float(first.detach())} and {float(second.detach())}"
    return ""


def run_case(name: str, case: dict[str, Any]) -> Found:
    """One case on one class."""
    from autosp.errors import AutospError
    from autosp.parity.judging import judge
    from autosp.parity.messages import page
    from autosp.parity.trial import Trial

    trial = Trial(model=f"tests.models.tiny:{name}", steps=1, lr=0.1, **case)
    said = f"length {trial.lengths[0]}, mask {trial.mask}: "
    try:
        verdict = judge(trial, simulate=True)
    except AutospError as error:
        return Found(name, "refused", said + error.problems[0].what, text=str(error))
    except Exception as error:
        return Found(name, "failed", said + line_of(error), text=traceback.format_exc())
    if verdict.refusal:
        return Found(name, "refused", said + verdict.refusal.what, text=verdict.refusal.text)
    if verdict.failure or not verdict.exact:
        text = page(verdict)
        return Found(name, "failed", said + (verdict.failure or f"{verdict.used:.2g} times the bar"), text=text)
    return Found(name, "exact", used=verdict.used)


def line_of(error: Exception) -> str:
    """An error in a line."""
    return without_paths(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]
