"""DTensor as a second witness: every split of one axis that it allows is one of ours, or is listed here.

Only DTensor's propagation is asked, on a fake process group; nothing is computed or sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor._op_schema import OpSchema
from torch.testing._internal.distributed.fake_pg import FakeStore

from autosp.compat.tested import release
from autosp.rules import Projection, tensor_args, tensor_results
from autosp.rules.book import shipped_rules
from autosp.rules.call import resolve
from autosp.rules.cases import cases_of
from autosp.rules.strategies import project, splittable
from autosp.sharding import PARTIAL, Split

CALLS = 5  # of each operator
RANKS = 2
REDUCTIONS = ("sum", "avg", "max", "min", "product")

NOT_A_SUM = "partial sums are the only partial values there are: they alone have a gradient that is known"
COUNT = "a mean of local means is the sum of local means over the global count only where shards are even: ours sums"
LENT = "the operand lends its dtype alone and may lie anywhere; a rule knows no operand whose layout does not matter"
SCANNED = "DTensor takes it for pointwise and carries nothing from shard to shard: the result would be wrong"
KEPT = "DTensor numbers the result's dims as if keepdim were off"
SHORT = "an index of fewer rows than its source is cut at other rows: the shards do not meet"
EMPTY = "the operator refuses a tensor without channels, which a rank of a small model may hold"
PLACES = "a rule names the first two dims or the last two: of any others nothing is split"
WIDTHS = "a dtype of another width joins or parts the values of the last dim: a shard may end within one"
BATCHED = "DTensor lets one operand's batch lie whole beside the other's shard: the local call fails"
ONE = "DTensor cuts a dim of size 1 that the other operand's broadcasts: a rank holds none of it"
COUNTED = "scale_grad_by_freq counts the ids of the whole batch: a shard's count is another"

CHANNELS = (
    "adaptive_avg_pool1d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d upsample_bicubic2d "
    "upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d"
)

# Splits that DTensor allows and no rule of ours does: by operator, what the result then is, and why.
DIFFERENT = {
    **{f"aten.{n}": ("partial product", NOT_A_SUM) for n in ("all.default", "all.dim", "prod.default", "prod.dim_int")},
    **{f"aten.{n}": ("partial max", NOT_A_SUM) for n in ("amax.default", "max.default")},
    **{f"aten.{n}": ("partial min", NOT_A_SUM) for n in ("amin.default", "min.default")},
    **{f"aten.{n}": ("partial sum", NOT_A_SUM) for n in ("any.default", "any.dim", "any.dims")},
    "aten.linalg_vector_norm.default": ("partial sum", NOT_A_SUM),
    **{f"aten.{n}": ("partial avg", COUNT) for n in ("mean.default", "mean.dim")},
    **{f"aten.new_{n}.default": ("whole", LENT) for n in ("empty", "full", "ones", "zeros")},
    **{f"aten.{n}.default": ("split", SCANNED) for n in ("cumprod", "logcumsumexp")},
    "aten.logsumexp.default": ("split", KEPT),
    "aten.embedding.default": ("split", COUNTED),
    "aten.gather.default": ("split", SHORT),
    "aten.diagonal_scatter.default": ("split", PLACES),
    "aten.view.dtype": ("split", WIDTHS),
    "aten.linalg_solve_triangular.default": ("split", BATCHED),
    "aten.norm.Scalar": ("partial sum", NOT_A_SUM),
    **{f"aten.{n}.default": ("split", EMPTY) for n in CHANNELS.split()},
    "aten.linalg_cross.default": ("split", ONE),
}

# Those of them that older releases of DTensor do not allow: since when they do.
ALLOWED = {"aten.linalg_cross.default": (2, 14)}

# Those of them that newer releases of DTensor do not allow any more: since when.
MENDED = {
    **{f"aten.{n}": (2, 14) for n in ("all.default", "all.dim", "any.default", "any.dim", "any.dims")},
    **{f"aten.{n}.default": (2, 14) for n in ("cumprod", "logcumsumexp")},
}

Lies = tuple[tuple[str, ...], tuple[str, ...]]  # how the operands of a call lie, and its results


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield init_device_mesh("cpu", (RANKS,))
    dist.destroy_process_group()


def strategies(target) -> bool:
    """Whether DTensor has a strategy of its own for the operator."""
    known = DTensor._op_dispatcher.sharding_propagator
    tables = ("op_strategy_funcs", "op_to_rules", "op_single_dim_strategy_funcs")
    return any(target in getattr(known, table, {}) for table in tables)


def ours(projection: Projection) -> set[Lies]:
    """Every split of one factor that our rule allows, by its elements."""
    found = set()
    for f in splittable(projection):
        operands, results = project(projection, f, 1, projection.sizes[f], 1, RANKS)
        found.add((tuple(map(lies, operands)), tuple(map(lies, results))))
    return found


def lies(placement) -> str:
    if placement is PARTIAL:
        return "partial sum"
    if not isinstance(placement, Split):
        return "whole"
    return f"split {placement.dim}" if placement.outer == 1 else "strided"


def lies_there(placement) -> str:
    """The same words for DTensor's placements."""
    if isinstance(placement, Partial):
        return f"partial {placement.reduce_op if placement.reduce_op in REDUCTIONS else 'sum'}"
    return f"split {placement.dim}" if isinstance(placement, Shard) else "whole"


