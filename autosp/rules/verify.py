"""Proof of rules by numbers: an operator run whole, and in P simulated shards, forward and backward.

No process group: shards are cut from whole tensors, each rank's local version is called in turn,
and what the ranks give is put together again and compared.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import torch

from ..compat.tested import dropped
from ..errors import RuleError
from ..sharding import PARTIAL, REPLICATE, Placement, Split, assemble, local_shape, shard
from ..spec.constraining import constrain_op as _registers_autosp_constrain  # noqa: F401
from .book import RuleBook
from .call import is_floating, op_name, operand_indices, resolve, tensor_args, tensor_results
from .case_values import CONSTANT, UNDETERMINED
from .cases import cases_of, drawn_cases
from .draw import Arguments, Draw
from .local_call import localise_on_axis
from .model import Rule
from .projection import Projection
from .prove import prove_kinds
from .saved import missing_saves
from .strategies import project, splittable, whole_placement

NOT_LOADED = "no operator of that name is loaded"
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10, torch.bfloat16: 6e-2}


@attrs.frozen
class Proof:
    """What verification found of one operator. `error` is the largest, relative to the largest value."""

    name: str
    calls: int = 0
    checks: int = 0
    splits: tuple[str, ...] = ()
    error: float = 0.0
    failures: tuple[str, ...] = ()
    seconds: float = 0.0
    rules: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.failures

    @property
    def called(self) -> bool:
        """Whether some call could be made (or none has to be: nothing is split)."""
        return self.calls > 0 or self.splits == ("whole",)


@attrs.frozen
class ShardedCall:
    """One call under one choice of placements, to be compared with the whole call."""

    target: Any
    args: Arguments
    projection: Projection
    inputs: tuple[Placement, ...]
    outputs: tuple[Placement, ...]
    p: int
    what: str


@attrs.define
class Whole:
    """The whole call: its results, the cotangents of those that have a gradient, the gradients. constant: the operands
    that the operator has no derivative for."""

    results: list[torch.Tensor]
    cotangents: list[torch.Tensor | None]
    gradients: list[torch.Tensor | None]
    constant: frozenset[int]


def verify(
    book: RuleBook,
    names: Iterable[str] | None = None,
    ranks: tuple[int, ...] = (2, 3, 4),
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16),
    cases: Callable[..., list[Arguments]] = cases_of,
) -> Iterator[Proof]:
    """A report per operator under rule (or per one of `names`). Left out: what the installed torch has dropped."""
    for name in book.names() if names is None else names:
        if dropped(name):
            continue
        yield verify_operator(book, name, ranks, dtypes, cases)


def verify_operator(
    book: RuleBook, name: str, ranks: tuple[int, ...], dtypes: tuple[torch.dtype, ...], cases: Callable = cases_of
) -> Proof:
    """Every split that the operator's rules allow, on every case."""
    began, target, rules = time.perf_counter(), resolve(name), book.by_name[name]
    if target is None:
        return Proof(name, failures=(NOT_LOADED,))
    if all(r.form == "whole" for r in rules):
        return Proof(name, splits=("whole",), rules=frozenset(r.where for r in rules))
    report = Proof(name)
    for i, case in enumerate(cases(name, target, rules)):
        for dtype in dtypes if i == 0 else dtypes[:1]:
            proof = verify_call(book, target, cast(case, dtype), ranks if dtype == dtypes[0] else ranks[:1], dtype)
            report = merge(report, proof)
    for case in drawn_cases(name, target, unseen(rules, report), Draw.seeded(name)):
        report = merge(report, verify_call(book, target, cast(case, dtypes[0]), ranks, dtypes[0]))
    failures = report.failures + tuple(f"no case reached the rule at {r.where}" for r in unseen(rules, report))
    return attrs.evolve(report, failures=failures[:12], seconds=time.perf_counter() - began)


def unseen(rules: tuple[Rule, ...], report: Proof) -> tuple[Rule, ...]:
    """The rules that no case has reached yet, such as one of one's own for calls that no shipped rule speaks of."""
    return tuple(r for r in rules if r.where not in report.rules and file_of(r) == file_of(rules[0]))


