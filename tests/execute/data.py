"""Models that read their data: assertions on it, numbers read from it, sizes that only it tells."""

from __future__ import annotations

import torch
from torch.nn import functional as F

import autosp
from tests.execute.odd import SPEC, Mixing

__all__ = ["SPEC"]
IMAGE = 7  # a token that stands for a feature


class Checked(Mixing):
    """As transformers checks that there are as many features as tokens for them; the rest is on activations."""

    def mix(self, x):
        torch._check_tensor_all_with(ValueError, x.isfinite(), lambda: "activations are finite")
        torch._check_tensor_all(x.shape[1] * (x.detach() < 100).any() == x.shape[1])
        assert (x.detach().abs() < 100).all(), "activations are small"
        return x

    def forward(self, idx, targets):
        torch._check_tensor_all((idx == IMAGE).sum() < 4)
        torch._assert_async((targets < 64).all())
        return super().forward(idx, targets)


class Numbers(Mixing):
    """Numbers read from tensors, of an input and of a split activation, as factors and as sizes."""

    def mix(self, x):
        first, second = (self.steps * 0 + torch.tensor([4, 12])).tolist()
        torch._check(first >= 0)
        torch._check(second >= 0)
        torch._check(first + second == 16)
        left, right = torch.arange(16.0).split([first, second])
        return x * left.sum() + x.detach().sum().item() * right.mean() * int(self.steps.sum()) / 1000

    def forward(self, idx, targets):
        self.steps = idx[0, :2]
        return super().forward(idx, targets) * (targets >= 0).sum().item()


class Features(Mixing):
    """Features of an image in place of some tokens, as many as the batch has of them."""

    def mix(self, x):
        mask = self.ids == IMAGE
        places = mask.nonzero()
        found = self.q(F.one_hot(places[:, 1] % 16, 16).to(x))
        return x.masked_scatter(mask.unsqueeze(-1), found)

    def forward(self, idx, targets):
        self.ids = idx
        return super().forward(idx, targets)


class Picked(Mixing):
    """Positions of a split value, picked by an index: a mixture of experts in plain loops, say."""

    class Expert(torch.nn.Linear):
        def forward(self, x):
            where = torch.where(x[..., 0] > 0)
            return x.index_put(where, torch.tanh(super().forward(x[where])))

    def __init__(self):
        super().__init__()
        self.expert = self.Expert(16, 16)

    def mix(self, x):
        return self.expert(x)


def fails_on_both_ranks(backend: str) -> str:
    """What a rank reads when an assertion fails in its second step; the first passes."""
    mesh = torch.distributed.init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp", "sp"))
    model = autosp.compile(Checked(), SPEC, mesh=mesh, backend=backend)
    idx = torch.arange(20).view(2, 10)
    model(idx=idx, targets=idx).backward()
    try:
        model(idx=idx.clamp(max=IMAGE), targets=idx)
    except RuntimeError as e:
        return str(e)
    return "passes"
