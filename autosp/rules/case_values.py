"""What values a drawn call takes where normal ones would be outside an operator's domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .draw import Draw


def _ints(d: Draw, *shape: int) -> torch.Tensor:
    return d.ids(6, *shape) + 1


def _family(kinds: str, make: Callable) -> dict[Any, Callable]:
    return {f"aten.{name}": make for name in kinds.split()}


def _same(value: Any) -> Callable[[Draw, list[int]], Any]:
    return lambda d, pack: value


SHIFTED = ("Tensor", "Tensor_Scalar", "Scalar_Tensor")
BITWISE = "__and__ __or__ __xor__ bitwise_and bitwise_or bitwise_xor"

# How the values of an operator's tensors are drawn, where normal ones are outside its domain.
VALUES: dict[Any, Callable] = {
    **_family(
        "log.default log1p.default log2.default log10.default logit.default sqrt.default rsqrt.default asin.default "
        "acos.default atanh.default lgamma.default reciprocal.default cumprod.default prod.dim_int prod.default "
        "pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar fmod.Tensor remainder.Tensor div.Tensor div.Tensor_mode "
        "divide.Tensor true_divide.Tensor floor_divide.default xlogy.Tensor addcdiv.default atan2.default "
        "poisson.default _standard_gamma.default bernoulli.Tensor normal.float_Tensor normal.Tensor_Tensor "
        "igamma.default igammac.default "
        "special_gammainc.default special_gammaincc.default special_zeta.other_scalar float_power.Tensor_Tensor "
        "float_power.Tensor_Scalar float_power.Scalar divide.Tensor_mode "
        "hypot.default binary_cross_entropy.default kl_div.default bernoulli.default tan.default logcumsumexp.default",
        Draw.positive,
    ),
    **_family(
        "max.dim min.dim median.dim max.default min.default median.default amax.default amin.default sort.default "
        "sort.stable topk.default argsort.default argsort.stable argmax.default argmin.default cummax.default "
        "cummin.default",
        Draw.distinct,
    ),
    **_family(" ".join(f"{b}.Tensor {b}.Scalar" for b in BITWISE.split()), _ints),
    **_family(" ".join(f"__{d}shift__.{o}" for d in "lr" for o in ("Scalar", "Tensor")), _ints),
    **_family(" ".join(f"bitwise_{d}_shift.{o}" for d in ("left", "right") for o in SHIFTED), _ints),
    **_family(" ".join(f"{b}.Scalar_Tensor" for b in BITWISE.split()[3:]), _ints),
    **_family("not_equal.Tensor not_equal.Scalar", _ints),
    **_family("max.other min.other aminmax.default kthvalue.default nanmedian.dim msort.default", Draw.distinct),
    **_family("acosh.default arccosh.default special_zeta.default special_zeta.self_scalar mvlgamma.default "
              "special_multigammaln.default", lambda d, *s: d.positive(*s) + 1.5),
    **_family("binomial.default", Draw.positive),
    ("aten.binomial.default", "count"): lambda d, *shape: _ints(d, *shape).float() * 4,
    **_family("bitwise_not.default count_nonzero.default floor_divide.Scalar", _ints),
    **_family("eq.Tensor ne.Tensor eq.Scalar ne.Scalar", _ints),
    **_family("logical_and.default logical_or.default logical_xor.default logical_not.default any.default all.default "
              "any.dim all.dim any.dims all.dims", Draw.mask),
    **{(f"aten.where.{n}", "condition"): Draw.mask for n in ("self", "ScalarOther", "ScalarSelf", "Scalar")},
    ("aten.masked_fill.Scalar", "mask"): Draw.mask,
    ("aten.masked_fill.Tensor", "mask"): Draw.mask,
    ("aten.masked_fill.Tensor", "value"): lambda d, *shape: d.x(),
    ("aten.binary_cross_entropy_with_logits.default", "target"): Draw.positive,
    ("aten.soft_margin_loss.default", "target"): lambda d, *s: d.mask(*s).float() * 2 - 1,
}  # fmt: skip

# Values of arguments that are no tensors: by operator and name, or by name alone.
FILL: dict[Any, Callable[[Draw, list[int]], Any]] = {
    "normalized_shape": lambda d, pack: pack[-d.pick(1, 2) :],
    "half_to_float": _same(False),
    "negative_slope": _same(0.1),
    "exponent": lambda d, pack: d.pick(2, 3, 0.5, -1),
    "rounding_mode": lambda d, pack: d.pick("floor", "trunc"),
    "split_size": _same(2),
    "chunks": _same(2),
    "sections": _same(2),
    "shifts": _same([1]),
    "k": _same(1),
    "stable": _same(True),
    "reduction": lambda d, pack: d.pick(0, 1, 2),
    "fill_value": _same(3.5),
    "index": _same(-1),
    "weight": _same(0.3),
    "value": lambda d, pack: d.pick(0, 1.5),
    "threshold": _same(0.1),
    "correction": lambda d, pack: d.pick(0, 1),
    "p": _same(2),
    "eps": _same(1e-5),
    "dtype": lambda d, pack: None,
    ("aten.to.dtype", "dtype"): lambda d, pack: d.pick(torch.float64, torch.float32, torch.int64),
    ("aten.to.device", "dtype"): _same(torch.float64),
    ("aten.to.device", "device"): _same(torch.device("cpu")),
    ("aten.bernoulli.p", "p"): _same(0.5),
    ("aten.geometric.default", "p"): _same(0.5),
    **{
        (f"aten.bitwise_{n}.Scalar_Tensor", "self"): _same(2) for n in ("and", "or", "xor", "left_shift", "right_shift")
    },
    ("aten.rms_norm.default", "eps"): _same(1e-5),
    ("aten.logit.default", "eps"): _same(None),
    ("aten.binary_cross_entropy.default", "weight"): _same(None),
    ("aten.pow.Scalar", "self"): _same(1.5),
    ("aten.where.Scalar", "self"): _same(-1.0),
    ("aten.where.ScalarSelf", "self"): lambda d, pack: d.pick(0.0, 3.0),
    ("aten.where.Scalar", "other"): _same(2.0),
    ("aten.where.ScalarOther", "other"): lambda d, pack: d.pick(0.0, -1e4),
    ("aten.cumsum.default", "dtype"): _same(None),
    "other": lambda d, pack: 2,
    ("aten.count_nonzero.default", "dim"): _same(None),
    "min": _same(-0.5),
    "max": _same(0.5),
    "train": lambda d, pack: d.pick(True, False),
}

# Operators that are tried on complex numbers too: those that models by complex numbers are made of.
COMPLEX = frozenset(
    f"aten.{name}"
    for name in (
        "add.Tensor sub.Tensor mul.Tensor div.Tensor rsub.Tensor mul.Scalar add.Scalar neg.default exp.default "
        "square.default reciprocal.default abs.default angle.default real.default conj.default "
        "conj_physical.default _conj_physical.default resolve_conj.default resolve_neg.default "
        "_neg_view.default sgn.default pow.Tensor_Scalar sin.default cos.default log.default where.self addcmul.default "
        "clone.default contiguous.default alias.default detach.default expand.default view.default reshape.default "
        "unsqueeze.default squeeze.dim transpose.int permute.default flatten.using_ints unflatten.int slice.Tensor "
        "select.int index.Tensor cat.default stack.default split.Tensor unbind.int chunk.default repeat.default "
        "adjoint.default mH.default sum.default sum.dim_IntList mean.default mean.dim einsum.default matmul.default "
        "bmm.default mm.default linear.default zeros_like.default ones_like.default"
    ).split()
)

# No real values beside complex ones: no promotion, or (`where`) a backward that lacks it.
ONE_DTYPE = frozenset(
    f"aten.{name}" for name in "linear.default matmul.default bmm.default mm.default einsum.default where.self".split()
)

# Operands that an operator has no derivative for, though they are floating.
CONSTANT: dict[str, tuple[str, ...]] = {
    "aten.cross_entropy_loss.default": ("weight",),
    "aten.nll_loss.default": ("weight",),
    "aten.nll_loss_nd.default": ("weight",),
    "aten.soft_margin_loss.default": ("target",),
    "aten.floor_divide.default": ("self", "other"),
    "aten.bernoulli.p": ("self",),
    "aten.bernoulli.Tensor": ("self", "p"),
    "aten.binomial.default": ("count", "prob"),
    "aten.heaviside.default": ("self", "values"),
    "aten.igamma.default": ("self",),
    "aten.igammac.default": ("self",),
    "aten.special_gammainc.default": ("self",),
    "aten.special_gammaincc.default": ("self",),
    "aten.special_zeta.default": ("self", "other"),
    "aten.special_zeta.other_scalar": ("self",),
    "aten.special_zeta.self_scalar": ("other",),
    "aten.remainder.Scalar_Tensor": ("other",),
    "aten.normal_functional.default": ("self",),
    "aten.multinomial.default": ("self",),
    "aten.hinge_embedding_loss.default": ("target",),
    "aten.margin_ranking_loss.default": ("target",),
    "aten.cosine_embedding_loss.default": ("target",),
    "aten.batch_norm.default": ("running_mean", "running_var"),
    **dict.fromkeys(
        (
            f"aten.randint_like.{n}"
            for n in "default generator low_dtype low_generator_dtype Tensor Tensor_generator".split()
        ),
        ("self",),
    ),
}

# Operators whose results are not determined: only shapes are compared.
UNDETERMINED = frozenset({"aten.empty_like.default", "aten.new_empty.default"})
