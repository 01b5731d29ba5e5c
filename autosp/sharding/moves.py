"""The data movement of a reshard: packing tensors into one message, and unpacking.

Sizes may be SymInts: nothing here branches on a symbolic size, so that no guard on a rank's own size can arise.
`at` is the coordinate of the rank on the axis along which its value moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import comm
from .mesh import Coordinate
from .placement import Split, count, start


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


def cut(x: Tensor, s: Split, at: Coordinate) -> Tensor:
    """The rank's part of a whole tensor."""
    p, rank = at.size, at.rank
    n = count(s.units, p, rank)
    return _shut(_open(x, s, s.units).narrow(0, start(s.units, p, rank), n), s, n)


def pad(x: Tensor, s: Split, at: Coordinate) -> Tensor:
    """A whole tensor that is zero but for the rank's part: the gradient of `cut`."""
    p, rank = at.size, at.rank
    n = count(s.units, p, rank)
    part = _open(x, s, n)
    before = part.new_zeros([start(s.units, p, rank), *part.shape[1:]])
    after = part.new_zeros([s.units - start(s.units, p, rank) - n, *part.shape[1:]])
    return _shut(tied(torch.cat([before, part, after]), [x]), s, s.units)


def gather(xs: list[Tensor], splits: Sequence[Split], at: Coordinate) -> list[Tensor]:
    """Whole tensors from every rank's parts, in one message. Uneven parts are padded to the largest."""
    p, rank = at.size, at.rank
    rows, shapes = [], []
    for x, s in zip(xs, splits):
        part = _open(x, s, count(s.units, p, rank))
        part = _fill(part, count(s.units, p, 0))
        shapes.append(part.shape)
        rows.append(part.reshape(-1))
    sent = tied(rows[0] if len(rows) == 1 else torch.cat(rows), xs)
    bits = sent.dtype == torch.bool
    got = comm.all_gather(sent.to(torch.uint8) if bits else sent, p, at.group)
    got = (got.to(torch.bool) if bits else got).reshape(p, -1)
    out, begin = [], 0
    for row, shape, s in zip(rows, shapes, splits):
        n = row.numel()
        block = got.narrow(1, begin, n).reshape([p, *shape])
        begin = begin + n
        out.append(_shut(_join(block, s, p), s, s.units))
    return out


def _fill(part: Tensor, n) -> Tensor:
    """`part` with zero rows up to `n`."""
    missing = n - part.shape[0]
    if isinstance(missing, int) and missing == 0:
        return part
    return torch.cat([part, part.new_zeros([missing, *part.shape[1:]])])


def _join(block: Tensor, s: Split, p: int) -> Tensor:
    """(p, padded units, ...) to (units, ...)."""
    if even(s.units, p):
        return block.reshape([s.units, *block.shape[2:]])
    return torch.cat([block[r].narrow(0, 0, count(s.units, p, r)) for r in range(p)])


