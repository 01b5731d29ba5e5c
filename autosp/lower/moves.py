"""The data movement of a reshard: packing tensors into one message, and unpacking.

A split travels as a tuple (dim, outer, units, inner); units are dealt to the ranks in order, sizes
differing by at most one. Sizes may be SymInts: nothing here branches on a symbolic size, so that
no guard on a rank's own size can arise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import comm

Split = tuple  # (dim, outer, units, inner)


def held(units, p: int, rank: int):
    """Units that a rank holds."""
    return (units + (p - 1 - rank)) // p


def first(units, p: int, rank: int):
    """The first unit that a rank holds."""
    return sum((held(units, p, r) for r in range(rank)), 0)


def even(units, p: int) -> bool:
    return isinstance(units, int) and units % p == 0


def _open(x: Tensor, s: Split, n) -> Tensor:
    """`x` with the `n` units of its split dim first."""
    dim, outer, _, inner = s
    shape = [*x.shape[:dim], outer, n, inner, *x.shape[dim + 1 :]]
    return x.reshape(shape).movedim(dim + 1, 0)


def _shut(x: Tensor, s: Split, n) -> Tensor:
    """The inverse of `_open`."""
    dim, outer, _, inner = s
    x = x.movedim(0, dim + 1)
    return x.reshape([*x.shape[:dim], outer * n * inner, *x.shape[dim + 3 :]])


def tied(x: Tensor, parts: list[Tensor]) -> Tensor:
    """`x`, as a result of `parts` where some of them hold nothing. Inductor leaves out of a `cat` what is empty: a rank
    without a part would complete a constant gradient, in its forward, while the others do so in their backward."""
    for part in parts:
        if any(isinstance(n, int) and n == 0 for n in part.shape):
            x = x + part.sum(dtype=x.dtype)
    return x


def cut(x: Tensor, s: Split, p: int, rank: int) -> Tensor:
    """The rank's part of a whole tensor."""
    n = held(s[2], p, rank)
    return _shut(_open(x, s, s[2]).narrow(0, first(s[2], p, rank), n), s, n)


def pad(x: Tensor, s: Split, p: int, rank: int) -> Tensor:
    """A whole tensor that is zero but for the rank's part: the gradient of `cut`."""
    n = held(s[2], p, rank)
    part = _open(x, s, n)
    before = part.new_zeros([first(s[2], p, rank), *part.shape[1:]])
    after = part.new_zeros([s[2] - first(s[2], p, rank) - n, *part.shape[1:]])
    return _shut(tied(torch.cat([before, part, after]), [x]), s, s[2])


def gather(xs: list[Tensor], splits: list[Split], p: int, rank: int, group: str) -> list[Tensor]:
    """Whole tensors from every rank's parts, in one message. Uneven parts are padded to the largest."""
    rows, shapes = [], []
    for x, s in zip(xs, splits):
        part = _open(x, s, held(s[2], p, rank))
        part = _fill(part, held(s[2], p, 0))
        shapes.append(part.shape)
        rows.append(part.reshape(-1))
    sent = tied(rows[0] if len(rows) == 1 else torch.cat(rows), xs)
    bits = sent.dtype == torch.bool
    got = comm.all_gather(sent.to(torch.uint8) if bits else sent, p, group)
    got = (got.to(torch.bool) if bits else got).reshape(p, -1)
    out, at = [], 0
    for row, shape, s in zip(rows, shapes, splits):
        n = row.numel()
        block = got.narrow(1, at, n).reshape([p, *shape])
        at = at + n
        out.append(_shut(_join(block, s, p), s, s[2]))
    return out


def _fill(part: Tensor, n) -> Tensor:
    """`part` with zero rows up to `n`."""
    missing = n - part.shape[0]
    if isinstance(missing, int) and missing == 0:
        return part
    return torch.cat([part, part.new_zeros([missing, *part.shape[1:]])])


def _join(block: Tensor, s: Split, p: int) -> Tensor:
    """(p, padded units, ...) to (units, ...)."""
    if even(s[2], p):
        return block.reshape([s[2], *block.shape[2:]])
    return torch.cat([block[r].narrow(0, 0, held(s[2], p, r)) for r in range(p)])


