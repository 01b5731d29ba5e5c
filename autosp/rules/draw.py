"""Random arguments for a call, from a fixed seed: the same ones on every machine."""

from __future__ import annotations

import random
from typing import Any

import attrs
import torch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def call(*args: Any, **kwargs: Any) -> Arguments:
    """The arguments of one call."""
    return args, kwargs


@attrs.frozen
class Draw:
    """A source of sizes and tensors. Sizes are small, and seldom divide."""

    numbers: random.Random
    tensors: torch.Generator

    @classmethod
    def seeded(cls, seed: str) -> Draw:
        """A source that depends on `seed` only."""
        numbers = random.Random(seed)
        return cls(numbers, torch.Generator().manual_seed(numbers.getrandbits(48)))

    def size(self, low: int = 2, high: int = 7) -> int:
        """A size."""
        return self.numbers.randint(low, high)

    def shape(self, rank: int = 3) -> list[int]:
        """A shape."""
        return [self.size() for _ in range(rank)]

    def x(self, *shape: int) -> torch.Tensor:
        """Normal values."""
        return torch.randn(shape, generator=self.tensors)

    def complex(self, *shape: int) -> torch.Tensor:
        """Complex values, both parts normal."""
        return torch.randn(shape, generator=self.tensors, dtype=torch.complex64)

    def like(self, t: torch.Tensor) -> torch.Tensor:
        """Normal values of the shape and dtype of `t`."""
        return (self.complex if t.is_complex() else self.x)(*t.shape).to(t.dtype)

    def positive(self, *shape: int) -> torch.Tensor:
        """Values from 0.1 to 0.9."""
        return torch.rand(shape, generator=self.tensors) * 0.8 + 0.1

    def distinct(self, *shape: int) -> torch.Tensor:
        """Values that are all different by a margin, in random order: no ties for sorts and maxima."""
        n = torch.Size(shape).numel()
        return (torch.randperm(n, generator=self.tensors).float() - n / 2 + 0.25).reshape(shape) / max(n, 1) * 4

    def ids(self, high: int, *shape: int) -> torch.Tensor:
        """Integers below `high`."""
        return torch.randint(0, high, shape, generator=self.tensors)

    def mask(self, *shape: int) -> torch.Tensor:
        """Booleans."""
        return torch.rand(shape, generator=self.tensors) > 0.4

    def dim(self, rank: int) -> int:
        """A dim, counted from either end."""
        return self.numbers.randrange(-rank, rank)

    def pick(self, *options: Any) -> Any:
        """One of the options."""
        return self.numbers.choice(options)
