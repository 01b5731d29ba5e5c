"""All rules by operator, and the projection of a call."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

import attrs

from ..compat.torch import OpOverload
from ..errors import Problem, RuleError
from ..resources import listing
from ..resources import read as read_resource
from . import user
from .binding import bind_signature
from .call import Call, Mismatch, all_hold, make_call, op_name, resolve
from .coded import TABLE
from .draft import draft_rule
from .flex import FLEX, flex_projection
from .model import Rule, Signature
from .operator_traits import Traits, names_of, traits_of
from .projection import Projection
from .rule_text import read

WHOLE_REGION = (
    "leave the decorator torch.compiler.nested_compile_region out: the region's operators are then the model's"
)


@attrs.frozen
class RuleBook:
    """Rules by operator name; an operator's rules are tried in the order in which they were read.

    speaking: all rules of an operator, those of its kinds included, by its name or by that of all its overloads.
    """

    rules: tuple[Rule, ...]
    by_name: dict[str, tuple[Rule, ...]] = attrs.field(init=False, eq=False, repr=False)
    speaking: dict[str, tuple[Rule, ...]] = attrs.field(init=False, eq=False, repr=False)
    _functional: dict[str, str] = attrs.field(init=False, eq=False, repr=False)
    _traits: dict[int, tuple[Any, Traits]] = attrs.field(init=False, eq=False, repr=False, factory=dict)  # by identity

    @by_name.default
    def _index(self) -> dict[str, tuple[Rule, ...]]:
        return by_target(r for r in self.rules if r.form is not None)

    @speaking.default
    def _all(self) -> dict[str, tuple[Rule, ...]]:
        return by_target(self.rules)

    def functional_of(self, target: Any) -> Any:
        """The operator of which a rule says that `target` is the in-place form; None where none says it."""
        return resolve(self._functional[op_name(target)]) if op_name(target) in self._functional else None

    @_functional.default
    def _forms(self) -> dict[str, str]:
        """In-place operators by name, with the operator whose rule names each."""
        clauses = ((t, c) for r in self.rules for t in r.targets for c in r.clauses_of("kind"))
        return {names[0]: target for target, c in clauses for word, *names in c.names if word == "inplace"}

    def traits(self, target: Any) -> Traits:
        """What kind of operator a call's target is. An overload that no rule names is of its default's kind."""
        known = self._traits.get(id(target))  # an operator's own hash costs more than all the rest
        if known is None:
            own, *every = names_of(target)
            speaking = [r for name in (own, *every) for r in self.speaking.get(name, ())]
            base = self.speaking.get(f"{every[0]}.default", ()) if every else ()
            known = target, traits_of(target, speaking or [r for r in base if not r.guards])
            self._traits[id(target)] = known
        return known[1]

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


def by_target(rules: Iterable[Rule]) -> dict[str, tuple[Rule, ...]]:
    """The rules of each operator, in their order."""
    rules_of: dict[str, tuple[Rule, ...]] = {}
    for rule in rules:
        for target in rule.targets:
            rules_of[target] = (*rules_of.get(target, ()), rule)
    return rules_of


def bind_rule(rule: Rule, call: Call) -> Projection:
    """The call in factors under one rule. Raises Mismatch where it does not fit."""
    if not all_hold(rule.guards, call):
        raise Mismatch(f"it speaks only of calls when {' and '.join(map(str, rule.guards))}")
    if isinstance(rule.form, Signature):
        return bind_signature(rule, rule.form, call)
    projection = TABLE[rule.form](call)
    return attrs.evolve(projection, movement=projection.movement or bool(rule.clauses_of("movement")))


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
    LATEST[:] = [tuple(user.REGISTERED), book_of(user.stamp())]
    return LATEST[1]


LATEST: list[Any] = []  # the rules that were registered, and the book, when it was last requested


def traits(target: Any) -> Traits:
    """What kind of operator a call's target is, by the rules that ship with autosp and one's own.

    Called for every node of a graph: files of one's own are looked at where `default_rules` is called, as a plan
    begins.
    """
    return latest().traits(target)


def functional_of(target: Any) -> Any:
    """The operator of which a rule says that `target` is the in-place form, under a name that does not say so."""
    return latest().functional_of(target)


def latest() -> RuleBook:
    """The rules as a plan last read them, and those that were registered since."""
    if not LATEST or ((LATEST[0] or user.REGISTERED) and LATEST[0] != tuple(user.REGISTERED)):
        default_rules()
    return LATEST[1]


@lru_cache(maxsize=8)
def book_of(stamp: tuple) -> RuleBook:
    """The book, made anew when one's own rules change."""
    return shipped_rules().with_rules(user.own_rules())


@cache
def shipped_rules() -> RuleBook:
    """The rules of specs/rules."""
    names = listing("rules")
    return RuleBook(tuple(r for n in names for r in read(read_resource("rules", n), f"specs/rules/{n}.rule")))
