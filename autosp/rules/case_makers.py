"""Arguments of operators whose rule alone does not state what they take. One maker an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .case_rare import RARE
from .case_shapes import SHAPES, table
from .draw import Arguments, Draw, call


def linear(d: Draw) -> Iterator[Arguments]:
    i, o = d.size(), d.size()
    yield call(d.x(*d.shape(2), i), d.x(o, i), d.x(o))
    yield call(d.x(d.size(), i), d.x(o, i))
    yield call(d.x(i), d.x(o, i), d.x(o))


def matmul(d: Draw) -> Iterator[Arguments]:
    m, k, n, b, h = (d.size() for _ in range(5))
    yield call(d.x(b, h, m, k), d.x(b, h, k, n))
    yield call(d.x(b, h, m, k), d.x(h, k, n))
    yield call(d.x(b, 1, m, k), d.x(1, h, k, n))
    yield call(d.x(b, m, k), d.x(k, n))
    yield call(d.x(m, k), d.x(b, k, n))
    yield call(d.x(b, m, k), d.x(k))
    yield call(d.x(k), d.x(b, k, n))
    yield call(d.x(k), d.x(k))


def attention(d: Draw) -> Iterator[Arguments]:
    b, k, g, s, t, e, v = d.size(2, 3), d.size(2, 4), 2, d.size(3, 6), d.size(3, 6), 4, 3
    q, kk, vv = d.x(b, k, s, e), d.x(b, k, t, e), d.x(b, k, t, v)
    yield call(q, kk, vv)
    yield call(q, kk, vv, d.x(b, k, s, t))
    yield call(q, kk, vv, d.x(b, 1, s, t), scale=0.3)
    yield call(q, kk, vv, d.x(s, t))
    yield call(q, d.x(b, k, s, e), d.x(b, k, s, v), None, 0.0, True)
    yield call(q, kk, vv, d.mask(b, 1, s, t) | (torch.arange(t) == 0))
    yield call(q, kk, vv, d.mask(b, k, 1, t) | (torch.arange(t) == 0))
    wide = d.x(b, k * g, s, e)
    yield call(wide, kk, vv, enable_gqa=True)
    yield call(wide, kk, vv, d.x(b, k * g, s, t), enable_gqa=True)
    yield call(wide, d.x(b, 1, t, e), d.x(b, 1, t, v), d.x(b, 1, s, t), enable_gqa=True)
    yield call(d.x(k, s, e), d.x(k, t, e), d.x(k, t, v), d.x(k, s, t))
    yield call(q, kk, vv, None, 0.5)


def cross_entropy(d: Draw) -> Iterator[Arguments]:
    n, c, s = d.size(4, 7), d.size(), d.size()
    flat = d.ids(c, n)
    flat[:2] = -100
    for reduction in (0, 2, 1):
        yield call(d.x(n, c), flat, None, reduction)
        yield call(d.x(n, c), flat, d.positive(c), reduction, -100, 0.1)
        yield call(d.x(n, c, s), d.ids(c, n, s), None, reduction)
        yield call(d.x(n, c), torch.softmax(d.x(n, c), -1), None, reduction)
        yield call(d.x(c), d.ids(c), None, reduction)


def nll(d: Draw) -> Iterator[Arguments]:
    n, c = d.size(4, 7), d.size()
    for reduction in (0, 2, 1):
        yield call(d.x(n, c), d.ids(c, n), None, reduction)
        yield call(d.x(n, c), d.ids(c, n), d.positive(c), reduction)


def pointwise_loss(values: Callable, targets: Callable) -> Callable[[Draw], Iterator[Arguments]]:
    def make(d: Draw) -> Iterator[Arguments]:
        shape = d.shape(2)
        for reduction in (0, 1, 2):
            yield (values(d, *shape), targets(d, *shape)), {"reduction": reduction}

    return make


def sign(d: Draw, *shape: int) -> torch.Tensor:
    return d.mask(*shape).float() * 2 - 1


def embedding(d: Draw) -> Iterator[Arguments]:
    v = d.size(4, 8)
    yield call(d.x(v, d.size()), d.ids(v, *d.shape(2)))
    yield call(d.x(v, d.size()), d.ids(v, d.size()), 1)
    yield call(d.x(v, d.size()), d.ids(2, d.size(5, 7)), -1, True)


def index(d: Draw) -> Iterator[Arguments]:
    b, s, h = d.size(), d.size(), d.size()
    i, j, n = d.size(), d.size(), d.size()
    yield call(d.x(b, s, h), [d.ids(b, i)])
    yield call(d.x(b, s, h), [None, d.ids(s, i, j)])
    yield call(d.x(b, s), [d.ids(b, n, 1, 1), d.ids(s, i, 1)])
    yield call(d.x(b, s, h), [d.ids(b, i), None, d.ids(h, i)])
    yield call(d.x(b, s, h), [None, d.ids(s, i, 1), d.ids(h, j)])
    yield call(d.x(b, s), [d.mask(b)])


def gather(d: Draw) -> Iterator[Arguments]:
    b, s, n = d.size(), d.size(), d.size()
    yield call(d.x(b, s), 1, d.ids(s, b, n))
    yield call(d.x(b, s, 3), -2, d.ids(s, b, n, 1))
    yield call(d.x(b, s), 1, d.ids(s, 1, n))
    yield call(d.x(b, s), 1, d.ids(s, b - 1, n))


def along(d: Draw) -> Iterator[Arguments]:
    b, s, n = d.size(), d.size(), d.size()
    yield call(d.x(b, s), d.ids(s, b, n), 1)
    yield call(d.x(b, s), d.ids(b, n, s), 0)


def index_select(d: Draw) -> Iterator[Arguments]:
    b, s = d.size(), d.size()
    yield call(d.x(b, s, 3), 1, d.ids(s, d.size()))
    yield call(d.x(b, s), 0, d.ids(b, d.size()))


def scatter(*last: Any) -> Callable[[Draw], Iterator[Arguments]]:
    """Distinct places: where two meet, `scatter` may keep either."""

    def make(d: Draw) -> Iterator[Arguments]:
        b, s = d.size(), d.size(4, 7)
        for rows in (b, b - 1):
            places = torch.stack([torch.randperm(s, generator=d.tensors)[:3] for _ in range(rows)])
            yield call(d.x(b, s), 1, places, *(last or (d.x(rows, 3),)))

    return make


def index_add(d: Draw) -> Iterator[Arguments]:
    b, s, n = d.size(), d.size(), d.size()
    yield call(d.x(b, s), 1, d.ids(s, n), d.x(b, n))
    yield call(d.x(b, s), 0, d.ids(b, n), d.x(n, s))


def scatter_reduce(d: Draw) -> Iterator[Arguments]:
    b, s, n = d.size(), d.size(), d.size()
    for reduce in ("sum", "mean", "amax"):
        yield call(d.distinct(b, s), 1, d.ids(s, b, n), d.distinct(b, n) * 3, reduce)


def take(d: Draw) -> Iterator[Arguments]:
    n = d.size()
    yield call(d.x(n), d.ids(n, *d.shape(2)))
    yield call(d.x(n, 2), d.ids(n, *d.shape(2)))


def batch_norm(d: Draw) -> Iterator[Arguments]:
    c = d.size()
    for shape in ([d.size(), c], [d.size(), c, d.size()]):
        kept = [d.x(c), d.positive(c)]
        yield call(d.x(*shape), d.x(c), d.x(c), *kept, False, 0.1, 1e-5, False)
        yield call(d.x(*shape), None, None, *kept, False, 0.1, 1e-5, False)


def one_hot(d: Draw) -> Iterator[Arguments]:
    yield call(d.ids(5, *d.shape(2)), 5)


def einsum(d: Draw) -> Iterator[Arguments]:
    b, i, j, k = (d.size() for _ in range(4))
    yield call("bij,bjk->bik", [d.x(b, i, j), d.x(b, j, k)])
    yield call("bij,jk", [d.x(b, i, j), d.x(j, k)])
    yield call("...ij,...j->...i", [d.x(b, k, i, j), d.x(k, j)])
    yield call("ij->ji", [d.x(i, j)])
    yield call("bi,bi->", [d.x(b, i), d.x(b, i)])
    yield call("ii->i", [d.x(i, i)])


def group_norm(d: Draw) -> Iterator[Arguments]:
    yield call(d.x(d.size(), 6, d.size()), 3, d.x(6), d.x(6))
    yield call(d.x(d.size(), 4, 3, 3), 2)


def normalized(*more: Any) -> Callable[[Draw], Iterator[Arguments]]:
    """A normalisation over trailing dims; `more` are whether there is a bias, then what follows."""
    biased, *rest = more

    def make(d: Draw) -> Iterator[Arguments]:
        for n in (1, 2):
            shape = d.shape(3)
            tail = shape[-n:]
            yield call(d.x(*shape), tail, d.x(*tail), *([d.x(*tail)] if biased else []), *rest)
            yield call(d.x(*shape), tail, None, *([None] if biased else []), *rest)

    return make


def conv(rank: int) -> Callable[[Draw], Iterator[Arguments]]:
    """A convolution over `rank` dims, with and without groups, bias and batch."""

    def make(d: Draw) -> Iterator[Arguments]:
        space, kernel = [6, 5][:rank], [3, 2][:rank]
        c, o = d.size(), d.size()
        yield call(d.x(d.size(), c, *space), d.x(o, c, *kernel), d.x(o))
        yield call(d.x(d.size(), 4, *space), d.x(4, 2, *kernel), d.x(4), [1], [0], [1], 2)
        yield call(d.x(c, *space), d.x(o, c, *kernel))

    return make


def conv_padding(rank: int) -> Callable[[Draw], Iterator[Arguments]]:
    """As `conv`, the padding by name."""

    def make(d: Draw) -> Iterator[Arguments]:
        for args, _ in conv(rank)(d):
            yield call(*args[:3], *([None] if len(args) < 3 else []), [1], "valid", [1], *args[6:])

    return make


def prelu(d: Draw) -> Iterator[Arguments]:
    c = d.size()
    yield call(d.x(d.size(), c, d.size()), d.x(c))
    yield call(d.x(d.size(), c), d.x(1))


def clamp(d: Draw) -> Iterator[Arguments]:
    shape = d.shape(2)
    yield call(d.x(*shape), d.x(*shape) - 1, d.x(shape[1]) + 1)
    yield call(d.x(*shape), None, d.x(*shape))


def glu(d: Draw) -> Iterator[Arguments]:
    yield call(d.x(*d.shape(2), 6))
    yield call(d.x(d.size(), 4, 3), 1)


def new(*more: Any) -> Callable[[Draw], Iterator[Arguments]]:
    def make(d: Draw) -> Iterator[Arguments]:
        yield call(d.x(d.size()), d.shape(2), *more)

    return make


def only(*calls: Arguments) -> Callable[[Draw], Iterator[Arguments]]:
    """Fixed calls."""
    return lambda d: iter(calls)


def dropout(d: Draw) -> Iterator[Arguments]:
    for p, train in ((0.0, True), (0.5, False), (0.5, True)):
        yield call(d.x(*d.shape(3)), p, train)


def top(d: Draw) -> Iterator[Arguments]:
    yield call(d.distinct(d.size(), 5), 3)
    yield call(d.distinct(5, d.size(), 3), 2, 0)


def diff(d: Draw) -> Iterator[Arguments]:
    b, s = d.size(), d.size(4, 7)
    yield call(d.x(b, s))
    yield call(d.x(b, s), 1, -1, d.x(b, 1))
    yield call(d.x(b, s), 1, 0, d.x(2, s), d.x(1, s))


def pairs(d: Draw) -> Iterator[Arguments]:
    """Real pairs that are complex numbers."""
    for rank in (0, 1, 3):
        yield call(d.x(*d.shape(rank), 2))


def numbers(*rest: Any) -> Callable[[Draw], Iterator[Arguments]]:
    """Complex numbers, then `rest`."""

    def make(d: Draw) -> Iterator[Arguments]:
        for rank in (2, 0, 3):
            yield call(d.complex(*d.shape(rank)), *rest)

    return make


def bits(d: Draw) -> Iterator[Arguments]:
    """The same bits as elements of the same size, smaller and larger ones."""
    b, s = d.size(), d.size()
    yield call(d.x(b, s), torch.int32)
    yield call(d.x(b, s), torch.bfloat16)
    yield call(d.x(b, s, 4), torch.complex64)
    yield call(d.complex(b, s), torch.float32)
    yield call(d.x(b, s).to(torch.bfloat16), torch.float16)
    yield call(d.ids(7, b, s).to(torch.uint8), torch.float8_e4m3fn)


MAKERS = SHAPES | table(
    ("view_as_complex.default", pairs),
    ("view_as_real.default imag.default _conj.default", numbers()),
    ("view.dtype", bits),
    ("linear.default", linear),
    ("matmul.default", matmul),
    ("einsum.default", einsum),
    ("scaled_dot_product_attention.default", attention),
    ("cross_entropy_loss.default", cross_entropy),
    ("nll_loss.default nll_loss_nd.default", nll),
    ("mse_loss.default l1_loss.default smooth_l1_loss.default huber_loss.default", pointwise_loss(Draw.x, Draw.x)),
    ("kl_div.default", pointwise_loss(Draw.x, Draw.positive)),
    ("soft_margin_loss.default", pointwise_loss(Draw.x, sign)),
    ("binary_cross_entropy.default", pointwise_loss(Draw.positive, Draw.positive)),
    ("binary_cross_entropy_with_logits.default", pointwise_loss(Draw.x, Draw.positive)),
    ("embedding.default", embedding),
    ("index.Tensor", index),
    ("gather.default", gather),
    ("take_along_dim.default", along),
    ("index_select.default", index_select),
    ("scatter.src scatter_add.default", scatter()),
    ("scatter.value", scatter(0)),
    ("index_add.default", index_add),
    ("scatter_reduce.two", scatter_reduce),
    ("take.default", take),
    ("batch_norm.default", batch_norm),
    ("one_hot.default", one_hot),
    ("group_norm.default", group_norm),
    ("layer_norm.default", normalized(True)),
    ("native_layer_norm.default", normalized(True, 1e-5)),
    ("rms_norm.default", normalized(False)),
    ("conv1d.default", conv(1)),
    ("conv2d.default", conv(2)),
    ("conv1d.padding", conv_padding(1)),
    ("conv2d.padding", conv_padding(2)),
    ("prelu.default", prelu),
    ("clamp.Tensor clip.Tensor", clamp),
    ("glu.default", glu),
    ("topk.default", top),
    ("diff.default", diff),
    ("new_zeros.default new_ones.default new_empty.default", new()),
    ("new_full.default", new(2.5)),
    ("dropout.default native_dropout.default", dropout),
)
MAKERS |= RARE
