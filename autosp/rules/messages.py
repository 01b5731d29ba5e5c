"""Rules as text: a line for a list, a page for one operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from ..sharding import PARTIAL, Placement, Split
from ..syntax.layout import layout_of
from .book import RuleBook
from .call import operand_indices, resolve, tensor_args, tensor_results
from .cases import cases_of
from .model import Clause, FactorDim, Rule, Signature
from .projection import Dims, Projection
from .strategies import project, splittable


def list_line(name: str, rules: tuple[Rule, ...]) -> str:
    """`aten.linear.default  pass *, o  reduce i`: what may be split, what is summed, what is whole."""
    return f"{name}  {' | '.join(dict.fromkeys(map(summary, rules)))}"


def summary(rule: Rule) -> str:
    """One rule in a few words."""
    guard = " ".join(str(c) for c in rule.clauses_of("when"))
    if isinstance(rule.form, str):
        body = "whole" if rule.form == "whole" else f"by {rule.form}"
    else:
        kinds = [c for c in rule.clauses if c.word in ("reduce", "whole")]
        passing = ", ".join(passes(rule.form, kinds))
        body = "  ".join([*([f"pass {passing}"] if passing else []), *map(str, kinds)]) or "no dims"
    return f"{guard}: {body}" if guard else body


def passes(form: Signature, kinds: list[Clause]) -> Iterator[str]:
    """The factors of a signature that a rule lets through, at least on some calls."""
    always = {str(s.arg) for c in kinds if not c.tests for s in c.selectors if s.kind in ("name", "pack")}
    seen: dict[str, None] = {}
    for dims in (*(o.dims for o in form.operands), *form.results):
        for item in dims:
            names = item.names if isinstance(item, FactorDim) else (item.token,)
            seen |= dict.fromkeys(n for n in names if n not in always)
    yield from seen


def explain(book: RuleBook, name: str) -> str:
    """An operator's rules, and on an example how every tensor lies under each split."""
    rules = book.by_name[name]
    family = name.rsplit(".", 1)[0]
    alone = [r for n in (name, family) for r in book.speaking.get(n, ()) if r.form is None]
    parts = [f"{rule.where}\n{indent(str(rule))}" for rule in rules]
    parts += [f"{r.where}\n{indent(str(attrs.evolve(r, targets=(name,))))}" for r in alone]
    target = resolve(name)
    if target is not None and any(r.form != "whole" for r in rules):
        parts += [example(p, r) for p, r in examples(book, name, target)]
    else:
        parts.append("No dim is split: the operator runs whole on every rank.")
    return "\n\n".join(parts)


def examples(book: RuleBook, name: str, target: Any) -> list[tuple[Projection, list[str]]]:
    """For each rule the case with the most factors, and how its tensors are called."""
    best: dict[str, tuple[Projection, list[str]]] = {}
    for args, kwargs in cases_of(name, target, book.by_name[name]):
        try:
            results = tensor_results(target(*args, **kwargs))
        except (RuntimeError, IndexError):
            continue
        projection = book.bind(target, args, kwargs, results)
        known = best.get(projection.rule)
        if known is None or len(known[0].sizes) < len(projection.sizes):
            operands = [n for n, places in operand_indices(target, args, kwargs).items() for _ in places]
            tensors = [*tensor_args(args, kwargs), *results]
            names = [*operands, *("result" for _ in results)]
            best[projection.rule] = projection, [f"{n} {list(t.shape)}" for n, t in zip(names, tensors, strict=True)]
    return list(best.values())


def example(projection: Projection, tensors: list[str]) -> str:
    """A table: a line for each factor that may be split, a column for each tensor."""
    head = ["split", *tensors]
    rows = [row(projection, f) for f in splittable(projection)]
    if not rows:
        return indent(f"{', '.join(tensors)}: nothing may be split")
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in [head, *rows]]
    return "\n".join(indent(line) for line in lines)


def row(projection: Projection, factor: int) -> list[str]:
    """The layouts of all tensors when one factor is split over sp."""
    operands, results = project(projection, factor, 1, projection.sizes[factor], 1, 2)
    tensors = [*zip(projection.operands, operands, strict=True), *zip(projection.results, results, strict=True)]
    kind = "sum " if projection.kinds[factor] == "reduce" else ""
    return [kind + projection.names[factor], *(layout(projection, dims, p, factor) for dims, p in tensors)]


def layout(projection: Projection, dims: Dims, placement: Placement | None, factor: int) -> str:
    """A layout in the text of the spec language."""
    split = factor if isinstance(placement, Split) else None
    texts = [dim_text(projection, d, split) for d in dims]
    return layout_of(texts, ["sp"] if placement is PARTIAL else [])


def dim_text(projection: Projection, factors: tuple[int, ...], split: int | None) -> str:
    """A dim by its factors' names, the one that is split marked."""
    names = [projection.names[f] + ("@sp" if f == split else "") for f in factors]
    return "1" if not names else names[0] if len(names) == 1 else f"({' '.join(names)})"


def indent(text: str) -> str:
    """Two columns to the right."""
    return "\n".join(f"  {line}" for line in text.split("\n"))


def matching(book: RuleBook, names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The operators that names stand for, in full or up to a dot, and the names of none."""
    operators: dict[str, None] = {}
    unknown = []
    for word in names:
        hits = [n for n in book.names() if n == word or n.startswith(f"{word}.")]
        operators |= dict.fromkeys(hits)
        unknown += [] if hits else [word]
    return list(operators), unknown