def theirs(mesh: DeviceMesh, target, args, kwargs) -> Iterator[Lies]:
    """Every way in which DTensor lets operands lie, some split, without moving one first."""
    choices = [[Replicate(), *map(Shard, range(t.dim()))] for t in tensor_args(args, kwargs)]
    for chosen in itertools.product(*choices):
        if any(isinstance(c, Shard) for c in chosen):
            outputs = propagated(mesh, target, args, kwargs, chosen)
            if outputs is not None:
                yield tuple(map(lies_there, chosen)), tuple(lies_there(o.placements[0]) for o in outputs)


def propagated(mesh: DeviceMesh, target, args, kwargs, chosen) -> list[DTensorSpec] | None:
    """The specs of the results; None where DTensor would move an operand, or refuses."""
    known = DTensor._op_dispatcher.sharding_propagator
    rest = iter(chosen)

    def spec(x):
        if isinstance(x, torch.Tensor):
            return DTensorSpec(mesh, (next(rest),), TensorMeta(x.shape, x.stride(), x.dtype))
        if isinstance(x, list) and any(isinstance(i, torch.Tensor) for i in x):
            return tuple(map(spec, x))
        return x

    args, kwargs = tuple(map(spec, args)), {k: spec(v) for k, v in kwargs.items()}
    info = known.op_to_schema_info.get(target)
    info = info or getattr(known, "op_to_schema_info_for_single_dim_strategy", {}).get(target)
    try:
        found = known.propagate_op_sharding_non_cached(OpSchema(target, args, kwargs, schema_info=info))
    except (RuntimeError, KeyError, torch._subclasses.fake_tensor.DynamicOutputShapeException):
        return None  # DTensor refuses uneven views, removed dims, masks as indices
    if found.needs_redistribute or found.output_spec is None:
        return None
    outputs = found.output_spec if isinstance(found.output_spec, (tuple, list)) else [found.output_spec]
    return [o for o in outputs if o is not None]


def test_what_dtensor_allows_we_allow_or_say_why_not(mesh: DeviceMesh, capsys: pytest.CaptureFixture):
    if release(torch.__version__) < (2, 13):
        pytest.skip("the table of differences is of DTensor since torch 2.13")
    book, compared, operators, different = shipped_rules(), 0, 0, {}
    for name in book.names():
        target = resolve(name)
        if not strategies(target):
            continue
        before = compared
        for args, kwargs in cases_of(name, target, book.by_name[name])[:CALLS]:
            results = tensor_results(target(*args, **kwargs))
            allowed = ours(book.bind(target, args, kwargs, results))
            for found in theirs(mesh, target, args, kwargs):
                compared += 1
                if found not in allowed:
                    different.setdefault(name, []).append(found)
        operators += compared > before
    missed = sum(map(len, different.values()))
    with capsys.disabled():
        print(f"\nDTensor: {compared} splits of {operators} operators, {compared - missed} ours too, {missed} listed")
    unlisted = {n: found for n, lie in different.items() if (found := [one for one in lie if not listed(n, one)])}
    assert not unlisted
    mended = {name for name, since in MENDED.items() if release(torch.__version__) >= since}
    mended |= {name for name, since in ALLOWED.items() if release(torch.__version__) < since}
    assert set(DIFFERENT) - mended == set(different), "a reason for a difference that is none"
    assert compared > 1200 and operators > 180


def listed(name: str, found: Lies) -> bool:
    """Whether the table of differences knows of one."""
    word = DIFFERENT.get(name, ("nothing", ""))[0]
    return any(o == word or o.startswith(f"{word} ") for o in found[1])


@pytest.mark.parametrize("name", [n for n in DIFFERENT if DIFFERENT[n][1] is SCANNED])
def test_dtensor_is_wrong_about_scans(name: str):
    """The reason given for two operators: the parts of a scan are not the scan of the parts."""
    x = torch.rand(2, 6) + 0.5
    whole, parts = resolve(name)(x, 1), torch.cat([resolve(name)(part, 1) for part in x.chunk(2, 1)], 1)
    assert not torch.allclose(whole, parts)
