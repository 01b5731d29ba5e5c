"""`parse`, `load` and `for_class`: a spec from text, from a file, and for a model class."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs

from .. import resources
from ..errors import Problem, SpecError, suggest
from ..syntax import At, Source, problem_at
from ..syntax.faults import Mark
from ..syntax.read import LayoutError
from . import messages
from .checks import marks_against_mesh, spec_problems
from .spec import Spec
from .statements import KEYWORDS, Statement, first_word, read_statement, spans
from .values import Statements

FIELD_OF = {
    "dim": "dims",
    "input": "inputs",
    "output": "outputs",
    "constrain": "constraints",
    "map": "maps",
    "tile": "tile",
}
OWN = ("family", "match", "include")  # what an included file states of itself alone


@attrs.define
class Draft:
    """What was read so far: statements, problems, the first words of statements that could not be
    read, and the words of layouts that were read and are faulty."""

    statements: list[Statement] = attrs.field(factory=list)
    problems: list[Problem] = attrs.field(factory=list)
    broken: set[str] = attrs.field(factory=set)
    faulty: list[tuple[tuple[Mark, ...], At | None]] = attrs.field(factory=list)

    def fail(self, keyword: str, problems: Iterable[Problem]) -> None:
        """Keep the problems of a statement that could not be read."""
        self.problems += problems
        self.broken.add(suggest(keyword, KEYWORDS) or keyword)


def key_of(statement: Statement) -> tuple[Any, ...]:
    """What a statement is about: a later one about the same replaces an included one."""
    value = statement.value
    if statement.keyword == "constrain":
        return "constrain", value.module, value.port
    if statement.keyword == "dim":
        return "dim", value.name, value.axis
    if statement.keyword in FIELD_OF:
        return statement.keyword, getattr(value, "name", None) or getattr(value, "module", None)
    return (statement.keyword,)


def read_file(path: Path, name: str) -> Source:
    """The text of a file. Raises SpecError where it cannot be read."""
    try:
        return Source(name, path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SpecError(Problem(*messages.bad_text(name, why))) from None


def read_draft(source: Source, chain: tuple[Path, ...]) -> Draft:
    """Every statement of a text, those of the files it includes first. `chain` are the files that led here."""
    draft = Draft()
    for begin, end in spans(source.text):
        try:
            draft.statements.append(read_statement(source, begin, end))
        except SpecError as error:
            if isinstance(error, LayoutError):
                draft.faulty.append((error.marks, error.at))
            draft.fail(first_word(source, begin, end), error.problems)
    draft.problems += repeated_statements(draft.statements)
    return with_included(draft, chain)


def repeated_statements(statements: list[Statement]) -> list[Problem]:
    """Statements that a file repeats and that can stand once."""
    first: dict[str, Statement] = {}
    problems = []
    for each in statements:
        if each.keyword in FIELD_OF or each.keyword == "include":
            continue
        before = first.setdefault(each.keyword, each)
        if before is not each:
            problems.append(problem_at(each.at, *messages.given_twice(f"'{each.keyword}'", str(before.at))))
    return problems


def with_included(draft: Draft, chain: tuple[Path, ...]) -> Draft:
    """The draft with its include lines replaced by what they say; its own lines win."""
    merged: dict[tuple[Any, ...], list[Statement]] = {}
    for each in draft.statements:
        if each.keyword == "include":
            inner = included(each, chain, draft)
            merged.update({key_of(s): [s] for s in inner if s.keyword not in OWN})
    own: dict[tuple[Any, ...], list[Statement]] = {}
    for each in draft.statements:
        if each.keyword != "include":
            own.setdefault(key_of(each), []).append(each)
    merged.update(own)
    draft.statements = [each for group in merged.values() for each in group]
    return draft


def included_path(name: str, folder: Path | None) -> Path | None:
    """The file that an include line of a spec in `folder` names: one beside the spec, else a shipped one. A text that is
    not a file has no folder, and may include shipped ones; None for any other."""
    beside = (folder / name).resolve() if folder is not None else None
    if (beside is None or not beside.is_file()) and name in shipped_files():
        return resources.path("models", name).resolve()
    return beside


def _folder(chain: tuple[Path, ...]) -> Path | None:
    return chain[-1].parent if chain else None


def shipped_files() -> list[str]:
    """The file names of the shipped specs."""
    return [f"{name}.spec" for name in resources.listing("models")]


def include_fault(name: str, chain: tuple[Path, ...]) -> messages.Message | None:
    """Why a file may not be included, if it may not."""
    folder = _folder(chain)
    path = included_path(name, folder)
    if path is None:
        return messages.no_folder(name)
    if path.parent not in (folder, resources.folder("models").resolve()) or Path(name).name != name:
        return messages.bad_include(name)
    if path in chain:
        return messages.include_cycle([p.name for p in (*chain, path)])
    if not path.is_file():
        beside = (p.name for p in folder.glob("*.spec")) if folder is not None else ()
        return messages.no_include(name, sorted({*shipped_files(), *beside}))
    return None


def included(line: Statement, chain: tuple[Path, ...], draft: Draft) -> list[Statement]:
    """The statements of an included file; its problems go to `draft`."""
    fault = include_fault(line.value, chain)
    if fault:
        draft.fail("include", [problem_at(line.at, *fault)])
        return []
    folder, name = _folder(chain), line.value
    path = included_path(name, folder)
    assert path is not None, "no fault was found with it"
    if path.parent == folder:
        name = os.path.join(os.path.dirname(line.at.source.name), line.value)
    try:
        inner = read_draft(read_file(path, name), (*chain, path))
    except SpecError as error:
        draft.fail("include", error.problems)
        return []
    draft.problems += inner.problems
    draft.broken |= inner.broken
    draft.faulty += inner.faulty
    return inner.statements


def fields_of(statements: list[Statement]) -> dict[str, Any]:
    """The fields of the Spec that these statements say."""
    fields: dict[str, Any] = {"places": {each.keyword: each.at for each in statements}}
    for each in statements:
        name = FIELD_OF.get(each.keyword)
        if name:
            fields[name] = (*fields.get(name, ()), each.value)
        else:
            fields[each.keyword] = each.value
    return fields


def by_place(problem: Problem) -> tuple[Any, ...]:
    """Sorts problems as their places stand in their files."""
    name, *numbers = problem.where.rsplit(":", 2)
    return name, *(int(n) for n in numbers if n.isdigit())


def spec_of(source: Source, chain: tuple[Path, ...] = ()) -> Spec:
    """The spec that a text states. Raises SpecError with every problem of it."""
    draft = read_draft(source, chain)
    fields = fields_of(draft.statements)
    if "mesh" not in fields and not draft.broken & {"mesh", "include"}:
        what, rule, fix = messages.no_mesh()
        draft.problems.append(Problem(what, rule, fix, source.name))
    problems = [*draft.problems, *draft_problems(fields, draft)]
    if problems:
        raise SpecError(sorted(dict.fromkeys(problems), key=by_place))
    return Spec(**fields)


def draft_problems(fields: dict[str, Any], read: Draft) -> list[Problem]:
    """What is wrong between the statements that could be read."""
    missing = {"mesh"} if "mesh" not in fields else set()
    draft = Statements(**fields)
    problems = spec_problems(draft, frozenset(read.broken | missing))
    for marks, at in read.faulty if draft.mesh else ():
        problems += marks_against_mesh(marks, at, draft.axes)
    return problems


def parse(text: str, filename: str = "<spec>") -> Spec:
    """A spec from its text.

    Args:
        text: statements of the spec language, one a line, `#` before a comment.
        filename: the name of the text in errors.

    Returns:
        A frozen `Spec`, whose `str` is canonical text that parses to an equal one.

    Raises:
        SpecError: the text cannot be read, or its statements do not fit each other; every problem is listed.

    Example:
        >>> import autosp
        >>> spec = autosp.parse("mesh [dp: local, sp]\\ninput x [batch@dp, seq@sp]")
        >>> spec.axes, str(spec.input("x").layout)
        (('dp', 'sp'), '[batch@dp, seq@sp]')
        >>> autosp.parse("mesh [dp, sp]\\ninput x [seq@ps]")
        Traceback (most recent call last):
        autosp.errors.SpecError: error: no axis 'ps' in mesh [dp, sp]
          --> <spec>:2:14
           input x [seq@ps]
                        ^^
           = rule: a layout names axes of the spec's mesh
           = fix: did you mean 'sp'?
    """
    return spec_of(Source(filename, text))


def load(name: str | os.PathLike[str]) -> Spec:
    """A spec from a file, or one that ships with autosp.

    Args:
        name: the name of a shipped spec (a file of `specs/models`, without its ending), or a path.

    Returns:
        The `Spec`, with what its `include` lines bring.

    Raises:
        SpecError: there is no such spec, or it is wrong; every problem is listed.

    Example:
        >>> import autosp
        >>> llama = autosp.load("llama")
        >>> llama.match, llama.attention, [each.name for each in llama.inputs]
        (('LlamaForCausalLM',), 'ulysses', ['input_ids', 'labels', 'position_ids', 'attention_mask'])
    """
    shipped = resources.listing("models")
    if str(name) in shipped:
        path = resources.path("models", str(name))
        return spec_of(read_file(path, path.name), (path.resolve(),))
    path = Path(name)
    if not path.is_file() and path.suffix != ".spec" and len(path.parts) < 2:
        raise SpecError(Problem(*messages.no_spec(str(name), shipped)))
    return spec_of(read_file(path, str(name)), (path.resolve(),))


@lru_cache
def family_for(class_name: str) -> str:
    """The name of the shipped spec whose `match` names the class, else causal_lm."""
    for name in resources.listing("models"):
        if class_name in resources.read("models", name) and class_name in load(name).match:
            return name
    return "causal_lm"


def for_class(class_name: str) -> Spec:
    """The shipped spec of the family that `class_name` belongs to, or the general causal_lm."""
    return load(family_for(class_name))
