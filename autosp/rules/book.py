"""All rules by operator, and the projection of a call."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import attrs

from ..capture.messages import WHOLE_REGION
from ..compat.torch import OpOverload
from ..errors import Problem, RuleError
from ..resources import listing
from ..resources import read as read_resource
from . import user
from .binding import bind_signature
from .call import Call, Mismatch, all_hold, make_call, op_name
from .coded import TABLE
from .draft import draft_rule
from .flex import FLEX, flex_projection
from .model import Rule, Signature
from .projection import Projection
from .rule_text import read


@attrs.frozen
class RuleBook:
    """Rules by operator name; an operator's rules are tried in the order in which they were read."""

    rules: tuple[Rule, ...]
    by_name: dict[str, tuple[Rule, ...]] = attrs.field(init=False, eq=False, repr=False)

    @by_name.default
    def _index(self) -> dict[str, tuple[Rule, ...]]:
        found: dict[str, tuple[Rule, ...]] = {}
        for rule in self.rules:
            for target in rule.targets:
                found[target] = (*found.get(target, ()), rule)
        return found

    def names(self) -> tuple[str, ...]:
        """Every operator under rule, sorted."""
        return tuple(sorted(self.by_name))

    def has(self, target: OpOverload) -> bool:
        """Whether there is a rule for the operator."""
        return op_name(target) in self.by_name

    def bind(self, target: OpOverload, args: Any, kwargs: Any, results: Any) -> Projection:
        """The call in factors. Raises RuleError where no rule speaks of it."""
        if target is FLEX:
            return flex_projection(args, kwargs, results)
        if not isinstance(target, OpOverload):
            raise RuleError(no_schema(str(target)))
        call = make_call(target, args, kwargs, results)
        name, reasons = op_name(target), []
        for rule in self.by_name.get(name, ()):
            try:
                return attrs.evolve(bind_rule(rule, call), rule=rule.where)
            except Mismatch as reason:
                reasons.append(f"{rule.where}: {reason}")
        raise RuleError(no_rule(name, call) if not reasons else no_fit(name, reasons, call))

    def with_rules(self, rules: tuple[Rule, ...]) -> RuleBook:
        """A book in which `rules` are tried before the present ones."""
        return RuleBook((*rules, *self.rules))


def bind_rule(rule: Rule, call: Call) -> Projection:
    """The call in factors under one rule. Raises Mismatch where it does not fit."""
    if not all_hold(rule.guards, call):
        raise Mismatch(f"it speaks only of calls when {' and '.join(map(str, rule.guards))}")
    if isinstance(rule.form, Signature):
        return bind_signature(rule, rule.form, call)
    found = TABLE[rule.form](call)
    return attrs.evolve(found, movement=found.movement or bool(rule.said("movement")))


def no_schema(name: str) -> Problem:
    """An operator that takes functions: `flex_attention`, `cond`."""
    if name == "invoke_subgraph":
        return Problem(
            "a region of torch.compiler.nested_compile_region is one call",
            "a rule names the arguments of an operator's schema; a region has none, and its operators are out of sight",
            WHOLE_REGION,
        )
    return Problem(
        f"'{name}' is a higher-order operator: no rule can speak of it",
        "a rule names the arguments of an operator's schema; an operator that takes functions has none",
        "write the model in operators that have rules: torch.nn.functional.scaled_dot_product_attention for attention",
    )


def no_rule(name: str, call: Call) -> Problem:
    """An operator that has no rule."""
    return Problem(
        f"operator '{name}' has no rule",
        "an operator on a split value needs a rule that says which dims may be split",
        f"start from this draft, in which nothing is split yet: {proved(name)}\n" + indented(draft_rule(name, call)),
    )


def no_fit(name: str, reasons: list[str], call: Call) -> Problem:
    """An operator whose rules do not speak of this call."""
    return Problem(
        f"no rule of operator '{name}' fits this call: {'; '.join(reasons)}",
        "one of an operator's rules must fit the ranks, sizes and arguments of its call",
        f"start from this draft for this call, in which nothing is split yet: {proved(name)}\n"
        + indented(draft_rule(name, call)),
    )


def proved(name: str) -> str:
    """How a rule in a file becomes one of the book's."""
    module = "" if name.startswith("aten.") else " --import MODULE', MODULE being where the operator is made"
    return f"say what may be, and prove and install it with 'autosp rules add FILE.rule{module or chr(39)}"


def indented(text: str) -> str:
    """The text two columns to the right of an error's parts."""
    return "\n".join(f"     {line}" for line in text.split("\n"))


def default_rules() -> RuleBook:
    """The rules that ship with autosp, from specs/rules, and before them one's own.

    Raises RuleError where a file of one's own cannot be read as rules.
    """
    return book_of(user.stamp())


@lru_cache(maxsize=8)
def book_of(stamp: tuple) -> RuleBook:
    """The book, made anew when one's own rules change."""
    return shipped_rules().with_rules(user.own_rules())


@cache
def shipped_rules() -> RuleBook:
    """The rules of specs/rules."""
    names = listing("rules")
    return RuleBook(tuple(r for n in names for r in read(read_resource("rules", n), f"specs/rules/{n}.rule")))
