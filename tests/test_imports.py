"""The shape of the package: imports point one way, between files too; one stage knows DeepSpeed, files stay small."""

from __future__ import annotations

import ast
import pkgutil
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

from tests.imports import PACKAGE, cycles, graph, imports_of, mermaid, module_of, reduced

FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports its own stage and the ones to its left.
STAGES = (
    "version errors collector compat resources syntax spec sharding rules capture folding solve lower recompute passes engine "
    "parity report cli"
).split()
PUBLIC = {"autosp", "autosp.deepspeed"}  # the front door imports any stage, and only `cli` comes through it
# What is imported by a string is not seen here: names that are there later, commands, and modules that a user names.
BY_STRING = {
    "autosp", "autosp.cli", "autosp.cli.rules", "autosp.compat.names", "autosp.parity", "autosp.parity.worker",
    "autosp.spec", "autosp.spec.build",
}  # fmt: skip
# Class names that are there twice: an error lists problems, and the solver solves one; both are the usual word.
TWICE = {"Problem": ["autosp.errors", "autosp.solve.problem"]}


def stage_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_one_way(path: Path):
    module = module_of(path)
    if module in PUBLIC:
        return
    own = stage_of(module)
    assert own in STAGES, f"{module} belongs to no stage"
    for other in imports_of(path):
        if other in PUBLIC:
            assert own == "cli", f"{module} imports {other}, the public surface"
        elif other.startswith("autosp."):
            assert _may_import(own, stage_of(other)), f"{module} ({own}) imports {other}"


def _may_import(own: str, other: str) -> bool:
    if other == "report":
        return own in ("report", "cli")
    return STAGES.index(other) <= STAGES.index(own)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_the_engine_imports_deepspeed(path: Path):
    imports_it = any(name.split(".")[0] == "deepspeed" for name in imports_of(path))
    assert not imports_it or module_of(path).startswith("autosp.engine")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_are_short(path: Path):
    assert len(path.read_text().splitlines()) < 400


def test_no_file_imports_itself_through_others():
    assert cycles(graph()) == []


def test_a_cycle_is_found(tmp_path: Path):
    texts = {
        "solve/__init__.py": "from .a import A",
        "solve/a.py": "def f():\n    from . import b",
        "solve/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..rules.c import C",
        "rules/__init__.py": "",
        "rules/c.py": "import autosp.solve.a",
        "rules/d.py": "from . import c",
    }
    for name, text in texts.items():
        path = tmp_path / "autosp" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = graph(tmp_path / "autosp")
    assert found["autosp.rules.c"] == {"autosp.solve", "autosp.solve.a"}, "a package's own file runs before its others"
    assert cycles(found) == [["autosp.rules.c", "autosp.solve", "autosp.solve.a", "autosp.solve.b"]]


def test_a_drawing_leaves_out_what_follows_from_others():
    a, b, c = {"a": {"b", "c"}}, {"b": {"c"}}, {"c": set()}
    edges = {name: frozenset(others) for name, others in (a | b | c).items()}
    assert mermaid(reduced(edges), ["c", "b", "a"]) == (
        "flowchart BT\n    c[c]\n    b[b]\n    a[a]\n    b --> c\n    a --> b"
    )


def test_imports_by_a_string_are_few():
    found = {module_of(path) for path in FILES if "import_module(" in path.read_text()}
    assert found == BY_STRING
    assert not [path for path in FILES if "__import__" in path.read_text()]


@pytest.mark.parametrize("package", [module_of(path) for path in FILES if path.name == "__init__.py"])
def test_no_name_of_a_package_hides_a_module_of_it(package: str):
    """`autosp.solve.cost` is the module, and a package's function has another name than the module that holds it."""
    found = import_module(package)
    for name in getattr(found, "__all__", ()):
        getattr(found, name)  # those that are there later, too
    for each in pkgutil.iter_modules(found.__path__):
        module = import_module(f"{package}.{each.name}")
        assert getattr(found, each.name) is module, module.__name__


def test_no_class_name_is_there_twice():
    homes = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(module_of(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == TWICE


def test_the_parser_sees_every_form_of_import(tmp_path: Path):
    path = tmp_path / "autosp" / "solve" / "x.py"
    path.parent.mkdir(parents=True)
    (path.parent / "cost.py").touch()
    (tmp_path / "autosp" / "rules").mkdir()
    (tmp_path / "autosp" / "rules" / "__init__.py").touch()
    path.write_text(
        "import autosp.engine\nfrom autosp import rules, compile\nfrom . import cost, Plan\nfrom ..spec import load\n"
        "def f():\n    from deepspeed.comm import x\n"
    )
    assert imports_of(path, tmp_path / "autosp") == [
        "autosp.engine", "autosp.rules", "autosp", "autosp.solve.cost", "autosp.solve", "autosp.spec", "deepspeed.comm",
    ]  # fmt: skip
