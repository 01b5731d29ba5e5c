"""Rule text to `Rule` values. Every error of a file is found, with its line, column and a caret."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

import lark

from ..errors import Problem, RuleError, did_you_mean
from ..resources import read as read_resource
from .check import check_rule
from .model import Clause, FactorDim, Operand, Pack, Rule, Selector, Signature, Test

KEYWORDS = ("rule", "operator", "by", "whole", "reduce", "once", "linear", "saves", "movement", "random", "kind",
            "when", "if", "at", "last", "padded", "resized", "each", "with", "without")  # fmt: skip
SHOWN = {
    **{"LSQB": "'['", "RSQB": "']'", "LPAR": "'('", "RPAR": "')'", "COMMA": "','", "VBAR": "'|'", "MAYBE": "'?'"},
    **{"NAME": "a name", "PACK": "'*' or '...'", "TARGET": "an operator", "INT": "a number", "$END": "the end"},
    "ALL_OVERLOADS": "an operator",
    **{"_ARROW": "'->'", "_EQUAL": "'=='", "_DIFFERENT": "'!='"},
}
FORM = "a rule is 'rule OPERATOR(operand[dims], ...) -> [dims]' or 'rule OPERATOR by CODE', then its clauses"
LITERALS = {"none": None, "true": True, "false": False}


@cache
def parser() -> lark.Lark:
    """The parser of grammar/rule.lark."""
    return lark.Lark(read_resource("grammar", "rule"), parser="lalr", propagate_positions=True, maybe_placeholders=True)


class ToRules(lark.Transformer):
    """Parse tree to values; one method a grammar rule."""

    def start(self, rules):
        return tuple(rules)

    @lark.v_args(meta=True)
    def rule(self, meta, parts):
        targets, form, *clauses = parts
        return Rule(targets, form, tuple(clauses), where=f"{meta.line}:{meta.column}")

    @lark.v_args(meta=True)
    def operator(self, meta, parts):
        targets, *clauses = parts
        return Rule(targets, None, tuple(clauses), where=f"{meta.line}:{meta.column}")

    def targets(self, names):
        return tuple(map(str, names))

    overloads = targets

    def kind(self, names):
        return tuple(str(n) for n in names if n is not None)

    def coded(self, parts):
        return str(parts[0])

    def signature(self, parts):
        *operands, (each, results) = parts
        return Signature(tuple(o for o in operands if o is not None), results, each)

    def results(self, parts):
        return parts[0] is not None, tuple(parts[1:])

    def operand(self, parts):
        name, maybe, dims = parts
        return Operand(str(name), dims, maybe is not None)

    def dims(self, items):
        return tuple(i for i in items if i is not None)

    def pack(self, parts):
        token, *change = parts
        change = [str(c) for c in change if c is not None]
        return Pack(str(token), *change)

    def dim(self, parts):
        *names, maybe = parts
        return FactorDim(tuple(map(str, names)), maybe is not None)

    def names(self, names):
        return tuple((str(n),) for n in names)

    def linear_set(self, names):
        return tuple(map(str, names))

    def selectors(self, children):
        return tuple(children)

    by_name = lambda self, p: Selector("name", str(p[0]))  # noqa: E731
    by_pack = lambda self, p: Selector("pack", str(p[0]))  # noqa: E731
    by_position = lambda self, p: Selector("at", argument(p[0]))  # noqa: E731
    by_last = lambda self, p: Selector("last", argument(p[0]))  # noqa: E731
    by_padding = lambda self, p: Selector("padded", str(p[0]))  # noqa: E731
    by_resized = lambda self, p: Selector("resized")  # noqa: E731

    holds = lambda self, p: Test(str(p[0]), "holds")  # noqa: E731
    holds_not = lambda self, p: Test(str(p[0]), "not")  # noqa: E731
    equals = lambda self, p: Test(str(p[0]), "==", p[1])  # noqa: E731
    differs = lambda self, p: Test(str(p[0]), "!=", p[1])  # noqa: E731
    is_tensor = lambda self, p: Test(str(p[0]), "is tensor")  # noqa: E731

    def literal(self, parts):
        token = parts[0]
        if token.type == "STRING":
            return str(token)[1:-1]
        if token.type in ("INT", "FLOAT"):
            return int(token) if token.type == "INT" else float(token)
        return LITERALS[str(token)]

    def tests(self, tests):
        return tuple(tests)

    def condition(self, parts):
        return parts[0]

    whole = lambda self, p: Clause("whole", selectors=p[0], tests=p[1] or ())  # noqa: E731
    reduce = lambda self, p: Clause("reduce", selectors=p[0], tests=p[1] or ())  # noqa: E731
    once = lambda self, p: Clause("once", names=p[0], tests=p[1] or ())  # noqa: E731
    saves = lambda self, p: Clause("saves", names=p[0], tests=p[1] or ())  # noqa: E731
    linear = lambda self, p: Clause("linear", names=tuple(p[:-1]), tests=p[-1] or ())  # noqa: E731
    movement = lambda self, p: Clause("movement")  # noqa: E731
    random = lambda self, p: Clause("random", tests=p[0] or ())  # noqa: E731
    kinds = lambda self, p: Clause("kind", names=tuple(p[:-1]), tests=p[-1] or ())  # noqa: E731
    when = lambda self, p: Clause("when", tests=p[0])  # noqa: E731


def argument(token: lark.Token) -> str | int:
    """A position's argument: a name of the schema, or a number."""
    return int(token) if token.type == "INT" else str(token)


