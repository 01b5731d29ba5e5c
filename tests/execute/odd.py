"""Models that mix positions in their own ways: what autosp gets right all the same, and what it refuses."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

SPEC = """
mesh    [dp: local, sp]
input   idx      [batch@dp, seq@sp]
input   targets  [batch@dp, seq@sp]
"""


@torch.library.custom_op("autosp_tests::backwards", mutates_args=())
def backwards(x: torch.Tensor) -> torch.Tensor:
    return x.flip(1)


backwards.register_fake(lambda x: torch.empty_like(x))
backwards.register_autograd(lambda ctx, grad: torch.ops.autosp_tests.backwards(grad))


class Mixing(nn.Module):
    """Embedding, something that mixes positions, head, loss."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(64, 16), nn.Linear(16, 64)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))

    def mix(self, x):
        return x

    def forward(self, idx, targets):
        return F.cross_entropy(self.head(self.mix(self.embed(idx))).flatten(0, 1), targets.flatten())


class LinearAttention(Mixing):
    def mix(self, x):
        q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
        state = torch.einsum("bsd,bse->bsde", k, v).cumsum(1)
        return torch.einsum("bsd,bsde->bse", q, state) / (q * k.cumsum(1)).sum(-1, keepdim=True)


class Recurrence(Mixing):
    """A state-space scan as a loop over positions."""

    def mix(self, x):
        state, found = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = torch.tanh(self.q(state) + x[:, t])
            found.append(state)
        return torch.stack(found, 1)


class FillsLike(Mixing):
    """The position before, written into a new tensor; heads' outputs added into one; a mask built in place."""

    def mix(self, x):
        before, found = torch.zeros_like(x), torch.zeros_like(x)
        before[:, 1:] = self.q(x)[:, :-1]
        places = torch.arange(x.shape[1])
        found[:, places.flip(0)] = self.k(x)
        found.index_add_(1, places // 2, self.v(x))
        near = places[None] <= places[:, None]
        near &= places[:, None] - places[None] < 4
        return x + before + near.to(x) @ found


class SpectralNorm(Mixing):
    def __init__(self):
        super().__init__()
        self.q = nn.utils.parametrizations.spectral_norm(self.q)

    def mix(self, x):
        return x + self.q(x)


class Alternating(Mixing):
    """Every other position is doubled, in a module of its own."""

    class Part(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (1 + torch.arange(x.shape[1]) % 2)[:, None]

    def __init__(self):
        super().__init__()
        self.part = self.Part(16, 16)

    def mix(self, x):
        return self.part(x)


class Convolution(Mixing):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(16, 16, 4, padding=3, groups=16)

    def mix(self, x):
        return x + self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)


class Attention(Mixing):
    """4 query heads; `kv` of keys and values; the mask is what `bias` gives."""

    kv = 4

    def __init__(self):
        super().__init__()
        self.k, self.v = nn.Linear(16, 4 * self.kv), nn.Linear(16, 4 * self.kv)
        self.slopes = nn.Parameter(torch.linspace(0.1, 0.5, 4))

    def bias(self, length: int):
        return None

    def mix(self, x):
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mask = self.bias(x.shape[1])
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=self.kv < 4)
        return y.transpose(1, 2).flatten(2)


class GroupedQueries(Attention):
    kv = 2


class PerHeadBias(Attention):
    """ALiBi with slopes that are learned: the mask has a gradient, and another value for each head."""

    def bias(self, length):
        at = torch.arange(length)
        away = (at[None, :] - at[:, None]).float()
        return (self.slopes[:, None, None] * away).masked_fill(away > 0, -torch.inf)[None]


class PerQueryMask(Attention):
    """One mask for all heads, another for each query."""

    def bias(self, length):
        at = torch.arange(length)
        return ((at[:, None] - at[None, :]) % 3 != 1) | (at[:, None] == at)


class Rolled(Mixing):
    def mix(self, x):
        return x + x.roll(1, 1) + x.flip(1)


class SquaredError(Mixing):
    def forward(self, idx, targets):
        return F.mse_loss(self.head(self.embed(idx))[..., 0], targets.float()) + F.smooth_l1_loss(
            self.head(self.embed(idx)), torch.zeros(64).expand(*idx.shape, 64)
        )


class BatchNorm(Mixing):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def mix(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class BatchStatistics(BatchNorm):
    """Batch-norm without running statistics: tokens are normed by all tokens' mean."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16, track_running_stats=False)


class Recurrent(Mixing):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(16, 16, batch_first=True)

    def mix(self, x):
        return self.gru(x)[0]


class Fourier(Mixing):
    def mix(self, x):
        return torch.fft.fft(torch.fft.fft(x, dim=-1), dim=1).real


class Rotated(Mixing):
    """Attention on complex numbers: its queries, keys, values, one of its weights and a buffer are."""

    def __init__(self):
        super().__init__()
        del self.q, self.k, self.v
        self.turn = nn.Parameter(torch.randn(4, 2, dtype=torch.complex64))
        self.register_buffer("freqs", torch.polar(torch.ones(64), torch.arange(64.0)))
        self.register_buffer("counts", torch.arange(64))

    def mix(self, x):
        b, s, _ = x.shape
        places = self.freqs[self.counts[:s]].view(1, s, 1, 1)
        x = torch.view_as_complex(x.view(b, s, 4, 2, 2)).transpose(1, 2)
        q, k = (x * part.transpose(1, 2) for part in (self.turn * places, self.turn.conj() / places))
        weights = torch.softmax((q @ k.transpose(-1, -2).conj()).real, -1)
        y = weights.to(k.dtype) @ k
        return torch.view_as_real(y.transpose(1, 2).contiguous()).flatten(2)


class AssociativeScan(Mixing):
    def mix(self, x):
        from torch._higher_order_ops.associative_scan import associative_scan

        return associative_scan(lambda a, b: a * 0.9 + b, x, dim=1, combine_mode="generic")


class Scan(Mixing):
    def mix(self, x):
        from torch._higher_order_ops.scan import scan

        return scan(lambda c, a: (c * 0.9 + a, c + a), torch.zeros(2, 16), x, dim=1)[1]


class Branch(Mixing):
    def mix(self, x):
        return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 1, (x,))


class OwnOperator(Mixing):
    def mix(self, x):
        return torch.ops.autosp_tests.backwards(x)


class WritesItsInput(Mixing):
    def forward(self, idx, targets):
        targets.clamp_(min=1)
        return super().forward(idx, targets)