def file_of(rule: Rule) -> str:
    """The file of a rule. One of one's own may leave a shipped one nothing to say."""
    return rule.where.rsplit(":", 2)[0]


def merge(a: Proof, b: Proof) -> Proof:
    """Two reports of one operator as one."""
    return Proof(
        a.name, a.calls + b.calls, a.checks + b.checks, tuple(dict.fromkeys(a.splits + b.splits)),
        max(a.error, b.error), a.failures + b.failures, 0.0, a.rules | b.rules,
    )  # fmt: skip


def cast(case: Arguments, dtype: torch.dtype) -> Arguments:
    """The arguments with their floating tensors in another dtype."""

    def one(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return x.to(dtype) if x.is_floating_point() else x
        return [one(i) for i in x] if isinstance(x, list) else x

    args, kwargs = case
    return tuple(map(one, args)), {k: one(v) for k, v in kwargs.items()}


def verify_call(book: RuleBook, target: Any, case: Arguments, ranks: tuple[int, ...], dtype: torch.dtype) -> Proof:
    """Every split of one call."""
    name = op_name(target)
    draw = Draw.seeded(f"cotangents of {name}")
    try:
        whole = run_whole(target, case, draw)
    except (RuntimeError, NotImplementedError, IndexError, TypeError, ValueError) as error:
        missing = dtype is torch.bfloat16
        return Proof(name, failures=() if missing else (f"the whole call fails: {first_line(error)}",))
    try:
        projection = book.bind(target, *case, whole.results)
    except RuleError as error:
        return Proof(name, failures=(error.problems[0].what,))
    report = Proof(name, calls=1, rules=frozenset({projection.rule}))
    if dtype is torch.float32:
        report = merge(report, prove_call(book, target, case, whole, projection))
    for trial in trials(target, case, projection, ranks):
        report = merge(report, compare(trial, whole, draw, dtype))
    return report


def prove_call(book: RuleBook, target: Any, case: Arguments, whole: Whole, projection: Projection) -> Proof:
    """The operator's kinds and what it saves, as the rules state them, on one call."""
    faults = [why for _, why in prove_kinds(book.traits(target), target, case, whole.results, projection)]
    handles = leaves(tensor_args(*case), whole.constant)
    if any(c is not None for c in whole.cotangents):
        faults += ["", *missing_saves(target, replaced(case, handles), projection)]
    return Proof(op_name(target), checks=len(faults), failures=tuple(filter(None, faults)))


def trials(target: Any, case: Arguments, projection: Projection, ranks: tuple[int, ...]) -> Iterator[ShardedCall]:
    """Every factor that may be split, whole and in sub-splits; every set of operands claimed linear."""
    for p in ranks:
        for f in splittable(projection):
            for outer, units, inner in subsplits(projection.sizes[f]):
                operands, results = project(projection, f, outer, units, inner, p)
                inputs = tuple(whole_placement(o, REPLICATE) for o in operands)
                kind, name = projection.kinds[f], projection.names[f]
                part = "" if (outer, inner) == (1, 1) else f" as {outer}x<{units}>x{inner}"
                yield ShardedCall(target, case, projection, inputs, results, p, f"{kind} {name}{part}")
        for members in projection.linear:
            inputs = tuple(PARTIAL if i in members else REPLICATE for i in range(len(projection.operands)))
            names = " ".join(n for n, places in operand_indices(target, *case).items() if members & {*places})
            yield ShardedCall(
                target, case, projection, inputs, (PARTIAL,) * len(projection.results), p, f"linear {names}"
            )


def subsplits(size: int) -> Iterator[tuple[int, int, int]]:
    """The ways in which a factor is tried: by its elements, in halves, in pairs."""
    yield 1, size, 1
    if size % 2 == 0 and size > 2:
        yield 2, size // 2, 1
        yield 1, size // 2, 2


def run_whole(target: Any, case: Arguments, draw: Draw) -> Whole:
    """The call as it is, with random cotangents; without any where this PyTorch has no derivative for it."""
    try:
        return _run_whole(target, case, draw, constants(target, case))
    except (RuntimeError, NotImplementedError) as error:
        if not re.search(r"derivative for '?[\w:]+'? is not implemented", str(error)):
            raise
    return _run_whole(target, case, draw, frozenset(range(len(tensor_args(*case)))))


def _run_whole(target: Any, case: Arguments, draw: Draw, constant: frozenset[int]) -> Whole:
    handles = leaves(tensor_args(*case), constant)
    args, kwargs = replaced(case, handles)
    results = tensor_results(target(*args, **kwargs))
    cotangents = [draw.like(r) if r.requires_grad else None for r in results]
    return Whole([r.detach() for r in results], cotangents, gradients_of(results, cotangents, handles), constant)


def leaves(tensors: list[torch.Tensor], constant: frozenset[int]) -> list[torch.Tensor]:
    """Fresh copies of operands; the floating and complex ones want gradients, save those in `constant`."""
    return [t.detach().clone().requires_grad_(is_floating(t) and i not in constant) for i, t in enumerate(tensors)]


def constants(target: Any, case: Arguments) -> frozenset[int]:
    """The operands that the operator has no derivative for."""
    places = operand_indices(target, *case)
    return frozenset(i for name in CONSTANT.get(op_name(target), ()) for i in places.get(name, ()))


def replaced(case: Arguments, handles: list[torch.Tensor]) -> Arguments:
    """The arguments with other tensors in the places of theirs."""
    rest = iter(handles)

    def one(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return next(rest)
        return [one(i) for i in x] if isinstance(x, (list, tuple)) else x

    args = tuple(one(a) for a in case[0])
    return args, {k: one(v) for k, v in case[1].items()}


def gradients_of(
    results: list[torch.Tensor], cotangents: list[torch.Tensor | None], handles: list[torch.Tensor]
) -> list[torch.Tensor | None]:
    """The gradient of each operand (zeros where it is unused), None for those that have none."""
    inputs = [h for h in handles if h.requires_grad]
    pairs = [(r, c) for r, c in zip(results, cotangents, strict=True) if c is not None and r.requires_grad]
    if not inputs or not pairs:
        return [torch.zeros_like(h) if h.requires_grad else None for h in handles]
    outputs, weights = [r for r, _ in pairs], [c for _, c in pairs]
    gradients = torch.autograd.grad(outputs, inputs, weights, allow_unused=True)
    zero_filled = (g if g is not None else torch.zeros_like(h) for g, h in zip(gradients, inputs, strict=True))
    return [next(zero_filled) if h.requires_grad else None for h in handles]


def compare(trial: ShardedCall, whole: Whole, draw: Draw, dtype: torch.dtype) -> Proof:
    """One trial: run on every rank, put together, compared with the whole call."""
    name = op_name(trial.target)
    report = Proof(name, checks=1, splits=(trial.what.split(" as ")[0],))
    try:
        errors = list(differences(trial, whole, draw))
    except Exception as error:
        failure = f"{trial.what} on {trial.p} ranks: {type(error).__name__}: {first_line(error)}"
        return attrs.evolve(report, failures=(failure,))
    worst = max((e for _, e in errors), default=0.0)
    limit = TOLERANCE[dtype]
    wrong = tuple(f"{trial.what} on {trial.p} ranks: {what} differs by {e:.1e}" for what, e in errors if not e <= limit)
    return attrs.evolve(report, error=worst if dtype is torch.float32 else 0.0, failures=wrong)


def differences(trial: ShardedCall, whole: Whole, draw: Draw) -> Iterator[tuple[str, float]]:
    """What is compared, and by how much it differs."""
    operands = [
        parts_of(t, p, trial.p, i, trial, draw)
        for i, (t, p) in enumerate(zip(tensor_args(*trial.args), trial.inputs, strict=True))
    ]
    handles = [leaves([parts[rank] for parts in operands], whole.constant) for rank in range(trial.p)]
    locals_ = [run_local(trial, handles[rank], whole, rank) for rank in range(trial.p)]
    determined = not trial.projection.random and op_name(trial.target) not in UNDETERMINED
    for i, (want, placement) in enumerate(zip(whole.results, trial.outputs, strict=True)):
        parts = [results[i] for results in locals_]
        check_shapes(parts, want, placement, trial.p)
        if determined:
            yield f"result {i}", difference(assemble([x.detach() for x in parts], placement), want)
    if not determined:
        return
    gradients = [backward(trial, whole, locals_[rank], handles[rank], rank) for rank in range(trial.p)]
    for i, want in enumerate(whole.gradients):
        if want is not None:
            yield from gradient_differences(i, [g[i] for g in gradients], want, trial.inputs[i])


def parts_of(
    t: torch.Tensor, placement: Placement, p: int, i: int, trial: ShardedCall, draw: Draw
) -> list[torch.Tensor]:
    """Each rank's part of an operand. Partial: random addends, or the value once under a reduce."""
    if placement is not PARTIAL:
        return [shard(t, placement, p, r) for r in range(p)]
    if i in trial.projection.once and trial.what.startswith("reduce"):
        return [t, *(torch.zeros_like(t) for _ in range(p - 1))]
    addends = [draw.like(t) for _ in range(p - 1)]
    return [t - sum(addends), *addends]


def run_local(trial: ShardedCall, handles: list[torch.Tensor], whole: Whole, rank: int) -> list[torch.Tensor]:
    """One rank's results."""
    args, kwargs = replaced(trial.args, handles)
    shapes = tuple(tuple(r.shape) for r in whole.results)
    got = localise_on_axis(
        trial.target, args, kwargs, trial.projection, trial.inputs, trial.outputs, shapes, trial.p, rank,
        emit=lambda target, a, k: target(*a, **k),
    )  # fmt: skip
    return tensor_results(got)


def backward(
    trial: ShardedCall, whole: Whole, results: list[torch.Tensor], handles: list[torch.Tensor], rank: int
) -> list[torch.Tensor | None]:
    """One rank's gradients: split results get their part of the cotangent, partial ones all of it."""
    cotangents = [
        None if c is None else shard(c, placement, trial.p, rank)
        for c, placement in zip(whole.cotangents, trial.outputs, strict=True)
    ]
    return gradients_of(results, cotangents, handles)


def gradient_differences(
    i: int, parts: list[torch.Tensor], want: torch.Tensor, placement: Placement
) -> Iterator[tuple[str, float]]:
    """Split operands: their parts; whole ones: the sum over ranks; partial ones: equal on every rank."""
    if placement is PARTIAL:
        for rank, part in enumerate(parts):
            yield f"gradient {i} on rank {rank}", difference(part, want)
    else:
        how = placement if isinstance(placement, Split) else PARTIAL
        yield f"gradient {i}", difference(assemble(parts, how), want)


def check_shapes(parts: list[torch.Tensor], want: torch.Tensor, placement: Placement, p: int) -> None:
    """Each rank's result has the shape of its placement, and the dtype of the whole one."""
    for rank, part in enumerate(parts):
        shape = local_shape(tuple(want.shape), placement, p, rank)
        if tuple(part.shape) != shape or (part.numel() and part.dtype != want.dtype):
            raise ValueError(f"rank {rank} gives {tuple(part.shape)} {part.dtype}, not {shape} {want.dtype}")


def difference(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value (1 at least), or infinity."""
    if got.shape != want.shape:
        return float("inf")
    if not want.numel():
        return 0.0
    if is_floating(want) and want.dtype.itemsize == 1:  # no arithmetic is written for fp8
        got, want = got.float(), want.float()
    if want.is_complex() and got.is_complex():
        return difference(torch.view_as_real(got.resolve_conj()), torch.view_as_real(want.resolve_conj()))
    odd = ~want.isfinite()
    if odd.any():
        if got[odd].isfinite().any() or not torch.equal(got[odd].nan_to_num(0, 1, -1), want[odd].nan_to_num(0, 1, -1)):
            return float("inf")
        return difference(got[~odd], want[~odd])
    if not is_floating(want):
        return 0.0 if torch.equal(got, want) else float("inf")
    gap = ((got - want).abs().max() / want.abs().max().clamp(min=1.0)).item()
    return gap if gap == gap else float("inf")


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).strip().split("\n") or [""])[0][:200]
