"""How a value lies over the whole mesh: a placement for each axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import torch

from .mesh import Coordinate, Mesh
from .placement import Placement, Size, Split, as_size
from .placement import assemble as assemble_one
from .placement import local_shape as shape_on_one
from .placement import shard as shard_one

Hop = tuple[str, Placement, Placement]


@attrs.frozen(repr=False)
class Sharding:
    """A placement for each axis of the mesh, outermost first: `{axis: placement}`, kept as pairs.

    Where several axes split one dim, a later one splits what the earlier ones leave: its sizes are those of the dim on
    a rank of these, which divide it evenly.
    """

    pairs: tuple[tuple[str, Placement], ...]

    @classmethod
    def alike(cls, mesh: Mesh, at: Placement) -> Sharding:
        """The sharding with one placement on every axis."""
        return cls(tuple((axis.name, at) for axis in mesh))

    @classmethod
    def alone(cls, axis: str, at: Placement) -> Sharding:
        """The sharding over a mesh of one axis."""
        return cls(((axis, at),))

    def on(self, axis: str) -> Placement:
        """The placement on one axis. Raises KeyError where the mesh has none of that name."""
        return dict(self.pairs)[axis]

    def replaced(self, axis: str, at: Placement) -> Sharding:
        """The sharding with another placement on one axis."""
        return Sharding(tuple((name, at if name == axis else old) for name, old in self.pairs))

    @property
    def placements(self) -> tuple[Placement, ...]:
        return tuple(at for _, at in self.pairs)

    @property
    def gradient(self) -> Sharding:
        """How the value's gradient lies."""
        return Sharding(tuple((axis, at.gradient) for axis, at in self.pairs))

    @property
    def dims(self) -> frozenset[int]:
        """The dims that some axis splits."""
        return frozenset().union(*(at.dims for at in self.placements))

    def hops(self, to: Sharding) -> tuple[Hop, ...]:
        """The changes of one axis each, in an order in which they can be made: what is gathered leaves innermost first,
        and what is cut anew is cut outermost first."""
        changed = [(axis, src, dst) for (axis, src), (_, dst) in zip(self.pairs, to.pairs, strict=True) if src != dst]
        gathered = [hop for hop in changed if isinstance(hop[1], Split) and not isinstance(hop[2], Split)]
        return (*reversed(gathered), *(hop for hop in changed if hop not in gathered))

    def fits(self, shape: Sequence[Size], mesh: Mesh) -> bool:
        """Whether every split covers its dim, of what the axes before it leave."""
        left = list(shape)
        for axis, (_, at) in zip(mesh, self.pairs, strict=True):
            if not isinstance(at, Split):
                continue
            if at.dim >= len(left) or as_size(at.size) != left[at.dim]:
                return False
            left[at.dim] = at.local_size(axis.size, 0) if divides(at, axis.size) else None
        return True

    def __repr__(self) -> str:
        if len(self.pairs) == 1:
            return repr(self.pairs[0][1])
        return "{" + ", ".join(f"{axis}: {at!r}" for axis, at in self.pairs) + "}"


def divides(split: Split, p: int) -> bool:
    """Whether all of `p` ranks hold equally much."""
    return isinstance(split.units, int) and split.units % p == 0


def local_shape(shape: Sequence[Size], sharding: Sharding, coordinates: Sequence[Coordinate]) -> tuple[Size, ...]:
    """The shape of a rank's part of a value of global `shape`."""
    for at, here in _pairs(sharding, coordinates):
        shape = shape_on_one(tuple(shape), at, here.size, here.rank)
    return tuple(shape)


def shard(x: torch.Tensor, sharding: Sharding, coordinates: Sequence[Coordinate]) -> torch.Tensor:
    """The part of the whole tensor `x` that a rank holds."""
    for at, here in _pairs(sharding, coordinates):
        x = shard_one(x, at, here.size, here.rank)
    return x


def assemble(parts: Sequence[torch.Tensor], sharding: Sharding, mesh: Mesh) -> torch.Tensor:
    """The whole tensor from the parts of all ranks, the last axis' the fastest in their order."""
    parts = list(parts)
    for axis, at in zip(reversed(mesh), reversed(sharding.placements), strict=True):
        p = axis.size
        parts = [assemble_one(parts[i : i + p], at) for i in range(0, len(parts), p)]
    (whole,) = parts
    return whole


def _pairs(sharding: Sharding, coordinates: Sequence[Coordinate]) -> Iterator[tuple[Placement, Coordinate]]:
    return zip(sharding.placements, coordinates, strict=True)
