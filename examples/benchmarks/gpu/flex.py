"""e. flex_attention under our rule, forward and backward, against attention that is written out."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import autosp
from autosp.engine.traced import planned
from autosp.parity import Simulation
from autosp.parity.gap import measure_gap

from .group import first_of

SPEC = """
mesh    [dp: local, sp]
input   idx      [batch@dp, seq@sp]
input   targets  [batch@dp, seq@sp]
"""
VOCAB = 64


class Flexible(nn.Module):
    """Causal attention in a window that is wider for later heads, with a slope a head that is learnt."""

    def __init__(self, size: dict[str, Any], place: str, written_out: bool):
        super().__init__()
        from torch.nn.attention.flex_attention import create_block_mask

        torch.manual_seed(0)
        self.written_out, self.groups = written_out, size["heads"] // size["kv_heads"]
        self.width, heads, kv = size["width"], size["heads"], size["kv_heads"]
        self.embed, self.head = nn.Embedding(VOCAB, 64), nn.Linear(heads * self.width, VOCAB)
        self.q, self.k, self.v = (nn.Linear(64, self.width * n) for n in (heads, kv, kv))
        self.slopes = nn.Parameter(torch.rand(heads) / 10)
        length = size["length"]

        def mask(b, h, q, k):
            return (q >= k) & (q - k < 16 * (h + 1))

        self.mask = mask
        self.block_mask = None if written_out else create_block_mask(mask, 1, heads, length, length, place)
        self.to(place)

    def attend(self, q, k, v):
        from torch.nn.attention.flex_attention import flex_attention

        slopes = self.slopes

        def score(score, b, h, q, k):
            return score + slopes[h] * (k - q) * 0.1

        return flex_attention(q, k, v, score_mod=score, block_mask=self.block_mask, enable_gqa=True)

    def attend_written_out(self, q, k, v):
        k, v = (x.repeat_interleave(self.groups, 1) for x in (k, v))
        h = torch.arange(q.shape[1], device=q.device)[:, None, None]
        at, to = (torch.arange(q.shape[2], device=q.device)[at] for at in ((slice(None), None), (None, slice(None))))
        scores = q @ k.mT / self.width**0.5 + self.slopes[h] * (to - at) * 0.1
        return scores.masked_fill(~self.mask(0, h, at, to), -torch.inf).softmax(-1) @ v

    def forward(self, idx, targets):
        x = self.embed(idx)
        q, k, v = (f(x).unflatten(-1, (-1, self.width)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = (self.attend_written_out if self.written_out else self.attend)(q, k, v)
        y = autosp.constrain(y, "[batch, heads@sp, seq, width]")
        y = autosp.constrain(y.transpose(1, 2).flatten(2), "[batch, seq@sp, hidden]")
        return F.cross_entropy(self.head(y).flatten(0, 1), targets.flatten())


def run(size: dict[str, Any], place: str, stem: Path, tell) -> dict[str, Any]:
    """On the CPU, which has no backward of it: its forward, and the backward of the written-out one."""
    ids = torch.randint(VOCAB, (1, size["length"]), generator=torch.Generator().manual_seed(1)).to(place)
    inputs = {"idx": ids, "targets": ids.flip(1)}
    expected = Flexible(size, place, written_out=True)
    reference = _trained(expected, lambda: expected(**inputs))
    ways, found = {"compiled": _compiled, "ranks": _ranks}, {}
    for name, way in ways.items():
        try:
            found[name] = _off(reference, way(size, place, inputs))
        except Exception as e:  # the other way may work
            found[name] = {"failed": f"{type(e).__name__}: {e}"[:400]}
        tell(found)
    words = [
        f"{name} "
        + (
            each.get("failed", "")
            or f"loss {each['loss']:.1e}, gradients {each['gradients']:.1e} ({each['used']:.2f} of the bar)"
        )
        for name, each in found.items()
    ]
    return found | {"line": "; ".join(words), "backward": place == "cuda"}


def _trained(model: nn.Module, call) -> tuple[float, dict[str, torch.Tensor]]:
    loss = call()
    loss.backward()
    return float(loss.detach()), {n: p.grad.detach().clone() for n, p in model.named_parameters()}


def _compiled(size: dict[str, Any], place: str, inputs) -> tuple[float, dict[str, torch.Tensor]]:
    """Compiled on one rank: the backward is the compiler's kernel."""
    if not dist.is_initialized():
        first_of(1, place)
    mesh = dist.init_device_mesh(place, (1, 1), mesh_dim_names=("dp", "sp"))
    model = autosp.compile(Flexible(size, place, place == "cpu"), SPEC, mesh=mesh, backend=size["backend"])
    return _trained(model, lambda: model(**inputs))


def _ranks(size: dict[str, Any], place: str, inputs) -> tuple[float, dict[str, torch.Tensor]]:
    """Its heads split over simulated ranks."""
    if place == "cpu":
        with torch.no_grad():
            model = Flexible(size, place, written_out=False)
            plan, _, examples = planned(model, inputs, SPEC, sp=size["ranks"])
            ranks = in_turn(Simulation(plan, checked=True))
            loss = float(ranks.run(examples)[0][0][ranks.loss])
    model = Flexible(size, place, written_out=place == "cpu")
    plan, _, examples = planned(model, inputs, SPEC, sp=size["ranks"])
    ranks = in_turn(Simulation(plan, checked=True))
    outputs, gradients = ranks.run(examples)[0]
    names = {id(p): n for n, p in model.named_parameters()}
    by_name = {names[id(x)]: g for x, g in zip(examples, gradients, strict=True) if id(x) in names}
    return loss if place == "cpu" else float(outputs[ranks.loss].detach()), by_name


_turn = threading.Lock()


def flex_in_turn(*args, **kwargs):
    """Run outside of a compiler it traces its score function, by means that threads share."""
    with _turn:
        return torch.ops.higher_order.flex_attention(*args, **kwargs)


def in_turn(ranks: Simulation) -> Simulation:
    """A simulation whose ranks call flex_attention one after the other."""
    for local in ranks.locals:
        for node in local.graph.find_nodes(op="call_function", target=torch.ops.higher_order.flex_attention):
            node.target = flex_in_turn
        local.recompile()
    return ranks


def _off(reference, found) -> dict[str, Any]:
    """How far a loss is, and the worst gradient, of its largest value; used: of the bar of the parity page."""
    gap = measure_gap([reference[0]], [found[0]], reference[1], found[1])
    return {"loss": gap.loss, "gradients": gap.parameter, "worst": gap.name, "used": gap.ratio}