def scatter_sum(xs: list[Tensor], splits: Sequence[Split], at: Coordinate) -> list[Tensor]:
    """The rank's parts of the sums over ranks of whole tensors, in one message."""
    p, rank = at.size, at.rank
    rows, shapes = [], []
    for x, s in zip(xs, splits):
        whole = _open(x, s, s.units)
        if even(s.units, p):
            block = whole.reshape([p, s.units // p, *whole.shape[1:]])
        else:
            most = count(s.units, p, 0)
            parts = [whole.narrow(0, start(s.units, p, r), count(s.units, p, r)) for r in range(p)]
            block = torch.stack([_fill(part, most) for part in parts])
        shapes.append(block.shape[1:])
        rows.append(block.reshape(p, -1))
    sent = rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
    got = comm.reduce_scatter(tied(sent, xs), p, at.group).reshape(-1)
    out, begin = [], 0
    for row, shape, s in zip(rows, shapes, splits):
        n = row.shape[1]
        part = got.narrow(0, begin, n).reshape(shape)
        begin = begin + n
        own = count(s.units, p, rank)
        out.append(_shut(part if even(s.units, p) else part.narrow(0, 0, own), s, own))
    return out


def exchange(xs: list[Tensor], srcs: Sequence[Split], dsts: Sequence[Split], at: Coordinate) -> list[Tensor]:
    """Tensors split one way to the same tensors split another way (two dims each), in one message:
    the all-to-all of DeepSpeed-Ulysses (Jacobs et al., 2023, section 3)."""
    p = at.size
    opened = [_open2(x, s, d, at) for x, s, d in zip(xs, srcs, dsts)]
    if all(even(s.units, p) and even(d.units, p) for s, d in zip(srcs, dsts)):
        rows = [y.reshape(p, -1) for y in opened]
        sent = rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
        got = comm.all_to_all(tied(sent, xs), [1] * p, [1] * p, at.group)
        out, begin = [], 0
        for x, y, row, s, d in zip(xs, opened, rows, srcs, dsts):
            m, n = d.units // p, s.units // p
            block = got.narrow(1, begin, row.shape[1]).reshape([p, m, n, *y.shape[2:]])
            begin += row.shape[1]
            joined = block.movedim(0, 1).reshape([m, s.units, *y.shape[2:]])
            out.append(_shut2(joined, x, s, d, m))
        return out
    return _exchange_uneven(xs, opened, srcs, dsts, at)


def _exchange_uneven(xs, opened, srcs, dsts, at: Coordinate) -> list[Tensor]:
    p, rank = at.size, at.rank
    pieces, sent_sizes = [], []
    for j in range(p):
        blocks = [y.narrow(0, start(d.units, p, j), count(d.units, p, j)).reshape(-1) for y, d in zip(opened, dsts)]
        pieces += blocks
        sent_sizes.append(sum(b.numel() for b in blocks))
    rests = [_product(y.shape[2:]) for y in opened]
    mine = [count(d.units, p, rank) for d in dsts]
    got_sizes = [sum(m * count(s.units, p, i) * r for m, s, r in zip(mine, srcs, rests)) for i in range(p)]
    got = comm.all_to_all(tied(torch.cat(pieces), xs), got_sizes, sent_sizes, at.group)
    blocks: list[list[Tensor]] = [[] for _ in xs]
    begin = 0
    for i in range(p):
        for k, (y, s) in enumerate(zip(opened, srcs)):
            n = count(s.units, p, i)
            length = mine[k] * n * rests[k]
            blocks[k].append(got.narrow(0, begin, length).reshape([mine[k], n, *y.shape[2:]]))
            begin = begin + length
    joined = [torch.cat(b, dim=1) for b in blocks]
    return [_shut2(z, x, s, d, m) for z, x, s, d, m in zip(joined, xs, srcs, dsts, mine)]


def _product(sizes):
    n = 1
    for s in sizes:
        n = n * s
    return n


def _unit_dims(s: Split, d: Split) -> tuple[int, int]:
    """Where the unit dims of the target and of the source stand once both dims are opened."""
    return d.dim + (3 if s.dim < d.dim else 1), s.dim + (3 if d.dim < s.dim else 1)


def _open2(x: Tensor, s: Split, d: Split, at: Coordinate) -> Tensor:
    """(target units, own source units, rest...)."""
    shape: list = []
    for i, n in enumerate(x.shape):
        if i == s.dim:
            shape += [s.outer, count(s.units, at.size, at.rank), s.inner]
        elif i == d.dim:
            shape += [d.outer, d.units, d.inner]
        else:
            shape.append(n)
    return x.reshape(shape).movedim(_unit_dims(s, d), (0, 1))


def _shut2(y: Tensor, x: Tensor, s: Split, d: Split, m) -> Tensor:
    """The inverse: own target units, all source units. `x` tells the dims that stay."""
    y = y.movedim((0, 1), _unit_dims(s, d))
    shape = list(x.shape)
    shape[s.dim] = s.size
    shape[d.dim] = d.outer * m * d.inner
    return y.reshape(shape)
