"""Attention by flex_attention, and the same written out, whose backward the CPU has too."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import autosp

HEADS, KV_HEADS, LENGTH = 6, 3, 24
SPEC = """
mesh    [dp: local, sp]
input   idx      [batch@dp, seq@sp]
input   targets  [batch@dp, seq@sp]
"""


def by_head(b, h, q, k):
    """Causal, in a window that is wider for later heads."""
    return (q >= k) & (q - k < 4 * (h + 1))


def for_all(b, h, q, k):
    return (q >= k) & (q - k < 8)


class Flexible(nn.Module):
    """mask: one for each head, or `broadcast`: the same for all."""

    def __init__(self, broadcast: bool = False, written_out: bool = False):
        super().__init__()
        from torch.nn.attention.flex_attention import create_block_mask

        torch.manual_seed(0)
        self.mask, self.written_out = for_all if broadcast else by_head, written_out
        self.embed, self.head = nn.Embedding(64, 16), nn.Linear(HEADS * 4, 64)
        self.q, self.k, self.v = (nn.Linear(16, 4 * heads) for heads in (HEADS, KV_HEADS, KV_HEADS))
        self.slopes = nn.Parameter(torch.rand(HEADS))
        self.block_mask = create_block_mask(self.mask, 1, None if broadcast else HEADS, LENGTH, LENGTH, "cpu", 8)

    def attend(self, q, k, v):
        from torch.nn.attention.flex_attention import flex_attention

        slopes = self.slopes

        def score(score, b, h, q, k):
            return score + 0.1 * h + slopes[h] * (q - k)

        return flex_attention(q, k, v, score_mod=score, block_mask=self.block_mask, enable_gqa=True)

    def attend_written_out(self, q, k, v):
        k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
        h = torch.arange(HEADS)[:, None, None]
        at, to = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
        scores = q @ k.mT / 2.0 + 0.1 * h + self.slopes[h] * (at - to)
        return scores.masked_fill(~self.mask(0, h, at, to), -torch.inf).softmax(-1) @ v

    def forward(self, idx, targets):
        x = self.embed(idx)
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = (self.attend_written_out if self.written_out else self.attend)(q, k, v)
        y = autosp.constrain(y, "[batch, heads@sp, seq, width]")
        y = autosp.constrain(y.transpose(1, 2).flatten(2), "[batch, seq@sp, hidden]")
        return F.cross_entropy(self.head(y).flatten(0, 1), targets.flatten())


def written_out() -> nn.Module:
    return Flexible(written_out=True)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(64, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    return {"idx": ids, "targets": ids.flip(1)}


def forward(item: tuple[str, bool]) -> tuple[float, float, str]:
    """The loss unsharded and sharded, and the plan."""
    backend, broadcast = item
    mesh = dist.init_device_mesh("cpu", (1, dist.get_world_size()), mesh_dim_names=("dp", "sp"))
    with torch.no_grad():
        model = Flexible(broadcast)
        expected = float(model(**batch()))
        autosp.compile(model, SPEC, mesh=mesh, backend=backend)
        return expected, float(model(**batch())), str(model.autosp_plan.summary())
