"""Seconds and bytes: operators by roofline, reshards by an alpha-beta model.

Collectives cost alpha + beta * (bytes that a rank sends), as in Thakur, Rabenseifner and Gropp,
"Optimization of Collective Communication Operations in MPICH" (2005), section 3. Per rank, on a
value of B bytes over P ranks: all-to-all B(P-1)/P^2, all-gather and reduce-scatter B(P-1)/P,
all-reduce 2B(P-1)/P.
"""

from __future__ import annotations

import math

import attrs

from ..capture.masks import CAUSAL, SDPA, WINDOW, block_of, has_all_queries
from ..layout import INVARIANT, PARTIAL, REPLICATE, Placement, Split, count
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


_KINDS: dict[tuple[str, str], tuple[str, str]] = {
    ("split", "split"): ("all_to_all", "all_to_all"),
    ("split", "replicate"): ("all_gather", "reduce_scatter"),
    ("split", "invariant"): ("all_gather", "slice"),
    ("partial", "replicate"): ("all_reduce", "all_reduce"),
    ("partial", "invariant"): ("all_reduce", "none"),
    ("partial", "split"): ("reduce_scatter", "all_gather"),
    ("replicate", "split"): ("slice", "slice"),
    ("invariant", "split"): ("slice", "all_gather"),
    ("invariant", "replicate"): ("none", "all_reduce"),
    ("replicate", "invariant"): ("none", "none"),
    ("replicate", "partial"): ("none", "none"),
    ("invariant", "partial"): ("none", "none"),
}


def word(p: Placement) -> str:
    return "split" if isinstance(p, Split) else p.value


def conversion(src: Placement, dst: Placement) -> tuple[str, str] | None:
    """Forward and backward collective of a change of placement, or None where there is none."""
    if src == dst:
        return "none", "none"
    if isinstance(src, Split) and isinstance(dst, Split) and src.dim == dst.dim:
        return "all_gather", "all_gather"  # both parts of one dim: gathered, then cut anew
    return _KINDS.get((word(src), word(dst)))


def sent(kind: str, size: int, p: int) -> float:
    """Bytes that one rank sends."""
    if kind == "all_to_all":
        return size * (p - 1) / p**2
    if kind in ("all_gather", "reduce_scatter"):
        return size * (p - 1) / p
    return 2 * size * (p - 1) / p if kind == "all_reduce" else 0.0


def communicates(kind: str) -> bool:
    return kind not in ("none", "slice")


def reshard(
    value: Value, src: Placement, dst: Placement, p: int, device: Device, share: float = 1.0
) -> ReshardCost | None:
    """The cost of a change of placement; None where there is no conversion, or none is needed
    (or fp8 would have to be summed):
    what every rank can work out from whole inputs (a mask) is never sent. `share` is the part of
    each latency that this value bears (values that travel together share one)."""
    kinds = conversion(src, dst)
    if kinds is None or (value.given and communicates(kinds[0])):
        return None
    sums = {"all_reduce", "reduce_scatter"}.intersection(kinds if value.diff else kinds[:1])
    if sums and value.dtype.is_floating_point and value.dtype.itemsize == 1:  # fp8 has no arithmetic
        return None
    rate, latency = device.link(p)
    seconds = 0.0
    for kind in kinds if value.diff else kinds[:1]:
        if kind == "slice":
            seconds += 2 * value.bytes / p / device.bandwidth
        elif kind != "none":
            seconds += latency * share + sent(kind, value.bytes, p) / rate
    return ReshardCost(kinds[0], kinds[1] if value.diff else "none", seconds, int(sent(kinds[0], value.bytes, p)))


def pairs_seen(op: Op, query: Placement | None = None) -> float:
    """How many pairs of a query and a key one head of an attention multiplies.

    A causal mask leaves out the keys behind a query, a window what no query of a block sees. Any other
    mask is worked out whole, and so is every mask where `query`, the first operand's placement, splits the queries.
    """
    queries, keys = op.operands[0].hint[-2], op.operands[2].hint[-2]
    if not has_all_queries(op.node, query):
        return queries * keys
    args = op.node.args
    if window := op.node.meta.get(WINDOW):
        return queries * min(keys, block_of(window, queries) + window)
    if op.node.meta.get(CAUSAL) or (args[5] if len(args) > 5 else op.node.kwargs.get("is_causal")):
        whole = min(queries, keys)  # so many queries see one key more each; the others see all
        return whole * (whole + 1) / 2 + (queries - whole) * keys
    return queries * keys


def flops(op: Op, problem: Problem, query: Placement | None = None) -> float:
    """Floating-point operations of the whole call; `query` as `pairs_seen` has it. Multiply-adds count
    two. A call that contracts a factor of two operands multiplies all its factors; attention contracts twice."""
    pr = op.projection
    if pr is None or len(pr.operands) < 2:
        return 0.0
    if op.node.target is SDPA:
        q, v = op.operands[0], op.operands[2]
        return 2.0 * math.prod(q.hint[:-2]) * pairs_seen(op, query) * (q.hint[-1] + v.hint[-1])
    inside = {f for dims in pr.results for d in dims for f in d}
    shared = [
        f
        for f in range(len(pr.sizes))
        if f not in inside and sum(any(f in d for d in dims) for dims in pr.operands) > 1
    ]
    if not shared:
        return 0.0
    return 2.0 * math.prod(problem.hint(s) for s in pr.sizes)


def operator_seconds(op: Op, problem: Problem, device: Device, query: Placement | None = None) -> float:
    """Forward (and backward, where gradients flow) of the whole call on one device: the larger of
    arithmetic and memory traffic. A backward does the work of a forward twice; attention's 2.5 times, as it multiplies
    queries and keys again (Dao 2023, FlashAttention-2, section 4.1)."""
    if op.projection is not None and op.projection.movement and not op.diff:
        return 0.0
    work = flops(op, problem, query) / device.flops(op.results[0].dtype) if op.results else 0.0
    traffic = sum(v.bytes for v in (*op.operands, *op.results)) / device.bandwidth
    backward = 2.5 if op.node.target is SDPA else 2.0
    return max(work, traffic) * (1.0 + backward * op.diff)


def fraction(units: int, p: int) -> float:
    """The part of the work that the busiest rank does."""
    return count(units, p, 0) / units if units else 1.0


def saved_bytes(value: Value, placement: Placement, problem: Problem, p: int) -> float:
    """Bytes of a value kept for backward on the fullest rank."""
    if isinstance(placement, Split):
        return value.bytes * fraction(problem.hint(placement.units), p)
    return float(value.bytes)


def saved_price(device: Device, p: int) -> float:
    """Seconds per byte kept for backward."""
    return SAVED / device.link(p)[0]


__all__ = [
    "INVARIANT",
    "PARTIAL",
    "REPLICATE",
    "ReshardCost",
    "conversion",
    "flops",
    "fraction",
    "operator_seconds",
    "reshard",
    "saved_bytes",
    "saved_price",
    "sent",
    "word",
]
