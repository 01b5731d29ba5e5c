"""What makes one rank's graph of a plan, and what is written of its values."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ..sharding import Coordinate, Mesh, Sharding


def _one_or_more(x) -> tuple:
    return x if isinstance(x, tuple) else (x,)


@attrs.frozen
class Rank:
    """What specialises a plan: the rank's place on each axis of the plan's mesh, and the name of its group there (of
    one axis, each by itself); what the gradient of every output is multiplied by (what the engine divides by, beyond
    the data-parallel mean), and whether parameter gradients are completed over the axes in the backward itself."""

    rank: tuple[int, ...] = attrs.field(converter=_one_or_more)
    group: tuple[str, ...] = attrs.field(converter=_one_or_more)
    grad_scale: float = 1.0
    complete: bool = True
    others: Mapping[str, tuple[str, int]] = attrs.Factory(dict)

    def on(self, mesh: Mesh) -> tuple[Coordinate, ...]:
        """The rank's coordinates."""
        places = zip(mesh, self.rank, self.group, strict=True)
        return tuple(Coordinate(axis.name, axis.size, rank, group) for axis, rank, group in places)


@attrs.frozen(eq=False)
class Note:
    """What the lowering says of one local value; the checker believes none of it unseen."""

    value: int
    sharding: Sharding
    diff: bool
