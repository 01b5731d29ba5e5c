"""Proof by numbers of the kinds that a rule states: a view shares memory, a permutation permutes, a product is
linear in what it multiplies, an in-place form leaves the value of what it is the form of.

Each word of `kinds.KINDS` that numbers can tell has a function here: of one call it gives what is wrong, or nothing.
The others speak of a compiler, a kernel or a report.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch.utils.flop_counter import FlopCounterMode

from .call import arguments, is_floating, operand_indices, tensor_args, tensor_results, tensors_in, with_arguments
from .draw import Arguments, Draw
from .flops import multiplied
from .inplace import functional_form, inplace_forms
from .operator_traits import Traits
from .projection import Projection
from .saved import memory


@attrs.frozen(eq=False)
class KindTrial:
    """One call to be looked at. by_name: its arguments; results: the tensors that it gave."""

    target: Any
    args: tuple
    kwargs: dict
    by_name: dict[str, Any]
    results: list[torch.Tensor]
    projection: Projection
    traits: Traits
    draw: Draw

    @property
    def operands(self) -> list[torch.Tensor]:
        return tensor_args(self.args, self.kwargs)

    def called(self, /, **changes: Any) -> torch.Tensor:
        """The first result of the call with other arguments."""
        args, kwargs = with_arguments(self.target, self.args, self.kwargs, **changes)
        return tensor_results(self.target(*args, **kwargs))[0]

    def named(self, word: str) -> tuple[Any, ...]:
        return tuple(self.by_name[n] for n in self.traits.names(word))


def prove_kinds(
    traits: Traits, target: Any, case: Arguments, results: list[torch.Tensor], projection: Projection
) -> Iterator[tuple[str, str]]:
    """Every kind that numbers can prove of a call, with what is wrong, '' where nothing is."""
    draw = Draw.seeded(f"kinds of {traits.operator}")
    proof = KindTrial(target, *case, arguments(target, *case), results, projection, traits, draw)
    for word in [*traits.kinds, *(["inplace form"] if "inplace" in traits or any(inplace_forms(target)) else [])]:
        if word not in PROOFS or (word in traits.kinds and not traits.on(word, target, *case)):
            continue
        if projection.random and word != "random":
            continue
        try:
            with torch.no_grad():
                why = PROOFS[word](proof)
        except (RuntimeError, NotImplementedError, IndexError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        yield word, f"{word}: {why}" if why else ""


def same(a: torch.Tensor, b: torch.Tensor, rough: bool = False) -> bool:
    """Whether two tensors are equal, up to rounding where `rough`."""
    if a.shape != b.shape or (a.dtype != b.dtype and not rough):
        return False
    if rough and is_floating(a):
        return torch.allclose(a, b.to(a.dtype), rtol=1e-4, atol=1e-4, equal_nan=True)
    return torch.equal(a.resolve_conj().resolve_neg(), b.resolve_conj().resolve_neg()) or bool(
        is_floating(a) and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    )


# What is computed.


def _matmul(p: KindTrial) -> str:
    (a, b), (first, second) = p.named("matmul"), p.traits.names("matmul")
    if not (is_floating(a) and is_floating(b)):
        return ""
    if not _contracts(p) and 1 not in (*a.shape, *b.shape):
        return "its operands share no dim that it sums over"
    zero = p.called(**{first: torch.zeros_like(a)})
    whole = p.results[0]
    for name, x in ((first, a), (second, b)):
        part = p.draw.like(x)
        left, right = p.called(**{name: part}), p.called(**{name: x - part})
        if not same(left + right - zero, whole, rough=True) or not same(p.called(**{name: -x}), 2 * zero - whole, True):
            return f"not the sum of its products: it is not linear in '{name}'"
    if not same(p.called(**{second: torch.zeros_like(b)}), zero, rough=True):
        return "not the sum of its products: what it adds depends on an operand"
    alone = p.called(**{first: _one_place(a)}) - zero
    if whole.dim() and alone.numel() > 1 and a.numel() and bool((alone.abs() > 1e-6).all()) and _spread(p):
        return "not the sum of its products: one element of an operand is in every element of the result"
    expected = 2 * math.prod(multiplied(p.projection))
    counted = _counted(p)
    if _contracts(p) and counted and counted != expected:
        return f"its factors make {expected} floating-point operations, PyTorch counts {counted}"
    return ""


def _one_place(x: torch.Tensor) -> torch.Tensor:
    """One element of a tensor, and zeros."""
    alone = torch.zeros_like(x)
    alone.view(-1)[:1] = x.reshape(-1)[:1] + 1
    return alone


def _spread(p: KindTrial) -> bool:
    """Whether the first operand has a dim that the result has too: rows that do not mix."""
    (at, _) = (operand_indices(p.target, p.args, p.kwargs)[n][0] for n in p.traits.names("matmul"))
    own = {f for dim in p.projection.operands[at] for f in dim}
    return bool(own & {f for dim in p.projection.results[0] for f in dim})


def _contracts(p: KindTrial) -> bool:
    return bool(multiplied(p.projection))


def _counted(p: KindTrial) -> int:
    """What PyTorch counts of the call; 0 where its table does not know it."""
    with FlopCounterMode(display=False) as counter:
        p.target(*p.args, **p.kwargs)
    return counter.get_total_flops()


def _plus(p: KindTrial) -> str:
    addend = p.draw.like(p.results[0])
    result = p.traits.operator_of("plus")(addend, *p.args, **p.kwargs)
    return "" if same(result, p.results[0] + addend, rough=True) else f"{p.traits.kinds['plus'][0]} gives another value"


def _attention(p: KindTrial) -> str:
    query, _, value = p.traits.names("attention")
    v = p.by_name[value]
    if not same(p.called(**{value: 2 * v}), 2 * p.results[0], rough=True):
        return "it is not linear in its values"
    ones = p.called(**{value: torch.ones_like(v)})
    seen = ones.isfinite() & (ones.abs() > 1e-6)  # a query that sees nothing gives zeros, or nothing
    if not torch.allclose(ones[seen], torch.ones_like(ones[seen]), atol=1e-4):
        return "the weights of its values do not add up to 1"
    rows = torch.arange(p.by_name[query].shape[-2]).flip(0)
    mask = p.by_name.get(p.traits.names("masked")[0]) if "masked" in p.traits else None
    if mask is None and not p.by_name.get("is_causal"):
        moved = p.called(**{query: p.by_name[query][..., rows, :]})
        if not same(moved, p.results[0][..., rows, :], rough=True):
            return "a query's result depends on other queries"
    return ""


def _masked(p: KindTrial) -> str:
    query, key, _ = p.named("attention")
    mask, causal = p.traits.names("masked")
    lower = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    by_mask, by_flag = p.called(**{mask: lower, causal: False}), p.called(**{mask: None, causal: True})
    return "" if same(by_mask, by_flag, rough=True) else f"'{causal}' is another mask than that of earlier keys"


def _pointwise(p: KindTrial) -> str:
    if len(p.results) != 1 or not p.operands or not p.results[0].numel():
        return ""
    result = p.results[0]
    try:
        wide = [t.expand(result.shape) for t in p.operands]
    except RuntimeError:
        return "an operand cannot be broadcast to the result"
    order = torch.randperm(result.numel(), generator=p.draw.tensors)
    moved = iter([t.reshape(-1)[order].view(result.shape) for t in wide])

    def shuffled(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return next(moved)
        return [shuffled(i) for i in x] if isinstance(x, (list, tuple)) and tensors_in(x) else x

    args, kwargs = tuple(map(shuffled, p.args)), {k: shuffled(v) for k, v in p.kwargs.items()}
    actual = p.target(*args, **kwargs)
    expected = result.reshape(-1)[order].view(result.shape)
    return "" if same(actual, expected, rough=True) else "an element of the result depends on elements at other places"


def _reduction(p: KindTrial) -> str:
    before = p.operands[0].numel()
    if all(r.shape == p.operands[0].shape for r in p.results) and before > 1 and 1 not in p.operands[0].shape:
        return "it leaves as many elements as there were"
    after = {f for dims in p.projection.results for dim in dims for f in dim}
    gone = [n for f, n in enumerate(p.projection.sizes) if f not in after]
    few = all(r.numel() * math.prod(gone) == before for r in p.results)
    return "" if few else "its results have not one element for each that is left of the operand's dims"


def _random(p: KindTrial) -> str:
    if not p.projection.random:
        return "its rule does not say that it draws"
    if any(r.numel() < 16 for r in p.results) or any(same(p.results[0], x) for x in p.operands):
        return ""
    draws = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            draws.append(tensor_results(p.target(*p.args, **p.kwargs)))
    alike = all(same(a, b) for a, b in zip(*draws, strict=True))
    return "it gives the same from two seeds" if alike and any(r.unique().numel() > 1 for r in draws[0]) else ""


def _by(function: Callable[..., Any], word: str) -> Callable[[KindTrial], str]:
    """The value of the call against a function of its first arguments."""

    def prove(p: KindTrial) -> str:
        a, b = [*p.by_name.values(), None][:2]
        alpha = p.by_name.get("alpha", 1)
        return "" if same(p.results[0], torch.as_tensor(function(a, b, alpha)), rough=True) else f"it is not '{word}'"

    return prove


# What shares memory, or the elements.


def _view(p: KindTrial) -> str:
    (name, places), *_ = ((n, at) for n, at in operand_indices(p.target, p.args, p.kwargs).items() if at)
    source = p.operands[places[0]].contiguous().clone()
    args, kwargs = with_arguments(p.target, p.args, p.kwargs, **{name: source})
    results = tensor_results(p.target(*args, **kwargs))
    apart = [r for r in results if r.numel() and memory(r) != memory(source)]
    return "a result is in memory of its own" if apart else ""


def _equal(p: KindTrial) -> str:
    return "" if same(p.results[0], p.operands[0]) else "its elements are others than its operand's"


def _alias(p: KindTrial) -> str:
    return _equal(p) or _view(p)


def _detach(p: KindTrial) -> str:
    x = p.operands[0].detach().clone()
    with torch.enable_grad():
        leaf = x.requires_grad_(is_floating(x))
        result = p.target(leaf, *p.args[1:], **p.kwargs)
    return "a gradient flows through it" if result.requires_grad else _equal(p)


def _copy(p: KindTrial) -> str:
    if any(is_floating(t) and t.is_complex() for t in p.operands):
        return ""
    elements = torch.cat([t.reshape(-1) for t in p.operands]).sort().values
    copied = torch.cat([r.reshape(-1) for r in p.results]).sort().values
    return "" if same(elements, copied) else "its elements are not its operands', each once"


def _cast(p: KindTrial) -> str:
    (x, *_), result = p.operands, p.results[0]
    return "" if same(result, x.to(result.dtype)) else "its values are not its operand's in another dtype"


def _reshape(p: KindTrial) -> str:
    return "" if same(p.results[0].reshape(-1), p.operands[0].reshape(-1)) else "its elements are in another order"


def _permute(p: KindTrial) -> str:
    x, result = p.operands[0], p.results[0]
    probe = torch.empty([i + 2 for i in range(x.dim())], device="meta")
    order = [n - 2 for n in p.target(probe, *p.args[1:], **p.kwargs).shape]
    if sorted(order) != list(range(x.dim())):
        return "its dims are not its operand's"
    return "" if same(result, x.permute(order)) else "it is another value than its operand with its dims in that order"


def _expand(p: KindTrial) -> str:
    return "" if same(p.results[0], p.operands[0].expand(p.results[0].shape)) else "it is not its operand, repeated"


def _interleave(p: KindTrial) -> str:
    x, dim = (p.operands[0], p.by_name["dim"]) if p.by_name["dim"] is not None else (p.operands[0].reshape(-1), 0)
    rows = torch.arange(x.shape[dim]).unsqueeze(1).expand(-1, p.by_name["repeats"]).flatten()
    return "" if same(p.results[0], x.index_select(dim, rows)) else "its rows are not its operand's, each so many times"


def _slice(p: KindTrial) -> str:
    x = p.operands[0]
    places = torch.arange(x.numel()).view(x.shape)
    taken = p.target(places, *p.args[1:], **p.kwargs)
    for d in range(x.dim()):
        rows = (taken // max(1, places.stride(d)) % max(1, x.shape[d])).unique()
        if bool(rows.diff().unique().numel() <= 1) and same(taken, places.index_select(d, rows)):
            return ""
    return "" if not taken.numel() else "it is not one range along one dim"


def _narrow(p: KindTrial) -> str:
    x, dim, start, length = p.args
    return "" if same(p.results[0], x.narrow(dim, int(start), length)) else "its arguments are not a start and a length"


def _other(word: str, args_of: Callable[[KindTrial], tuple]) -> Callable[[KindTrial], str]:
    """The same value by the operator that a word names."""

    def prove(p: KindTrial) -> str:
        result = p.traits.operator_of(word)(*args_of(p))
        return "" if same(result, p.results[0]) else f"{p.traits.kinds[word][0]} gives another value"

    return prove


def _undone(p: KindTrial) -> str:
    back = p.traits.operator_of("undone")(p.results[0].contiguous())
    return "" if same(back, p.operands[0]) else f"{p.traits.kinds['undone'][0]} does not give its operand back"


def _scattered(p: KindTrial) -> str:
    x, rest, put = p.operands[0], p.args[1:], p.traits.operator_of("scattered")
    new = p.draw.like(p.results[0]) if is_floating(x) else torch.zeros_like(p.results[0])
    written = put(x, new, *rest, **p.kwargs)
    if not same(p.target(written, *rest, **p.kwargs), new):
        return f"what {p.traits.kinds['scattered'][0]} puts back is not what is taken then"
    return "" if same(put(x, p.results[0], *rest, **p.kwargs), x) else "what was taken, put back, changes its operand"


def _itself(p: KindTrial) -> str:
    return "" if p.target(*p.args, **p.kwargs) is p.operands[0] else "it gives back another tensor"


# What is written.


def _updates(p: KindTrial) -> str:
    written = [n for n in p.traits.names("updates") if p.by_name[n] is not None]
    args, kwargs = with_arguments(p.target, p.args, p.kwargs, **{n: p.by_name[n].clone() for n in written})
    p.target(*args, **kwargs)
    after = arguments(p.target, args, kwargs)
    kept = [n for n in written if same(after[n], p.by_name[n])]
    return f"it leaves '{kept[0]}' as it is" if kept else ""


def _inplace(p: KindTrial) -> str:
    """Every in-place form that is taken for one of this operator, by its rule or by its name."""
    by_rule = p.traits.operator_of("inplace")
    for form in [by_rule] if by_rule else [f for f in inplace_forms(p.target) if functional_form(f) is p.target]:
        x = p.operands[0].contiguous().clone() if p.operands else None
        first = next(iter(p.by_name))
        if x is None or p.results[0].shape != x.shape or p.results[0].dtype != x.dtype:
            continue
        with torch.random.fork_rng(devices=[]):
            args, kwargs = with_arguments(p.target, p.args, p.kwargs, **{first: x})
            torch.manual_seed(0)
            expected = p.called(**{first: x.clone()})
            torch.manual_seed(0)
            form(*args, **kwargs)
        if not same(x, expected, rough=True):  # another loop over the elements rounds otherwise
            return f"{form} leaves another value"
    return ""


PROOFS: dict[str, Callable[[KindTrial], str]] = {
    "matmul": _matmul,
    "plus": _plus,
    "attention": _attention,
    "masked": _masked,
    "pointwise": _pointwise,
    "reduction": _reduction,
    "random": _random,
    "view": _view,
    "alias": _alias,
    "detach": _detach,
    "clone": _equal,
    "copy": _copy,
    "cast": _cast,
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "interleave": _interleave,
    "unsqueeze": lambda p: _reshape(p) if p.results[0].dim() == p.operands[0].dim() + 1 else "it adds no dim",
    "slice": _slice,
    "narrow": _narrow,
    "strided": _other("strided", lambda p: p.args),
    "undone": _undone,
    "scattered": _scattered,
    "itself": _itself,
    "sizes_like": _other("sizes_like", lambda p: (p.args[0], list(p.args[1].shape))),
    "dtype_like": _other("dtype_like", lambda p: (p.args[0], p.args[1].dtype)),
    "updates": _updates,
    "inplace form": _inplace,
    "add": _by(lambda a, b, alpha: a + alpha * b, "a + alpha * b"),
    "sub": _by(lambda a, b, alpha: a - alpha * b, "a - alpha * b"),
    "and": _by(lambda a, b, _: torch.logical_and(a, b) if a.dtype is torch.bool else a & b, "and"),
    **{w: _by(lambda a, b, _, w=w: getattr(operator, w)(a, b), w) for w in ("le", "lt", "ge", "gt", "eq", "ne")},
}
