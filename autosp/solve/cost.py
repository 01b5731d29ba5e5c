"""Seconds and bytes: operators by roofline, reshards by an alpha-beta model.

Collectives cost alpha + beta * (bytes that a rank sends), as in Thakur, Rabenseifner and Gropp,
"Optimization of Collective Communication Operations in MPICH" (2005), section 3; the bytes are in the table of
transitions (`autosp.sharding.transitions`).
"""

from __future__ import annotations

import math

import attrs

from ..capture.masks import CAUSAL, WINDOW, block_of, has_all_queries
from ..rules import argument, is_a, places
from ..rules.flops import multiplied
from ..sharding import Mesh, Placement, Sharding, Split, count, transition
from ..sharding.transitions import SLICE
from .device import Device
from .problem import Op, Problem, Value

# A byte kept for backward is priced as this part of a byte sent: enough to break ties towards
# holding less, too little to buy a collective (any value from 0.01 to 1 gave the same plans).
SAVED = 0.1


@attrs.frozen
class ReshardCost:
    """One change of placement: forward and backward collective kinds, and its seconds."""

    kind: str
    backward: str
    seconds: float
    bytes: int


def reshard(
    value: Value, src: Placement, dst: Placement, p: int, device: Device, share: float = 1.0
) -> ReshardCost | None:
    """The cost of a change of placement; None where there is no conversion, or none is needed
    (or fp8 would have to be summed):
    what every rank can work out from whole inputs (a mask) is never sent. `share` is the part of
    each latency that this value bears (values that travel together share one)."""
    row = transition(src, dst)
    if row is None or (value.data_only and row.forward.wire.communicates):
        return None
    steps = [row.forward, row.backward] if value.diff else [row.forward]
    if value.dtype.is_floating_point and value.dtype.itemsize == 1 and any(step.wire.sums for step in steps):
        return None  # fp8 has no arithmetic
    rate, latency = device.link(p)
    seconds = 0.0
    for step in steps:
        if step.wire.communicates:
            seconds += latency * share + step.wire.sent(value.bytes, p) / rate
        elif step.wire is SLICE:
            seconds += 2 * value.bytes / p / device.bandwidth
    backward, sent = row.backward.kind if value.diff else "none", row.forward.wire.sent(value.bytes, p)
    return ReshardCost(row.forward.kind, backward, seconds, int(sent))


def pairs_seen(op: Op, query: Placement | None = None) -> float:
    """How many pairs of a query and a key one head of an attention multiplies.

    A causal mask leaves out the keys behind a query, a window what no query of a block sees. Any other
    mask is worked out whole, and so is every mask where `query`, the first operand's placement, splits the queries.
    """
    query_, _, value = attended(op)
    queries, keys = query_.hint[-2], value.hint[-2]
    if not has_all_queries(op.node, query):
        return queries * keys
    if window := op.node.meta.get(WINDOW):
        return queries * min(keys, block_of(window, queries) + window)
    if op.node.meta.get(CAUSAL) or argument(op.node, "is_causal"):
        whole = min(queries, keys)  # so many queries see one key more each; the others see all
        return whole * (whole + 1) / 2 + (queries - whole) * keys
    return queries * keys


def attended(op: Op) -> tuple[Value, ...]:
    """The query, key and value of an attention."""
    return tuple(op.operands[i] for i in places(op.node, "attention"))


def flops(op: Op, problem: Problem, query: Placement | None = None) -> float:
    """Floating-point operations of the whole call; `query` as `pairs_seen` has it. Multiply-adds count
    two. A call that contracts a factor of two operands multiplies all its factors; attention contracts twice."""
    pr = op.projection
    if pr is None or len(pr.operands) < 2:
        return 0.0
    if is_a(op.node, "attention"):
        q, _, v = attended(op)
        return 2.0 * math.prod(q.hint[:-2]) * pairs_seen(op, query) * (q.hint[-1] + v.hint[-1])
    sizes = multiplied(pr)
    return 2.0 * math.prod(map(problem.hint, sizes)) if sizes else 0.0


def operator_seconds(op: Op, problem: Problem, device: Device, query: Placement | None = None) -> float:
    """Forward (and backward, where gradients flow) of the whole call on one device: the larger of
    arithmetic and memory traffic. A backward does the work of a forward twice; attention's 2.5 times, as it multiplies
    queries and keys again (Dao 2023, FlashAttention-2, section 4.1)."""
    if op.projection is not None and op.projection.movement and not op.diff:
        return 0.0
    work = flops(op, problem, query) / device.flops(op.results[0].dtype) if op.results else 0.0
    traffic = sum(v.bytes for v in (*op.operands, *op.results)) / device.bandwidth
    backward = 2.5 if is_a(op.node, "attention") else 2.0
    return max(work, traffic) * (1.0 + backward * op.diff)


def fraction(units: int, p: int) -> float:
    """The part of the work that the busiest rank does."""
    return count(units, p, 0) / units if units else 1.0


def saved_bytes(value: Value, placement: Placement, problem: Problem) -> float:
    """Bytes of a value kept for backward on the fullest rank."""
    return local_bytes(value, Sharding.alone(problem.axis.name, placement), problem, (problem.axis,))


def local_bytes(value: Value, sharding: Sharding, problem: Problem, mesh: Mesh) -> float:
    """Bytes of a value on the fullest rank."""
    total = float(value.bytes)
    for axis in mesh:
        at = sharding.on(axis.name)
        total *= fraction(problem.hint(at.units), axis.size) if isinstance(at, Split) else 1.0
    return total


def saved_price(device: Device, p: int) -> float:
    """Seconds per byte kept for backward."""
    return SAVED / device.link(p)[0]
