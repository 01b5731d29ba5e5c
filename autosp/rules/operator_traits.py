"""What kind of operator a call is of: read from the rules, wherever a stage has to know it.

`rules.traits(target)` is the one entry. A rule says the kind in `kind` clauses (`kinds.KINDS` has the words), PyTorch
by the operator's tags, and no set of operators' names stands anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch

from ..compat.torch import HigherOrderOperator, OpOverload, base_name
from .call import CallArguments, arguments, op_name, resolve
from .kinds import KINDS
from .model import Clause, Rule

COLLECTIVES = ("_c10d_functional", "c10d_functional", "_c10d_functional_autograd")
# Parts of names, for operators that draw and bear no tag: a second run of one would give other numbers.
RANDOM = ("rand", "dropout", "bernoulli", "multinomial", "inductor_seed", "philox", "normal_")
TAGS = {torch.Tag.pointwise: "pointwise", torch.Tag.nondeterministic_seeded: "random"}


@attrs.frozen(eq=False)
class Traits:
    """What kind of operator one is. `word in traits`: whether it is of that kind, on some calls at least.

    kinds: all that the rules state, with the names that go with it. rules: those of the operator, in the order
    in which they are tried.
    """

    operator: str
    kinds: Mapping[str, tuple[str, ...]]
    rules: tuple[Rule, ...] = ()

    def __contains__(self, word: str) -> bool:
        if word in self.kinds:
            return True
        if word not in KINDS:
            raise KeyError(f"'{word}' is not a word of kinds.KINDS")
        return False

    def names(self, word: str) -> tuple[str, ...]:
        """What a word names: the operands of a `matmul`, say; nothing where the operator is not of that kind."""
        return self.kinds[word] if word in self else ()

    def operator_of(self, word: str) -> Any:
        """The operator that a word names, or None where this one is not of that kind."""
        return resolve(self.kinds[word][0]) if word in self else None

    def on(self, word: str, target: Any, args: Sequence, kwargs: Mapping) -> bool:
        """Whether a call is of a kind, where only some calls of the operator are (`if`, `when`)."""
        return word in self and bool(self.clause(word, target, args, kwargs))

    def clause(self, word: str, target: Any, args: Sequence, kwargs: Mapping) -> Clause | None:
        """The clause that states a call's kind; None where the call is of another."""
        if not any(clauses(rule, word) for rule in self.rules):
            return TAGGED
        call = CallArguments(arguments(target, args, kwargs) if isinstance(target, OpOverload) else {})
        for rule in self.rules:
            stating = clauses(rule, word)
            if not call.meets(rule.guards):
                continue
            hit = next((c for c in stating if call.meets(c.tests)), None)
            if hit is not None or (rule.form is not None and (stating or rule.guards)):
                return hit  # None: the rule of the call states no such kind
        return None


TAGGED = Clause("kind")  # in place of a clause where PyTorch's tags state it


def traits_of(target: Any, speaking: Iterable[Rule]) -> Traits:
    """The traits of an operator that these rules speak of."""
    rules = tuple(speaking)
    kinds: dict[str, tuple[str, ...]] = {}
    for rule in rules:
        for clause in rule.clauses:
            for word, *names in kinds_of(clause):
                kinds.setdefault(word, tuple(names))
    for word in pytorch_kinds(target):
        kinds.setdefault(word, ())
    return Traits(names_of(target)[0], kinds, rules)


def kinds_of(clause: Clause) -> Iterator[tuple[str, ...]]:
    """The kinds that one clause states, each with what it names."""
    if clause.word == "random":
        yield ("random",)
    if clause.word == "kind":
        yield from clause.names


def clauses(rule: Rule, word: str) -> list[Clause]:
    """The clauses of a rule that state a kind."""
    return [c for c in rule.clauses if any(w == word for w, *_ in kinds_of(c))]


def pytorch_kinds(target: Any) -> Iterator[str]:
    """The kinds of an operator by PyTorch's tags, by the namespace of its collectives, and by its name."""
    if not isinstance(target, OpOverload):
        return
    yield from (word for tag, word in TAGS.items() if tag in target.tags)
    if target.namespace in COLLECTIVES and base_name(target) != "wait_tensor":
        yield "collective"
    if any(part in base_name(target) for part in RANDOM):
        yield "random"


def names_of(target: Any) -> tuple[str, ...]:
    """The names by which rules speak of an operator: its own, and that of all its overloads."""
    if isinstance(target, OpOverload):
        return op_name(target), f"{target.namespace}.{base_name(target)}"
    if isinstance(target, HigherOrderOperator):
        return (f"higher_order.{target.name()}",)
    return (f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}",)
