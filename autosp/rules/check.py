"""What a rule must satisfy by itself, before any call: found once, when a file is read."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Problem, did_you_mean
from .kinds import KINDS, WORKSPACES
from .model import Clause, Dims, FactorDim, Pack, Rule, Signature

CODED = ("whole", "view", "permute", "index", "lookup", "einsum", "repeat", "interleave", "sized")


def check_rule(rule: Rule) -> Iterator[Problem]:
    """Every problem of one rule, without its place."""
    yield from check_kinds(rule)
    if rule.form is None:
        return
    if isinstance(rule.form, str):
        yield from check_code(rule.form)
        return
    yield from check_operands(rule.form)
    yield from check_names(rule, rule.form)
    yield from check_factors(rule, rule.form)


def check_kinds(rule: Rule) -> Iterator[Problem]:
    """`kind` takes words that there are, and each names as many things as it has to."""
    for word, *names in (n for c in rule.clauses_of("kind") for n in c.names):
        kind = KINDS.get(word)
        if kind is None:
            yield Problem(
                f"there is no kind '{word}'",
                "'kind' takes words that autosp asks for, autosp/rules/kinds.py",
                did_you_mean(word, KINDS, f"use one of {', '.join(KINDS)}"),
            )
            continue
        if not (bool(names) if kind.many else len(names) == len(kind.names)):
            expected = ", ".join(kind.names).upper() + (", ..." if kind.many else "")
            yield Problem(
                f"'{word}' names {len(names)} thing{'' if len(names) == 1 else 's'}",
                f"'{word}' says of an operator: {kind.meaning}",
                f"write '{word}({expected})'" if expected else f"write '{word}' alone",
            )
            continue
        operands = [o.name for o in rule.form.operands] if isinstance(rule.form, Signature) else None
        for name, what in zip(names, kind.names * (len(names) if kind.many else 1), strict=True):
            if what == "operand" and operands is not None and name not in operands:
                yield Problem(
                    f"'{word}' names '{name}', which is not an operand",
                    f"this rule's operands are {', '.join(operands) or 'none'}",
                    did_you_mean(name, operands, "name an operand of the signature"),
                )
            if what == "operator" and name.count(".") != 2:
                yield Problem(
                    f"'{word}' names '{name}', which is not an operator",
                    "an operator is written namespace.name.overload",
                    f"write '{name}.default', or another overload" if name.count(".") == 1 else "name an operator",
                )
            if what == "word" and name not in WORKSPACES:
                yield Problem(
                    f"there is no formula '{name}'",
                    f"'{word}' takes one of {', '.join(WORKSPACES)}",
                    did_you_mean(name, WORKSPACES, "leave it out"),
                )


def check_code(name: str) -> Iterator[Problem]:
    """`by NAME` names code that exists."""
    if name not in CODED:
        yield Problem(
            f"there is no code '{name}'",
            f"'by' takes one of {', '.join(CODED)}",
            did_you_mean(name, CODED, "write the rule in factors"),
        )


def check_operands(form: Signature) -> Iterator[Problem]:
    """Operands are named once; a tensor has one pack at most."""
    names = [o.name for o in form.operands]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield Problem(f"operand '{name}' is named twice", "each operand stands once in a signature", "remove one")
    tensors = [*(o.dims for o in form.operands), *form.results]
    if any(sum(isinstance(i, Pack) for i in dims) > 1 for dims in tensors):
        yield Problem("a tensor has two packs", "a tensor has one '*' or '...' at most", "name the other dims")
        return
    tokens = {i.token for dims in tensors for i in dims if isinstance(i, Pack)}
    if len(tokens) > 1:
        yield Problem(
            "the signature mixes '*' and '...'",
            "a pack is aligned right and broadcast ('*') or the same in every tensor ('...'), in the whole rule",
            "use one of them",
        )


def check_names(rule: Rule, form: Signature) -> Iterator[Problem]:
    """Clauses speak of operands and factors that the signature has."""
    operands = [o.name for o in form.operands]
    factors = sorted({n for dims in every_dims(form) for n in factor_names(dims)})
    for clause in rule.clauses:
        known = [*operands, "result"] if clause.word == "saves" else operands
        for name in (n for names in clause.names for n in names if n not in known and clause.word != "kind"):
            yield Problem(
                f"'{clause.word}' names '{name}', which is not an operand",
                f"this rule's operands are {', '.join(operands) or 'none'}",
                did_you_mean(name, known, "name an operand of the signature"),
            )
        for name in (s.arg for s in clause.selectors if s.kind == "name" and s.arg not in factors):
            yield Problem(
                f"'{clause.word}' names '{name}', which is not a factor",
                f"this rule's factors are {', '.join(factors) or 'none'}",
                did_you_mean(str(name), factors, "name a factor of the signature"),
            )


def check_factors(rule: Rule, form: Signature) -> Iterator[Problem]:
    """A factor that no result has must be summed or whole; one that is summed is in no result."""
    summed = selected(rule.clauses_of("reduce"))
    settled = summed | selected(rule.clauses_of("whole"))
    factors = {n for o in form.operands for n in factor_names(o.dims)}
    for name in sorted(factors - settled):
        if not all(name in factor_names(dims) for dims in form.results):
            yield Problem(
                f"factor '{name}' may be split but is missing from a result",
                "a factor that is missing from a result is summed ('reduce') or not split ('whole')",
                f"add 'reduce {name}' if the operator sums over it, else 'whole {name}'",
            )
    for name in sorted(summed):
        if any(name in factor_names(dims) for dims in form.results):
            yield Problem(
                f"factor '{name}' is summed but stands in a result",
                "a factor under 'reduce' is summed away: no result has it",
                f"take '{name}' out of the result or out of 'reduce'",
            )
    if rule.clauses_of("once") and not rule.clauses_of("reduce"):
        yield Problem(
            "'once' without 'reduce'",
            "'once' says which operand is added once when a summed factor is split",
            "remove it, or add the 'reduce'",
        )
    yield from check_removed(rule, form)


def check_removed(rule: Rule, form: Signature) -> Iterator[Problem]:
    """Dims that a result lacks by `without ARG` are summed or whole."""
    args_at = {s.arg for c in rule.clauses for s in c.selectors if s.kind == "at"}
    packs = {s.arg for c in rule.clauses for s in c.selectors if s.kind == "pack"}
    for item in (i for dims in form.results for i in dims if isinstance(i, Pack)):
        if item.change == "without" and item.arg not in args_at and not packs:
            yield Problem(
                f"the dims 'without {item.arg}' are neither summed nor whole",
                "a dim that the result lacks is summed ('reduce at ARG') or not split ('whole at ARG')",
                f"add 'reduce at {item.arg}' or 'whole at {item.arg}'",
            )


def every_dims(form: Signature) -> list[Dims]:
    """The dims of all operands and results."""
    return [*(o.dims for o in form.operands), *form.results]


def factor_names(dims: Dims) -> set[str]:
    """The named factors of one tensor."""
    return {n for item in dims if isinstance(item, FactorDim) for n in item.names}


def selected(clauses: tuple[Clause, ...]) -> set[str]:
    """The factors that clauses name one by one."""
    return {str(s.arg) for c in clauses for s in c.selectors if s.kind == "name"}
