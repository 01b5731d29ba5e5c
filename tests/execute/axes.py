"""Heads and sequence split over two axes of a mesh, `(sp tp)`, on 4 ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist

import autosp
from autosp.parity.trial import Trained, Trial, batches, build, run
from autosp.spec import load, parse

SPEC = """
mesh    [dp: local, sp, tp]
input   input_ids  [batch@dp, seq@(sp tp)]
input   labels     [batch@dp, seq@(sp tp)]
output  loss       []
output  logits     none
constrain model.layers.*.mlp output [batch@dp, seq@(sp tp), hidden]
"""
TRIAL = Trial("tests.execute.families:LlamaForCausalLM", spec=SPEC, sp=4, lengths=(30,), labels="unequal", lr=0.1)


def sharded(_: object) -> tuple[Trained, str]:
    mesh = dist.init_device_mesh("cpu", (1, 2, 2), mesh_dim_names=("dp", "sp", "tp"))
    model, _ = build(TRIAL)
    compiled = autosp.compile(model, SPEC, mesh=mesh, backend="aot_eager")
    batch = batches(TRIAL, parse(SPEC), model, None)

    def marked(*at: int) -> dict[str, torch.Tensor]:
        inputs = batch(*at)
        inputs["input_ids"] = autosp.annotate(inputs["input_ids"], "[batch@dp, seq@(sp tp)]")
        return inputs

    return run(TRIAL, model, marked, [0], call=compiled), str(model.autosp_plan.summary())


def expected() -> Trained:
    model, _ = build(TRIAL)
    return run(TRIAL, model, batches(TRIAL, load("llama"), model, None), [0])
