"""Arguments of operators that move values: views, permutations, joins, cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .draw import Arguments, Draw, call


def views(d: Draw) -> Iterator[Arguments]:
    b, s, h = d.size(), d.size(), d.size()
    yield call(d.x(b, s, h * 4), [b, s, h, 4])
    yield call(d.x(b, s, h, 4), [b, s, -1])
    yield call(d.x(b, s, h), [-1, h])
    yield call(d.x(b, s, h), [-1])
    yield call(d.x(b * s, h), [b, s, h])
    yield call(d.x(6, 4, s), [4, 6, s])
    yield call(d.x(b, 6, 1, 5), [b, 1, 10, 3])
    yield call(d.x(b, 1, s), [b, s, 1])


def like(d: Draw) -> Iterator[Arguments]:
    b, s, h = d.size(), d.size(), d.size()
    yield call(d.x(b, s * h), d.x(b, s, h))
    yield call(d.x(b, s, h), d.x(b * s, h))


def unflatten(d: Draw) -> Iterator[Arguments]:
    b, s, h = d.size(), d.size(), d.size()
    yield call(d.x(b, s * h), -1, [s, h])
    yield call(d.x(b * 2, h), 0, [-1, 2])


def flatten(d: Draw) -> Iterator[Arguments]:
    for start, end in ((0, -1), (1, 2), (0, 1)):
        yield call(d.x(*d.shape(3)), start, end)


def ones(*args: Any) -> Callable[[Draw], Iterator[Arguments]]:
    """A tensor with dims of size 1, then `args`."""

    def make(d: Draw) -> Iterator[Arguments]:
        yield call(d.x(d.size(), 1, d.size(), 1), *args)
        yield call(d.x(d.size(), 1, 1, d.size()), *args)

    return make


def squeeze_dim(d: Draw) -> Iterator[Arguments]:
    yield call(d.x(d.size(), 1, d.size()), 1)
    yield call(d.x(d.size(), 3), 1)


def plain(*args: Any, rank: int = 3) -> Callable[[Draw], Iterator[Arguments]]:
    """Two tensors of one rank, then `args`."""

    def make(d: Draw) -> Iterator[Arguments]:
        for _ in range(2):
            yield call(d.x(*d.shape(rank)), *args)

    return make


def expand(d: Draw) -> Iterator[Arguments]:
    b, s, h = d.size(), d.size(), d.size()
    yield call(d.x(b, 1, s), [b, h, s])
    yield call(d.x(b, 1, s), [-1, h, -1])
    yield call(d.x(s), [b, h, s])
    yield call(d.x(b, s), [b, s])


def broadcast_to(d: Draw) -> Iterator[Arguments]:
    b, s, h = d.size(), d.size(), d.size()
    yield call(d.x(b, 1, s), [b, h, s])
    yield call(d.x(s), [b, s])


def expand_as(d: Draw) -> Iterator[Arguments]:
    b, s, h = d.size(), d.size(), d.size()
    yield call(d.x(b, 1, s), d.x(b, h, s))


def repeat(d: Draw) -> Iterator[Arguments]:
    b, s = d.size(), d.size()
    yield call(d.x(b, s), [1, 3])
    yield call(d.x(b, 1), [3, 2, 4])
    yield call(d.x(s), [2, 1])


def interleave(d: Draw) -> Iterator[Arguments]:
    b, k = d.size(), d.size()
    yield (d.x(b, k, 3), 2, 1), {"output_size": 2 * k}
    yield call(d.x(b, 1, 3), 4, -2)
    yield call(d.x(b, k), 1, 0)


def constrained(d: Draw) -> Iterator[Arguments]:
    yield call(d.x(*d.shape(3)), "[batch, seq@sp, hidden]")


def slices(d: Draw) -> Iterator[Arguments]:
    b, s = d.size(4, 7), d.size(4, 7)
    yield call(d.x(b, s, 3), 1, 1, -1)
    yield call(d.x(b, s, 3), 1, 0, 2**63 - 1)
    yield call(d.x(b, s, 3), -2, 0, s)
    yield call(d.x(b, s, 3), 1, 0, s, 2)


def slice_scatter(d: Draw) -> Iterator[Arguments]:
    b, s = d.size(), d.size(4, 7)
    yield call(d.x(b, s, 3), d.x(b, s - 2, 3), 1, 1, -1)
    yield call(d.x(b, s), d.x(b, 2), -1, 0, 4, 2)


def select_scatter(d: Draw) -> Iterator[Arguments]:
    b, s, h = d.shape(3)
    yield call(d.x(b, s, h), d.x(b, h), 1, -1)
    yield call(d.x(b, s, h), d.x(s, h), -3, 0)


def narrow(d: Draw) -> Iterator[Arguments]:
    b, s = d.size(4, 7), d.size(4, 7)
    yield call(d.x(b, s), 1, 1, 2)
    yield call(d.x(b, s), -1, 0, s)


def cat(d: Draw) -> Iterator[Arguments]:
    b, s = d.size(), d.size()
    yield call([d.x(b, s), d.x(b, 2), d.x(b, 3)], 1)
    yield call([d.x(b, s), d.x(b, s)], -2)


def stack(d: Draw) -> Iterator[Arguments]:
    b, s = d.size(), d.size()
    yield call([d.x(b, s), d.x(b, s), d.x(b, s)], -1)
    yield call([d.x(b, s), d.x(b, s)], 1)


def split_sizes(d: Draw) -> Iterator[Arguments]:
    yield call(d.x(d.size(), 6, 3), [2, 4], 1)
    yield call(d.x(5, d.size()), [1, 4])


def pad(*more: Any) -> Callable[[Draw], Iterator[Arguments]]:
    def make(d: Draw) -> Iterator[Arguments]:
        yield call(d.x(*d.shape(2)), [0, 1], *more)
        yield call(d.x(*d.shape(3)), [1, -1, 0, 0], *more)
        yield call(d.x(*d.shape(3)), [0, 0, 2, 1])

    return make


def permutation(*args: Any) -> Callable[[Draw], Iterator[Arguments]]:
    """Matrices, for operators that know two dims only."""
    return plain(*args, rank=2)


def shift(d: Draw) -> Iterator[Arguments]:
    yield call(d.x(*d.shape(3)), [1, 2], [0, -1])
    yield call(d.x(*d.shape(2)), [1])


def table(*groups: tuple[str, Callable[[Draw], Iterator[Arguments]]]) -> dict[str, Callable]:
    """Makers by operator name."""
    named = ((name, make) for names, make in groups for name in names.split())
    return {name if name.startswith("autosp.") else f"aten.{name}": make for name, make in named}


SHAPES = table(
    ("view.default _unsafe_view.default reshape.default", views),
    ("view_as.default reshape_as.default", like),
    ("unflatten.int", unflatten),
    ("flatten.using_ints", flatten),
    ("ravel.default", plain()),
    ("unsqueeze.default", plain(1)),
    ("squeeze.default", ones()),
    ("squeeze.dim", squeeze_dim),
    ("squeeze.dims", ones([1, -1])),
    ("transpose.int swapaxes.default swapdims.default", plain(1, -1)),
    ("permute.default", plain([2, 0, 1])),
    ("t.default", permutation()),
    ("numpy_T.default mT.default mH.default adjoint.default", plain()),
    ("movedim.int", plain(0, -1)),
    ("movedim.intlist", plain([0, 1], [1, 2])),
    ("expand.default", expand),
    ("broadcast_to.default", broadcast_to),
    ("expand_as.default", expand_as),
    ("repeat.default", repeat),
    ("repeat_interleave.self_int", interleave),
    ("slice.Tensor", slices),
    ("autosp.constrain.default", constrained),
    ("narrow.default", narrow),
    ("slice_scatter.default", slice_scatter),
    ("select_scatter.default", select_scatter),
    ("select.int", plain(1, -1)),
    ("cat.default concat.default", cat),
    ("stack.default", stack),
    ("split.Tensor unsafe_split.Tensor", plain(2, 1)),
    ("chunk.default unsafe_chunk.default tensor_split.sections", plain(2, -1)),
    ("split.sizes split_with_sizes.default", split_sizes),
    ("unbind.int", plain(1)),
    ("constant_pad_nd.default", pad(1.5)),
    ("pad.default", pad("constant", 1.5)),
    ("flip.default", plain([0, -1])),
    ("roll.default", shift),
    ("tril.default triu.default", plain(1)),
)