def scatter_sum(xs: list[Tensor], splits: list[Split], p: int, rank: int, group: str) -> list[Tensor]:
    """The rank's parts of the sums over ranks of whole tensors, in one message."""
    rows, shapes = [], []
    for x, s in zip(xs, splits):
        whole = _open(x, s, s[2])
        if even(s[2], p):
            block = whole.reshape([p, s[2] // p, *whole.shape[1:]])
        else:
            most = held(s[2], p, 0)
            parts = [whole.narrow(0, first(s[2], p, r), held(s[2], p, r)) for r in range(p)]
            block = torch.stack([_fill(part, most) for part in parts])
        shapes.append(block.shape[1:])
        rows.append(block.reshape(p, -1))
    sent = rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
    got = comm.reduce_scatter(tied(sent, xs), p, group).reshape(-1)
    out, at = [], 0
    for row, shape, s in zip(rows, shapes, splits):
        n = row.shape[1]
        part = got.narrow(0, at, n).reshape(shape)
        at = at + n
        own = held(s[2], p, rank)
        out.append(_shut(part if even(s[2], p) else part.narrow(0, 0, own), s, own))
    return out


def exchange(xs: list[Tensor], srcs: list[Split], dsts: list[Split], p: int, rank: int, group: str) -> list[Tensor]:
    """Tensors split one way to the same tensors split another way (two dims each), in one message:
    the all-to-all of DeepSpeed-Ulysses (Jacobs et al., 2023, section 3)."""
    opened = [_open2(x, s, d, p, rank) for x, s, d in zip(xs, srcs, dsts)]
    if all(even(s[2], p) and even(d[2], p) for s, d in zip(srcs, dsts)):
        rows = [y.reshape(p, -1) for y in opened]
        sent = rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
        got = comm.all_to_all(tied(sent, xs), [1] * p, [1] * p, group)
        out, at = [], 0
        for x, y, row, s, d in zip(xs, opened, rows, srcs, dsts):
            m, n = d[2] // p, s[2] // p
            block = got.narrow(1, at, row.shape[1]).reshape([p, m, n, *y.shape[2:]])
            at += row.shape[1]
            joined = block.movedim(0, 1).reshape([m, s[2], *y.shape[2:]])
            out.append(_shut2(joined, x, s, d, m))
        return out
    return _exchange_uneven(xs, opened, srcs, dsts, p, rank, group)


def _exchange_uneven(xs, opened, srcs, dsts, p: int, rank: int, group: str) -> list[Tensor]:
    pieces, sent_sizes = [], []
    for j in range(p):
        blocks = [y.narrow(0, first(d[2], p, j), held(d[2], p, j)).reshape(-1) for y, d in zip(opened, dsts)]
        pieces += blocks
        sent_sizes.append(sum(b.numel() for b in blocks))
    rests = [_product(y.shape[2:]) for y in opened]
    mine = [held(d[2], p, rank) for d in dsts]
    got_sizes = [sum(m * held(s[2], p, i) * r for m, s, r in zip(mine, srcs, rests)) for i in range(p)]
    got = comm.all_to_all(tied(torch.cat(pieces), xs), got_sizes, sent_sizes, group)
    blocks: list[list[Tensor]] = [[] for _ in xs]
    at = 0
    for i in range(p):
        for k, (y, s) in enumerate(zip(opened, srcs)):
            n = held(s[2], p, i)
            count = mine[k] * n * rests[k]
            blocks[k].append(got.narrow(0, at, count).reshape([mine[k], n, *y.shape[2:]]))
            at = at + count
    joined = [torch.cat(b, dim=1) for b in blocks]
    return [_shut2(z, x, s, d, m) for z, x, s, d, m in zip(joined, xs, srcs, dsts, mine)]


def _product(sizes):
    n = 1
    for s in sizes:
        n = n * s
    return n


def _unit_dims(s: Split, d: Split) -> tuple[int, int]:
    """Where the unit dims of the target and of the source stand once both dims are opened."""
    return d[0] + (3 if s[0] < d[0] else 1), s[0] + (3 if d[0] < s[0] else 1)


def _open2(x: Tensor, s: Split, d: Split, p: int, rank: int) -> Tensor:
    """(target units, own source units, rest...)."""
    shape: list = []
    for i, n in enumerate(x.shape):
        if i == s[0]:
            shape += [s[1], held(s[2], p, rank), s[3]]
        elif i == d[0]:
            shape += [d[1], d[2], d[3]]
        else:
            shape.append(n)
    return x.reshape(shape).movedim(_unit_dims(s, d), (0, 1))


def _shut2(y: Tensor, x: Tensor, s: Split, d: Split, m) -> Tensor:
    """The inverse: own target units, all source units. `x` tells the dims that stay."""
    y = y.movedim((0, 1), _unit_dims(s, d))
    shape = list(x.shape)
    shape[s[0]] = s[1] * s[2] * s[3]
    shape[d[0]] = d[1] * m * d[3]
    return y.reshape(shape)
