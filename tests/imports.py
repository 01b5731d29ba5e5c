"""Which file of autosp imports which: every import statement, wherever it stands in a file.

An import inside a function counts as one at the top does, and so does one under TYPE_CHECKING: a file whose annotations
name another's classes cannot be read without it. What is imported by a string (`importlib.import_module`) is not seen;
a test lists the files that do so.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "autosp"

Graph = Mapping[str, frozenset[str]]


def module_of(path: Path, package: Path = PACKAGE) -> str:
    """`autosp/solve/cost.py` is `autosp.solve.cost`; a package is its folder."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module, and its file."""
    return {module_of(path, package): path for path in sorted(package.rglob("*.py"))}


def imports_of(path: Path, package: Path = PACKAGE) -> list[str]:
    """Every module that a file imports. `from a import b` imports a.b where that is a module of ours, else a."""
    ours, found = modules(package), []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = _base(path, node, package)
            found += [each if each in ours else base for each in (f"{base}.{alias.name}" for alias in node.names)]
    return found


def _base(path: Path, node: ast.ImportFrom, package: Path) -> str:
    """The module after `from`, relative ones too."""
    if not node.level:
        return node.module or ""
    parents = path.relative_to(package.parent).parent.parts
    return ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])


def graph(package: Path = PACKAGE) -> Graph:
    """The modules of autosp that each of them imports, with the packages whose `__init__` runs for that."""
    ours = modules(package)
    return {name: frozenset(_reached(name, imports_of(path, package), ours)) for name, path in ours.items()}


def _reached(importer: str, imported: list[str], ours: Mapping[str, Path]) -> Iterator[str]:
    for name in imported:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            each = ".".join(parts[:end])
            begun = f"{importer}.".startswith(f"{each}.") and each != name  # the importer's own package runs before it
            if each in ours and each != importer and not begun:
                yield each


def cycles(edges: Graph) -> list[list[str]]:
    """The groups of two and more modules that import each other, on whatever way."""
    groups, seen = [], set()
    for name in edges:
        if name not in seen:
            group = {name} | (_from(name, edges) & _from(name, _turned(edges)))
            seen |= group
            groups += [sorted(group)] if len(group) > 1 else []
    return groups


def _from(start: str, edges: Graph) -> set[str]:
    """What can be reached from a module."""
    found, waiting = set(), [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def _turned(edges: Graph) -> Graph:
    turned: dict[str, set[str]] = {name: set() for name in edges}
    for name, others in edges.items():
        for other in others:
            turned[other].add(name)
    return {name: frozenset(others) for name, others in turned.items()}


def between_packages(edges: Graph) -> Graph:
    """The packages (and files) right under autosp that each of them imports."""
    found: dict[str, set[str]] = {}
    for name, others in edges.items():
        own = found.setdefault(_second(name), set())
        own |= {_second(other) for other in others} - {_second(name)}
    return {name: frozenset(others) for name, others in found.items()}


def _second(name: str) -> str:
    """`autosp.solve.cost` is of `solve`; `autosp` is of itself."""
    return name.split(".")[1] if "." in name else name


def reduced(edges: Graph) -> Graph:
    """The edges that no other way between the same two implies. Of a graph without cycles."""
    beyond = {name: frozenset().union(*(_from(other, edges) for other in others)) for name, others in edges.items()}
    return {name: others - beyond[name] for name, others in edges.items()}


def mermaid(edges: Graph, order: Sequence[str]) -> str:
    """A graph as Mermaid draws it, its nodes in this order; an arrow goes from what imports to what is imported."""
    lines = [f"    {name.replace('.', '_')}[{name}]" for name in order]
    lines += [f"    {name.replace('.', '_')} --> {other.replace('.', '_')}"
              for name in order for other in order if other in edges[name]]  # fmt: skip
    return "\n".join(["flowchart BT", *lines])
