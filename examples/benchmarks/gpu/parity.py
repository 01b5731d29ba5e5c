"""a. Parity: a small Llama, eager against compiled (one rank), and against 2 and 4 ranks simulated on the card."""

from __future__ import annotations

import itertools
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .group import first_of
from .meter import profiled
from .models import batch, llama

HEADS = (64, 128)
PRECISIONS = ("fp32", "bf16")
LAYERS = 2  # of the models that `head64` and `head128` name


def made(width: int) -> torch.nn.Module:
    """Four heads of a width, two of keys and values."""
    sizes = dict(hidden_size=4 * width, intermediate_size=8 * width, num_attention_heads=4, num_key_value_heads=2,
                 vocab_size=512, num_hidden_layers=LAYERS)  # fmt: skip
    return llama(sizes, "cpu", torch.float32, 1024)


head64, head128 = partial(made, 64), partial(made, 128)


def run(size: dict[str, Any], place: str, stem: Path, tell) -> dict[str, Any]:
    from autosp.engine.resolve import spec_for
    from autosp.parity.sharded import Simulator, on_rank
    from autosp.parity.trial import Trial
    from autosp.parity.verdict import of_run, references

    global LAYERS
    LAYERS = size["layers"]
    torch.set_float32_matmul_precision("highest")
    if 1 in size["ranks"]:
        first_of(1, place)
    simulator, cases, known = Simulator(), [], {}
    ways = {1: on_rank}

    def case(width: int, precision: str, sp: int) -> dict[str, Any]:
        trial = Trial(
            f"{__name__}:head{width}", "llama", sp=sp, batch=1, lengths=(size["length"],), precision=precision,
            backend=size["backend"], device=place, lr=0.1,
        )  # fmt: skip
        spec = spec_for(trial.spec, made(width))
        if (width, precision) not in known:
            known[width, precision] = references(trial, spec)
        found = ways.get(sp, lambda item: simulator.run(*item))((trial, spec))
        return _case(of_run(trial, known[width, precision], found), width)

    for width, precision, sp in itertools.product(HEADS, PRECISIONS, size["ranks"]):
        try:
            cases.append(case(width, precision, sp))
        except Exception as e:  # the others may work
            traceback.print_exc()
            said = {"head": width, "precision": precision, "sp": sp, "exact": False}
            cases.append(said | {"refused": f"{type(e).__name__}: {e}"[:200]})
        tell(_found(cases))
    return _found(cases) | ({"attention": _kernels(place, size)} if 1 in size["ranks"] else {})


def _case(verdict: Any, width: int) -> dict[str, Any]:
    trial = verdict.trial
    case = {"head": width, "precision": trial.precision, "sp": trial.sp, "exact": verdict.exact}
    if verdict.refusal:
        return case | {"refused": verdict.refusal.what}
    if verdict.distance:
        return case | {
            "loss": verdict.distance.loss, "parameters": verdict.distance.parameters, "used": verdict.used,
            "own_loss": verdict.own.loss, "own_parameters": verdict.own.parameters,
        }  # fmt: skip
    return case | {"loss": verdict.gap.loss, "parameters": verdict.gap.parameter, "used": verdict.used}


def _found(cases: list[dict[str, Any]]) -> dict[str, Any]:
    exact = sum(c["exact"] for c in cases)
    used = [c["used"] for c in cases if "used" in c]
    worst = f", {max(used):.2f} of the bar used" if used else ""
    return {"line": f"{exact} of {len(cases)} exact{worst}", "cases": cases}


def _kernels(place: str, size: dict[str, Any]) -> dict[str, list[str]]:
    """Which kernels attention ran, by precision and head."""
    found = {}
    for width in HEADS:
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            model = made(width).to(place, dtype)
            inputs = batch(512, size["length"], place)
            seen = profiled(place, lambda model=model, inputs=inputs: model(**inputs).loss, most=200)
            names = [row["kernel"] for row in seen["slowest"]]
            found[f"{precision} {width}"] = [n for n in names if "flash" in n or "fmha" in n or "attention" in n][:4]
    return found
