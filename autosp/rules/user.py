"""Rules of one's own: registered in code, and installed in a folder that every autosp reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import attrs

from ..compat.torch import qualified_name, schema_of
from ..errors import Problem, RuleError, did_you_mean
from .call import resolve
from .kinds import KINDS
from .model import Rule, Signature
from .rule_text import read

Op = TypeVar("Op")
Cases = Callable[[], Iterable[tuple]]

REGISTERED: list[Rule] = []
CASES: dict[str, Cases] = {}


def rule(text: str, *, cases: Cases | None = None) -> Callable[[Op], Op]:
    """Register rule text, which is then tried before the rules that ship with autosp.

    Called before `autosp.compile`, alone or as a decorator of the operator, whose schema the text is
    then checked against:

        @autosp.rules.rule("rule mylib.scale.default(x[*]) -> [*]  linear x")
        @torch.library.custom_op("mylib::scale", mutates_args=())
        def scale(x: torch.Tensor) -> torch.Tensor: ...

    Args:
        text: one rule or several, in the rule language (docs/tutorial_operator.md). A second rule for an operator
            replaces the first.
        cases: gives the arguments of calls (a tuple each) on which `autosp rules verify` tries the rule, where random
            tensors of the rule's dims would not do.

    Returns:
        A decorator that gives the operator back.

    Raises:
        RuleError: every problem of the text, and of the operator that it decorates.

    Source:
        Factors are those of Shardy's sharding rules (openxla/shardy).

    Example:
        >>> import autosp
        >>> autosp.rules.rule("rule aten.relu.default(x[*]) -> [*]")
        Traceback (most recent call last):
        ...
        autosp.errors.RuleError: error: ...
        ...
    """
    caller = sys._getframe(1)
    rules = read(text, f"{os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno} rule")
    names = {(target, r.form is None) for r in rules for target in r.targets}
    problems = list(against_schemas(rules))
    if problems:
        raise RuleError(problems)
    REGISTERED[:] = [r for r in REGISTERED if not names & {(t, r.form is None) for t in r.targets}] + list(rules)
    if cases is not None:
        CASES.update(dict.fromkeys((target for target, _ in names), cases))

    def decorate(op: Op) -> Op:
        faults = [*against_schemas(rules), *of_another(op, rules)]
        if faults:
            REGISTERED[:] = [r for r in REGISTERED if r not in rules]
            raise RuleError(faults)
        return op

    return decorate


def folder() -> Path:
    """Where installed rules are: $AUTOSP_RULES, or autosp/rules in the user's configuration folder."""
    chosen = os.environ.get("AUTOSP_RULES")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "autosp" / "rules"


def installed_files() -> tuple[Path, ...]:
    """The rule files of the folder, sorted."""
    return tuple(sorted(folder().glob("*.rule")))


def installed() -> tuple[Rule, ...]:
    """The rules of the folder. Their place is the file's name alone: plans of several machines are compared."""
    return tuple(
        attrs.evolve(r, where=r.where.replace(str(path), path.name))
        for path in installed_files()
        for r in read(path.read_text(encoding="utf-8"), str(path))
    )


def own_rules() -> tuple[Rule, ...]:
    """Every rule of one's own: those registered in code are tried first."""
    return (*REGISTERED, *installed())


def stamp() -> tuple:
    """What a book of rules depends on, beside what ships."""
    files = tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in installed_files())
    return (*REGISTERED, *files)


def install(path: Path) -> Path:
    """Copy a rule file into the folder; gives where it is now."""
    target = folder() / path.with_suffix(".rule").name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return target


def against_schemas(rules: Iterable[Rule]) -> Iterator[Problem]:
    """Names of a rule that its operators' schemas lack, and tensors of theirs that it does not speak of."""
    for each in rules:
        for name in each.targets:
            schema = schema_of(resolve(name))
            if schema is not None:
                yield from kinds_against_schema(each, name, schema)
            if schema is not None and isinstance(each.form, Signature):
                yield from against_schema(each, each.form, name, schema)


def against_schema(each: Rule, form: Signature, name: str, schema: Any) -> Iterator[Problem]:
    """One rule against one operator's schema."""
    types = {a.name: str(a.type) for a in schema.arguments}
    operands = [o.name for o in form.operands]
    used = [s.arg for c in each.clauses for s in c.selectors if s.kind in ("at", "last", "padded")]
    named = [*operands, *(t.arg for c in each.clauses for t in c.tests), *(a for a in used if isinstance(a, str))]
    law = f"names are those of the operator's schema: {schema}"
    for word in dict.fromkeys(a for a in named if a not in types):
        fix = did_you_mean(word, types, f"use one of {', '.join(types) or 'none'}")
        yield Problem(f"'{word}' is not an argument of {name}", law, fix, each.where)
    needed = [a for a, kind in types.items() if "Tensor" in kind and not kind.startswith("Optional")]
    for word in (a for a in needed if a not in operands):
        what = f"'{word}' of {name} is a tensor, and the rule does not say its dims"
        yield Problem(what, law, f"add '{word}[...]' with its dims to the operands", each.where)
    if len(form.results) != len(schema.returns) and not form.each:
        what = f"{name} gives {len(schema.returns)} results, and the rule {len(form.results)}"
        yield Problem(what, law, "write the dims of each result after '->'", each.where)


def kinds_against_schema(each: Rule, name: str, schema: Any) -> Iterator[Problem]:
    """Arguments that a rule's kinds name and the operator does not have."""
    known = [a.name for a in schema.arguments]
    for word, *names in (n for c in each.clauses_of("kind") for n in c.names):
        kind = KINDS[word]
        for arg, what in zip(names, kind.names * (len(names) if kind.many else 1), strict=True):
            if what in ("operand", "argument") and arg not in known:
                law = f"names are those of the operator's schema: {schema}"
                fix = did_you_mean(arg, known, f"use one of {', '.join(known) or 'none'}")
                yield Problem(f"'{word}' names '{arg}', which is not an argument of {name}", law, fix, each.where)


def of_another(op: Any, rules: tuple[Rule, ...]) -> Iterator[Problem]:
    """A decorated operator that the text does not speak of."""
    own = qualified_name(op).replace("::", ".")
    targets = [t for r in rules for t in r.targets]
    if own and not any(t == own or t.startswith(f"{own}.") for t in targets):
        yield Problem(
            f"the rule speaks of {', '.join(targets)}, and decorates {own}",
            "a rule that decorates an operator speaks of that operator",
            f"write 'rule {own}.default(...)'",
            rules[0].where if rules else "",
        )