def read(text: str, file: str = "<rules>") -> tuple[Rule, ...]:
    """The rules of a text. Raises RuleError with every problem found."""
    problems: list[Problem] = []
    try:
        rules = parse(text, 0, file)
    except lark.UnexpectedInput:
        rules = ()
        for block, line in blocks(text):
            try:
                rules += parse(block, line, file)
            except lark.UnexpectedInput as error:
                problems.append(syntax_problem(error, block, line, file))
    for rule in rules:
        problems += [located(p, rule, text) for p in check_rule(rule)]
    if problems:
        raise RuleError(problems)
    return rules


def parse(text: str, line: int, file: str) -> tuple[Rule, ...]:
    """The rules of a text that starts after `line` lines of its file."""
    rules = ToRules().transform(parser().parse(text))
    return tuple(place(rule, line, file) for rule in rules)


def place(rule: Rule, line: int, file: str) -> Rule:
    """The rule with `file:line:column` of its first word."""
    at, column = rule.where.split(":")
    return Rule(rule.targets, rule.form, rule.clauses, where=f"{file}:{int(at) + line}:{column}")


def blocks(text: str) -> list[tuple[str, int]]:
    """The text cut before each line that starts a rule, with the number of lines before each cut."""
    starts = [m.start() for m in re.finditer(r"^[ \t]*(?:rule|operator)\b", text, re.MULTILINE)]
    cuts = [0, *[s for s in starts if s > 0], len(text)]
    return [(text[a:b], text.count("\n", 0, a)) for a, b in pairwise(cuts)]


def syntax_problem(error: lark.UnexpectedInput, block: str, line: int, file: str) -> Problem:
    """What is wrong at the place where the parser stopped."""
    lines = block.rstrip().split("\n")
    at, column = (error.line, error.column) if error.line > 0 else (len(lines), len(lines[-1]) + 1)
    if isinstance(error, lark.UnexpectedToken) and error.token.type == "$END":
        at, column = len(lines), len(lines[-1]) + 1
    shown = lines[min(at, len(lines)) - 1]
    what, rule, fix = explain(error, shown, column)
    return Problem(what, rule, fix, where=f"{file}:{at + line}:{column}", excerpt=caret(shown, column))


def explain(error: lark.UnexpectedInput, shown: str, column: int) -> tuple[str, str, str]:
    """What, rule and fix for a place where the text is no rule."""
    word = re.match(r"[\w.]+|\S|$", shown[column - 1 :]).group()
    name = re.match(r"\s*rule\s+(\w+\.\w+)(?![\w.])", shown)
    if name and word in name.group(1):
        what, fix = f"'{name.group(1)}' names no overload", f"write '{name.group(1)}.default', or the graph's overload"
        return what, "an operator is written namespace.name.overload", fix
    what = f"unexpected '{word}'" if word else "the rule ends too soon"
    likely = did_you_mean(word, KEYWORDS, "") if len(word) > 2 and word not in KEYWORDS else ""
    fix = {"=": "write '==' to compare"}.get(word) or likely or f"expected {expected(error)}"
    return what, FORM, fix


def expected(error: lark.UnexpectedInput) -> str:
    """What could have stood at the place, in words."""
    names = getattr(error, "accepts", None) or getattr(error, "expected", None) or getattr(error, "allowed", None)
    shown = {SHOWN.get(n, f"'{n.strip('_').lower()}'") for n in names or ()}
    return "a clause" if len(shown) > 8 else " or ".join(sorted(shown)) or "a rule"


def caret(line: str, column: int) -> str:
    """A source line with a caret under one column."""
    return f"{line}\n{' ' * (column - 1)}^"


def located(problem: Problem, rule: Rule, text: str) -> Problem:
    """The problem with the rule's place, and a caret under the word it quotes first."""
    file, at, _ = rule.where.rsplit(":", 2)
    lines = text.split("\n")
    quoted = re.search(r"'([^']+)'", problem.what)
    first = int(at) - 1
    for i in range(first, len(lines)):
        if i > first and re.match(r"\s*(rule|operator)\b", lines[i]):
            break
        hit = quoted and re.search(rf"(?<!\w){re.escape(quoted.group(1))}(?!\w)", lines[i].split("#")[0])
        if hit:
            return mark(problem, file, i, hit.start() + 1, lines[i])
    return mark(problem, file, first, 1, lines[first])


def mark(problem: Problem, file: str, index: int, column: int, line: str) -> Problem:
    """The problem at a line (counted from 0) and column."""
    return Problem(problem.what, problem.rule, problem.fix, f"{file}:{index + 1}:{column}", caret(line, column))
