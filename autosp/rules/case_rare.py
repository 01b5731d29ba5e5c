"""Arguments of the library's rarer operators: pools, resizes, linear algebra, losses, order statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from .case_shapes import table
from .draw import Arguments, Draw, call

Case = Callable[[Draw], Arguments]


def calls(*cases: Case) -> Callable[[Draw], Iterator[Arguments]]:
    """One call a case."""
    return lambda d: (case(d) for case in cases)


def square(d: Draw, *batch: int, n: int = 4) -> torch.Tensor:
    """Well-conditioned square matrices."""
    return d.x(*batch, n, n) * 0.3 + 2 * torch.eye(n)


def positive_definite(d: Draw, *batch: int, n: int = 4) -> torch.Tensor:
    half = d.x(*batch, n, n) * 0.3
    return half @ half.mT + torch.eye(n)


def matrices(*args, make: Callable = square) -> Callable[[Draw], Iterator[Arguments]]:
    """Square matrices, one and in batches, then `args`."""
    return calls(
        lambda d: call(make(d), *args),
        lambda d: call(make(d, d.size()), *args),
        lambda d: call(make(d, d.size(), d.size()), *args),
    )


def space(rank: int, *args, ranks: tuple[int, ...] = (2, 1), make: Callable = Draw.x) -> Callable:
    """Images of `rank` dims, with and without a batch, then `args`."""
    sizes = [6, 7, 5][:rank]
    return calls(*(lambda d, n=n: call(make(d, *d.shape(n), *sizes), *args) for n in ranks))


def unpool(rank: int, *more) -> Callable[[Draw], Iterator[Arguments]]:
    """Values and distinct places in a space of twice the size."""

    def make(d: Draw) -> Iterator[Arguments]:
        b, c, n = d.size(), d.size(), 3**rank
        places = torch.stack([torch.randperm(2**rank * n, generator=d.tensors)[:n] for _ in range(b * c)])
        shape = [b, c, *[3] * rank]
        yield call(d.x(*shape), places.reshape(shape), [6] * rank, *more)

    return make


def grid(rank: int) -> Callable[[Draw], Iterator[Arguments]]:
    def make(d: Draw) -> Iterator[Arguments]:
        b, out = d.size(), d.shape(rank)
        yield call(d.x(b, d.size(), *[5, 4, 6][:rank]), d.positive(b, *out, rank) * 1.8 - 0.9, 0, 0, False)

    return make


def losses(*operands: Callable, count: int, more: tuple = ()) -> Callable[[Draw], Iterator[Arguments]]:
    """Operands of one drawn shape, then `more` arguments, then each reduction."""

    def make(d: Draw) -> Iterator[Arguments]:
        for reduction in (0, 1, 2):
            shape = d.shape(count)
            yield (tuple(o(d, *shape) for o in operands) + more + (reduction,)), {}

    return make


def sign(d: Draw, *shape: int) -> torch.Tensor:
    return d.mask(*shape).float() * 2 - 1


def row_sign(d: Draw, n: int, c: int) -> torch.Tensor:
    return sign(d, n)


def index_fill(value: Callable[[Draw], object]) -> Callable[[Draw], Iterator[Arguments]]:
    return calls(
        lambda d: call(d.x(5, d.size()), 0, torch.tensor([3, 1]), value(d)),
        lambda d: call(d.x(d.size(), 6), -1, torch.tensor([5, 0, 2]), value(d)),
    )


def positive_ids(d: Draw, *shape: int) -> torch.Tensor:
    return d.ids(9, *shape) + 1


def sorted_row(d: Draw, *shape: int) -> torch.Tensor:
    return d.x(*shape).sort(-1).values


def conv_transposed(rank: int) -> Callable[[Draw], Iterator[Arguments]]:
    def make(d: Draw) -> Iterator[Arguments]:
        sizes, kernel, c, o = [5, 4, 3][:rank], [3, 2, 2][:rank], d.size(), d.size()
        yield call(d.x(d.size(), c, *sizes), d.x(c, o, *kernel), d.x(o))
        yield call(d.x(c, *sizes), d.x(c, o, *kernel))

    return make


def conv3(*padding: str) -> Callable[[Draw], Iterator[Arguments]]:
    def make(d: Draw) -> Iterator[Arguments]:
        c, o = d.size(), d.size()
        yield call(d.x(d.size(), c, 5, 4, 4), d.x(o, c, 3, 2, 2), d.x(o), [1], *padding)
        yield call(d.x(c, 5, 4, 4), d.x(o, c, 3, 2, 2), None, [1], *padding)

    return make


RARE = table(
    ("avg_pool1d.default", space(1, [2])),
    ("avg_pool2d.default", space(2, [2, 3], [1, 2])),
    ("avg_pool3d.default", space(3, [2])),
    ("adaptive_avg_pool1d.default", space(1, [3])),
    ("adaptive_avg_pool2d.default", space(2, [2, 3])),
    ("adaptive_avg_pool3d.default", space(3, [2, 3, 1])),
    ("max_pool1d.default max_pool1d_with_indices.default", space(1, [2], make=Draw.distinct)),
    ("max_pool2d.default max_pool2d_with_indices.default", space(2, [2, 3], make=Draw.distinct)),
    ("max_pool3d.default max_pool3d_with_indices.default", space(3, [2], make=Draw.distinct)),
    ("adaptive_max_pool1d.default", space(1, [3], make=Draw.distinct)),
    ("adaptive_max_pool2d.default", space(2, [2, 3], make=Draw.distinct)),
    ("adaptive_max_pool3d.default", space(3, [2, 3, 1], make=Draw.distinct)),
    ("max_unpool2d.default", unpool(2)),
    ("max_unpool3d.default", unpool(3, [2, 2, 2], [0, 0, 0])),
    ("upsample_nearest1d.default", space(1, [9], ranks=(2,))),
    ("upsample_linear1d.default", space(1, [9], False, ranks=(2,))),
    ("upsample_nearest2d.default", space(2, [9, 4], ranks=(2,))),
    ("upsample_bilinear2d.default upsample_bicubic2d.default", space(2, [9, 4], True, ranks=(2,))),
    ("upsample_nearest3d.default", space(3, [9, 4, 8], ranks=(2,))),
    ("upsample_trilinear3d.default", space(3, [9, 4, 8], False, ranks=(2,))),
    ("upsample_nearest1d.vec _upsample_nearest_exact1d.vec", space(1, [9], None, ranks=(2,))),
    ("upsample_linear1d.vec", space(1, [9], False, None, ranks=(2,))),
    ("upsample_nearest2d.vec _upsample_nearest_exact2d.vec", space(2, None, [1.5, 2.0], ranks=(2,))),
    ("upsample_bilinear2d.vec upsample_bicubic2d.vec _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec",
     space(2, [9, 4], False, None, ranks=(2,))),
    ("upsample_nearest3d.vec _upsample_nearest_exact3d.vec", space(3, None, [2.0, 1.0, 1.5], ranks=(2,))),
    ("upsample_trilinear3d.vec", space(3, [9, 4, 8], True, None, ranks=(2,))),
    ("grid_sampler.default", lambda d: (c for rank in (2, 3) for c in grid(rank)(d))),
    ("grid_sampler_2d.default", grid(2)),
    ("grid_sampler_3d.default", grid(3)),
    ("reflection_pad1d.default replication_pad1d.default", space(1, [2, 0])),
    ("reflection_pad2d.default replication_pad2d.default", space(2, [0, 0, 2, 1])),
    ("reflection_pad3d.default replication_pad3d.default", space(3, [0, 0, 2, 1, 0, 0])),
    ("im2col.default", calls(lambda d: call(d.x(d.size(), 3, 5, 4), [2, 2], [1, 1], [0, 0], [1, 1]))),
    ("col2im.default", calls(lambda d: call(d.x(d.size(), 12, 12), [5, 4], [2, 2], [1, 1], [0, 0], [1, 1]))),
    ("channel_shuffle.default", calls(lambda d: call(d.x(d.size(), 6, d.size()), 2))),
    ("conv3d.default", conv3()),
    ("conv3d.padding", conv3("valid")),
    ("conv_transpose1d.default", conv_transposed(1)),
    ("conv_transpose2d.input", conv_transposed(2)),
    ("conv_transpose3d.input", conv_transposed(3)),
    ("conv_tbc.default", calls(lambda d: call(d.x(6, d.size(), 3), d.x(2, 3, 4), d.x(4), 1))),
    # linear algebra
    ("matrix_exp.default linalg_matrix_exp.default inverse.default linalg_inv.default det.default linalg_det.default "
     "logdet.default slogdet.default linalg_slogdet.default", matrices()),
    ("matrix_power.default linalg_matrix_power.default", matrices(3)),
    ("cholesky.default linalg_cholesky.default", matrices(make=positive_definite)),
    ("linalg_matrix_norm.default", matrices(1)),
    ("linalg_matrix_norm.str_ord", matrices("fro")),
    ("nuclear_norm.dim", matrices([-2, -1])),
    ("linalg_solve_triangular.default", calls(
        lambda d: call(square(d, 3).triu(), d.x(3, 4, d.size()), upper=True),
        lambda d: call(square(d).triu(), d.x(d.size(), 4), upper=True, left=False),
        lambda d: call(square(d).triu(), d.x(3, 4, d.size()), upper=True))),
    ("linalg_matmul.default", calls(
        lambda d: call(d.x(3, 5, 4), d.x(3, 4, d.size())), lambda d: call(d.x(d.size(), 4), d.x(4)))),
    ("inner.default", calls(lambda d: call(d.x(d.size(), 5), d.x(d.size(), 5)), lambda d: call(d.x(5), d.x(5)),
                            lambda d: call(d.x(2, 3, 5), d.x(4, 5)))),
    ("bilinear.default", calls(
        lambda d: call(d.x(3, 5, 4), d.x(3, 5, 2), d.x(6, 4, 2), d.x(6)),
        lambda d: call(d.x(d.size(2, 2), 4), d.x(2, 3), d.x(5, 4, 3)))),
    ("cross.default", calls(lambda d: call(d.x(d.size(), 3), d.x(1, 3), 1), lambda d: call(d.x(3, 5), d.x(3, 5), 0))),
    ("linalg_cross.default", calls(lambda d: call(d.x(d.size(), 3), d.x(1, 3)))),
    ("pairwise_distance.default", calls(
        lambda d: call(d.x(3, d.size(), 4), d.x(3, 1, 4)), lambda d: call(d.x(d.size(), 4), d.x(4), 2.0, 1e-6, True))),
    # losses
    ("hinge_embedding_loss.default", losses(Draw.x, sign, count=2, more=(1.0,))),
    ("poisson_nll_loss.default", losses(Draw.x, Draw.positive, count=2, more=(True, False, 1e-8))),
    ("margin_ranking_loss.default", losses(Draw.x, Draw.x, sign, count=2, more=(0.1,))),
    ("cosine_embedding_loss.default", lambda d: (
        *losses(Draw.x, Draw.x, row_sign, count=2, more=(0.1,))(d), call(d.x(4), d.x(4), torch.tensor(1.0)))),
    ("triplet_margin_loss.default", lambda d: (
        *losses(Draw.x, Draw.x, Draw.x, count=2, more=(1.0, 2.0, 1e-6, False))(d), call(d.x(4), d.x(4), d.x(4)))),
    # looking up
    ("index_fill.int_Scalar", lambda d: (*index_fill(lambda d: 0)(d), *index_fill(lambda d: 1.5)(d))),
    ("index_fill.int_Tensor", index_fill(lambda d: d.x())),
    ("index_copy.default", calls(
        lambda d: call(d.x(5, 4), 0, torch.tensor([3, 1]), d.x(2, 4)),
        lambda d: call(d.x(d.size(2, 2), 6), 1, torch.tensor([5, 0, 2]), d.x(2, 3)))),
    ("index_reduce.default", calls(
        lambda d: call(d.distinct(5, 4), 0, torch.tensor([3, 1]), d.distinct(2, 4) * 3, "amax"),
        lambda d: call(d.x(2, 6), 1, torch.tensor([5, 0, 2]), d.x(2, 3), "mean"))),
    ("isin.Tensor_Tensor", calls(
        lambda d: call(d.ids(9, *d.shape(2)), d.ids(9, 5)), lambda d: call(d.ids(9, 4), d.ids(9, 2, 3)))),
    ("bucketize.Tensor", calls(lambda d: call(d.x(*d.shape(2)), sorted_row(d, 5)))),
    ("searchsorted.Tensor", calls(
        lambda d: call(sorted_row(d, 5), d.x(*d.shape(2))), lambda d: call(sorted_row(d, 3, 5), d.x(3, d.size())),
        lambda d: call(sorted_row(d, 3, 5), d.x(3, 4), right=True))),
    ("multinomial.default", calls(lambda d: call(d.positive(d.size(), 6), 3), lambda d: call(d.positive(6), 2))),
    # dims
    ("unfold.default", calls(lambda d: call(d.x(d.size(), 7, 3), 1, 3, 1), lambda d: call(d.x(8, d.size()), -2, 4, 2))),
    ("diagonal.default", calls(lambda d: call(d.x(d.size(), 4, 5), 1, -2, -1), lambda d: call(d.x(4, 4, 3)),
        lambda d: call(d.x(4, 3, 4), 0, 0, 2))),
    ("linalg_diagonal.default", calls(
        lambda d: call(d.x(3, 4, 5), offset=-1), lambda d: call(d.x(4, 4, 3), dim1=0, dim2=1))),
    ("diag_embed.default", calls(lambda d: call(d.x(d.size(), 4), 1), lambda d: call(d.x(d.size(), 4), 0, 0, 1))),
    ("diagonal_scatter.default", calls(
        lambda d: call(d.x(3, 4, 4), d.x(3, 4), 0, -2, -1), lambda d: call(d.x(4, 4, 3), d.x(3, 4)),
        lambda d: call(d.x(4, 3, 4), d.x(3, 4), 0, 0, 2))),
    ("rot90.default", calls(lambda d: call(d.x(*d.shape(3)), 1, [0, 2]), lambda d: call(d.x(*d.shape(2)), 2))),
    ("moveaxis.int", calls(lambda d: call(d.x(*d.shape(3)), 0, -1))),
    ("moveaxis.intlist", calls(lambda d: call(d.x(*d.shape(3)), [0, 1], [1, 2]))),
    ("atleast_1d.default atleast_2d.default atleast_3d.default", calls(
        lambda d: call(d.x(*d.shape(1))), lambda d: call(d.x(*d.shape(2))), lambda d: call(d.x(*d.shape(4))))),
    ("tile.default", calls(lambda d: call(d.x(d.size(), d.size()), [3]), lambda d: call(d.x(d.size(), 1), [3, 2, 4]))),
    ("tensor_split.indices", calls(lambda d: call(d.x(d.size(), 7), [2, 5], -1))),
    ("unsafe_split_with_sizes.default", calls(lambda d: call(d.x(d.size(), 7), [2, 5], -1))),
    ("hsplit.int", calls(lambda d: call(d.x(6), 2), lambda d: call(d.x(d.size(), 6, d.size()), 2))),
    ("hsplit.array", calls(lambda d: call(d.x(6), [2, 5]), lambda d: call(d.x(d.size(), 6), [2, 5]))),
    ("vsplit.int", calls(lambda d: call(d.x(6, d.size()), 2))),
    ("vsplit.array", calls(lambda d: call(d.x(6, d.size()), [2, 5]))),
    ("dsplit.int", calls(lambda d: call(d.x(d.size(), d.size(), 6), 2))),
    ("dsplit.array", calls(lambda d: call(d.x(d.size(), d.size(), 6), [2, 5]))),
    ("narrow.Tensor", calls(lambda d: call(d.x(d.size(), 6), 1, torch.tensor(2), 3))),
    # norms and random numbers
    ("linalg_norm.default", calls(
        lambda d: call(d.x(*d.shape(3)), 2, [-1]), lambda d: call(d.x(3, 4, 5), None, [0, 2], True))),
    ("linalg_norm.ord_str", calls(lambda d: call(d.x(d.size(), 4, 5), "fro", [-2, -1]))),
    ("frobenius_norm.dim", calls(
        lambda d: call(d.x(d.size(), 4, 5), [-2, -1]), lambda d: call(d.x(5, d.size()), [0], True))),
    ("norm.ScalarOpt_dim_dtype", calls(
        lambda d: call(d.x(*d.shape(3)), 2, [1], True, dtype=torch.float64),
        lambda d: call(d.x(*d.shape(3)), 1, [0, 2], False, dtype=torch.float64))),
    ("norm.ScalarOpt_dtype", calls(lambda d: call(d.x(*d.shape(2)), 2, dtype=torch.float64))),
    ("trace.default", calls(lambda d: call(d.x(*d.shape(2))))),
    ("gcd.default lcm.default", calls(
        lambda d: call(positive_ids(d, 3, 4), positive_ids(d, 3, 1)),
        lambda d: call(positive_ids(d, 4), positive_ids(d, 3, 4)))),
    ("alpha_dropout.default", calls(*(lambda d, t=t: call(d.x(*d.shape(3)), 0.5, t) for t in (False, True)))),
    ("feature_dropout.default feature_alpha_dropout.default",
     calls(*(lambda d, t=t: call(d.x(*d.shape(4)), 0.5, t) for t in (False, True)))),
    ("rrelu.default", calls(*(lambda d, t=t: call(d.x(*d.shape(3)), 0.1, 0.3, t) for t in (False, True)))),
    ("randint_like.Tensor", calls(lambda d: call(d.x(*d.shape(2)), torch.tensor(9)))),
    ("randint_like.Tensor_generator", calls(lambda d: call(d.x(*d.shape(2)), torch.tensor(9), generator=None))),
    ("randint_like.low_dtype", calls(lambda d: call(d.x(*d.shape(2)), 0, 9))),
    ("randint_like.low_generator_dtype", calls(lambda d: call(d.x(*d.shape(2)), 0, 9, generator=None))),
)  # fmt: skip
