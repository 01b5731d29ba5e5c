"""A rule as a value: an operator's tensors in dims, its dims in factors, and what may be split.

`str` of each value is canonical rule text: `read(str(rule)) == (rule,)`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs


@attrs.frozen
class Pack:
    """Any number of dims. `*` is aligned right and broadcasts; `...` is the same in every tensor.

    `change` removes (`without`) or adds (`with`) the positions that the argument `arg` names.
    """

    token: Literal["*", "..."] = "*"
    change: Literal["", "without", "with"] = ""
    arg: str = ""

    def __str__(self) -> str:
        return f"{self.token} {self.change} {self.arg}" if self.change else self.token


@attrs.frozen
class FactorDim:
    """One dim, made of `names`, outermost first. `maybe`: absent from tensors of lower rank."""

    names: tuple[str, ...]
    maybe: bool = False

    def __str__(self) -> str:
        text = self.names[0] if len(self.names) == 1 else f"({' '.join(self.names)})"
        return text + ("?" if self.maybe else "")


Item: TypeAlias = "Pack | FactorDim"
Dims: TypeAlias = "tuple[Item, ...]"


def dims_text(dims: Dims) -> str:
    """`[*, (k g), s]`"""
    return f"[{', '.join(map(str, dims))}]"


@attrs.frozen
class Operand:
    """A tensor argument, known by its name in the operator's schema."""

    name: str
    dims: Dims
    maybe: bool = False

    def __str__(self) -> str:
        return f"{self.name}{'?' if self.maybe else ''}{dims_text(self.dims)}"


@attrs.frozen
class Signature:
    """Operands and results. `each`: any number of results, all of the one form."""

    operands: tuple[Operand, ...]
    results: tuple[Dims, ...]
    each: bool = False

    def __str__(self) -> str:
        results = ", ".join(map(dims_text, self.results))
        return f"({', '.join(map(str, self.operands))}) -> {'each ' if self.each else ''}{results}"


@attrs.frozen
class Test:
    """A question about one argument of the call."""

    arg: str
    op: Literal["holds", "not", "==", "!=", "is tensor"]
    value: object = None

    def __str__(self) -> str:
        if self.op in ("==", "!="):
            return f"{self.arg} {self.op} {literal_text(self.value)}"
        return {"holds": self.arg, "not": f"not {self.arg}"}.get(self.op, f"{self.arg} {self.op}")


def literal_text(value: object) -> str:
    """A literal as rule text writes it."""
    keywords = {None: "none", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return keywords[value]
    return repr(value)


@attrs.frozen
class Selector:
    """Some factors: one by name, or positions of the pack."""

    kind: Literal["name", "pack", "at", "last", "padded", "resized"]
    arg: str | int = ""

    def __str__(self) -> str:
        if self.kind in ("name", "pack"):
            return str(self.arg)
        return f"{self.kind} {self.arg}".strip()


@attrs.frozen
class Clause:
    """What the rule says of factors (`whole`, `reduce`), of operands (`once`, `linear`, `saves`), or of the operator
    (`kind`, whose `names` are a word of `kinds.KINDS` each, and what that word names)."""

    word: Literal["whole", "reduce", "once", "linear", "saves", "movement", "random", "kind", "when"]
    selectors: tuple[Selector, ...] = ()
    names: tuple[tuple[str, ...], ...] = ()
    tests: tuple[Test, ...] = ()

    def __str__(self) -> str:
        tests = " and ".join(map(str, self.tests))
        if self.word == "when":
            return f"when {tests}"
        text = kind_text if self.word == "kind" else set_text
        what = ", ".join([str(s) for s in self.selectors] + [text(n) for n in self.names])
        return f"{self.word} {what}".rstrip() + (f" if {tests}" if tests else "")


def set_text(names: tuple[str, ...]) -> str:
    """`a`, or `(a b)` for operands that belong together."""
    return names[0] if len(names) == 1 else f"({' '.join(names)})"


def kind_text(names: tuple[str, ...]) -> str:
    """`view`, or `matmul(input, weight)`"""
    word, *names_of = names
    return f"{word}({', '.join(names_of)})" if names_of else word


@attrs.frozen
class Rule:
    """One rule for one or several operators: a signature, or the name of the code that binds it.

    form: None where it says nothing of dims, but only what kind of operators its targets are; a target may then be
    `namespace.name`, which stands for all overloads.
    """

    targets: tuple[str, ...]
    form: Signature | str | None
    clauses: tuple[Clause, ...] = ()
    where: str = attrs.field(default="", eq=False)

    def __str__(self) -> str:
        form = str(self.form) if isinstance(self.form, Signature) else f" by {self.form}" if self.form else ""
        head = f"{'operator' if self.form is None else 'rule'} {' | '.join(self.targets)}{form}"
        return "\n".join([head, *(f"     {clause}" for clause in self.clauses)])

    @property
    def guards(self) -> tuple[Test, ...]:
        """What must hold of a call for this rule to speak of it."""
        return tuple(t for c in self.clauses if c.word == "when" for t in c.tests)

    def clauses_of(self, word: str) -> tuple[Clause, ...]:
        """The clauses that start with `word`."""
        return tuple(c for c in self.clauses if c.word == word)
