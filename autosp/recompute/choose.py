"""Save or recompute: the choice of least predicted time whose peak fits.

For every storage of the forward, s in {0, 1} says that it crosses to the backward; for every
operator, r in {0, 1} that the backward runs it again. What the backward reads must be there:
s + r >= 1; what runs again needs its operands: s + r(maker) >= r(reader). Least
`seconds of r + price * bytes of s` is a minimum cut (the rows are differences of potentials, so
the relaxation is integral); over all prices its answers are the corners of the trade-off between
bytes that cross and seconds. Whether a choice fits follows from the lifetimes of all storages
(`liveness`), not by the bytes that cross: Jain et al., Checkmate (MLSys 2020), section 4, has both
in one program, which is too large here. Between two corners, layers take one or the other.

A value that leaves its layer is always saved: recomputed, it would keep all layers before it alive.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property, partial

import attrs
import numpy as np
from torch import fx

from ..solve import Device
from ..solve.program import IntegerProgram
from ..solve.program import solve as run
from . import kinds
from .compiler import Compiler
from .joint import Joint, Storage, crosses_layers
from .liveness import EAGER, Peak, peak
from .schedule import Schedule, schedule
from .seconds import node_seconds


@attrs.frozen(eq=False, slots=False)
class Candidate:
    """One way: the storages that cross, what then runs, and seconds spent twice."""

    saved: frozenset[int]
    schedule: Schedule = attrs.field(repr=False)
    seconds: float
    _peaks: Callable[[Schedule], tuple[Peak, str]] = attrs.field(repr=False)

    @property
    def peak(self) -> Peak:
        """Its fullest moment; worked out when it is first read, as that takes the longest."""
        return self._fullest[0]

    @property
    def phase(self) -> str:
        """Whether that is in the forward or in the backward."""
        return self._fullest[1]

    @cached_property
    def _fullest(self) -> tuple[Peak, str]:
        return self._peaks(self.schedule)

    @cached_property
    def bytes(self) -> int:
        """What crosses."""
        return sum(s.bytes for s in self.schedule.saved)

    @cached_property
    def floor(self) -> int:
        """Less than its peak: what crosses on the device is there at once."""
        return sum(s.bytes for s in self.schedule.saved if s.id not in self.schedule.offloaded)

    def fits(self, limit: int) -> bool:
        return self.floor <= limit and self.peak.bytes <= limit


class Chooser:
    """The trade-off of one joint graph, solved corner by corner on demand."""

    def __init__(self, joint: Joint, device: Device, p: int, *, offload: bool = False, compiler: Compiler = EAGER):
        self.joint, self.device, self.compiler = joint, device, compiler
        self.offload = offload and device.host > 0
        self.seconds = {n: node_seconds(joint, n, device, p) for n in joint.forward if n in joint.makes}
        self.in_forward = set(schedule(joint, ()).forward)
        self.layers = list(dict.fromkeys(s.layer for s in joint.saveable if s.layer))
        self._candidates: dict[tuple[frozenset[int], bool], Candidate] = {}
        self._hull: list[Candidate] = []

    def candidate(self, saved: Collection[int], offload: bool = False) -> Candidate:
        """What comes of a choice; with `offload`, of one whose residual stream crosses in the host's memory."""
        key = frozenset(saved), offload
        if key not in self._candidates:
            s = schedule(self.joint, key[0], offload)
            twice = sum(self.seconds.get(n, 0.0) for n in s.again if n in self.in_forward)
            peaks = partial(peak, self.joint, compiler=self.compiler)
            self._candidates[key] = Candidate(key[0], s, twice + self._waiting(s), peaks)
        return self._candidates[key]

    def _waiting(self, s: Schedule) -> float:
        """Seconds by which copies to the host, and back, outlast the forward and the backward beside them."""
        if not s.offloaded:
            return 0.0
        copies = sum(x.bytes for x in s.saved if x.id in s.offloaded) / self.device.host
        forward = sum(self.seconds.values())
        return max(0.0, copies - forward) + max(0.0, copies - 2 * forward)

    def least(self, *, protect: bool) -> Candidate:
        """The fewest bytes that cross. protect: no attention and no collective runs again."""
        return self.candidate(self._cut(self._dearest(), protect))

    def fitting(self, limit: int) -> Candidate | None:
        """The fewest seconds whose peak is at most `limit` bytes, or None; where it may, with the residual
        stream in the host's memory if that is faster, or alone fits."""
        here = self._fitting(limit)
        if not self.offload or (here is not None and here.seconds == 0.0):
            return here
        away = (self.candidate(c.saved, offload=True) for c in self.corners())
        there = next((c for c in sorted(away, key=lambda c: c.seconds) if c.fits(limit)), None)
        return min((c for c in (here, there) if c), key=lambda c: c.seconds, default=None)

    def _fitting(self, limit: int) -> Candidate | None:
        corners = sorted(self.corners(), key=lambda c: c.seconds)
        first = next((i for i, c in enumerate(corners) if c.fits(limit)), None)
        if first is None:
            least = self._smallest()
            return least if least.fits(limit) else None
        mixed = self._between(corners[first - 1], corners[first], limit) if first else ()
        return min((corners[first], *mixed), key=lambda c: c.seconds)

    def smallest(self) -> Candidate:
        """The least peak of all."""
        away = [self.candidate(c.saved, offload=True) for c in self.corners()] if self.offload else []
        return _lowest((self._smallest(), *away))

    def _smallest(self) -> Candidate:
        """The least peak of the corners, and of those that save more in the last layers alone: there the
        backward begins, while all of what crosses is alive, and what is saved need not be made again."""
        least = _lowest(self.corners())
        mixed = (
            self.candidate(self._mixed(c, least, set(self.layers[-n:])))
            for c in self.corners()
            for n in (1, 2, 4)
            if n < len(self.layers)
        )
        return _lowest((least, *mixed))

    def _between(self, fast: Candidate, small: Candidate, limit: int) -> Iterator[Candidate]:
        """Layers of one corner and of the other: the last ones, whose backward comes first, save more."""
        low, high = 0, len(self.layers)
        while high - low > 1:
            middle = (low + high) // 2
            mixed = self.candidate(self._mixed(fast, small, set(self.layers[-middle:])))
            if mixed.fits(limit):
                yield mixed
                low = middle
            else:
                high = middle

    def _mixed(self, fast: Candidate, small: Candidate, layers: set) -> frozenset[int]:
        return frozenset(
            s.id
            for s in self.joint.saveable
            if s.id in (fast.saved if s.layer in layers else small.saved) or s.id in fast.saved & small.saved
        )

    def corners(self) -> list[Candidate]:
        """The corners of the trade-off between bytes and seconds, from both ends inwards; and those that
        save the least in layers and what another one saves outside of them (the loss), where the peak may be."""
        if not self._hull:
            ends = [self.candidate(self._cut(0.0, False)), self.candidate(self._cut(self._dearest(), False))]
            hull = [ends[0], *self._inside(*ends), ends[1], self.least(protect=True)]
            outside = [self.candidate(self._mixed(ends[1], c, set(self.layers))) for c in hull]
            self._hull = list(dict.fromkeys([*hull, *outside]))
        return self._hull

    def _inside(self, fast: Candidate, small: Candidate, depth: int = 6) -> list[Candidate]:
        saved, lost = fast.bytes - small.bytes, small.seconds - fast.seconds
        if depth == 0 or saved <= 0 or lost <= 0:
            return []
        price = lost / saved
        new = self.candidate(self._cut(price, False))
        if new.seconds + price * new.bytes >= (fast.seconds + price * fast.bytes) * (1 - 1e-6):
            return []
        return [*self._inside(fast, new, depth - 1), new, *self._inside(new, small, depth - 1)]

    def _dearest(self) -> float:
        """Seconds per byte at which no recomputation is too slow."""
        return 1e4 * (sum(self.seconds.values()) + 1e-9) / (sum(s.bytes for s in self.joint.saveable) + 1)

    def _cut(self, price: float, protect: bool) -> frozenset[int]:
        """The storages that cross at a price of seconds per byte."""
        joint, program = self.joint, IntegerProgram()
        save: dict[int, int] = {}
        again: dict[fx.Node, int] = {}
        scale = 1.0 / max(price * sum(s.bytes for s in joint.saveable), sum(self.seconds.values()), 1e-12)
        for n in joint.forward:
            if n not in joint.makes:
                continue
            forced = must_recompute(n)
            if forced or not self._fixed(n, protect):
                cost = self.seconds[n] if n in self.in_forward else 0.0
                again[n] = program.variable(cost * scale + 1e-12)
            for s in joint.makes[n]:
                if not forced:
                    save[s.id] = program.variable(price * s.bytes * scale)

        def there(s: Storage) -> list[int]:
            leaves = s.id in save and crosses_layers(s)
            made_again = [] if leaves or s.maker not in again else [again[s.maker]]
            return made_again + ([save[s.id]] if s.id in save else [])

        for s in self._read_in_backward():
            program.covers(there(s), by=1.0)
        for n, r in again.items():
            for s in joint.needs.get(n, ()):
                if s.id in save or s.maker in again:
                    program.covers(there(s), [r])
        if not program.costs:
            return frozenset()
        x: np.ndarray = run(program)
        return frozenset(i for i, v in save.items() if x[v] > 0.5)

    def _read_in_backward(self) -> Iterator[Storage]:
        ours = {s.id for s in self.joint.saveable}
        seen = set()
        for n in (*self.joint.backward, *(n for n in self.joint.results if n in set(self.joint.forward))):
            for s in self.joint.needs.get(n, ()) or self.joint.of.get(n, ()):
                if s.id in ours and s.id not in seen:
                    seen.add(s.id)
                    yield s

    def _fixed(self, n: fx.Node, protect: bool) -> bool:
        """Whether an operator runs once: draws and copies of written buffers always, attention and collectives where
        protected."""
        return kinds.runs_once(n) or (protect and (kinds.is_attention(n) or kinds.is_collective(n)))


def _lowest(candidates: Iterable[Candidate]) -> Candidate:
    """The one of the least peak, the fastest of several."""
    best = None
    for c in sorted(candidates, key=lambda c: c.floor):
        if best is not None and c.floor > best.peak.bytes:
            break
        if best is None or (c.peak.bytes, c.seconds) < (best.peak.bytes, best.seconds):
            best = c
    return best


def must_recompute(n: fx.Node) -> bool:
    """Whether a node is a tile's (`tile` marks them): what it makes is never held, but for attention's results."""
    return "autosp_tile" in (n.meta.get("custom") or {}) and not kinds.is_attention(n)
