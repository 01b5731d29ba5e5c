"""The shape of the package: imports point one way, one stage knows DeepSpeed, files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "autosp"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports its own stage and the ones to its left.
STAGES = "errors compat resources syntax spec layout capture rules solve lower recompute passes parity engine report cli".split()
PUBLIC = {"autosp", "autosp.deepspeed"}  # the front door imports any stage, and only `cli` comes through it


def module_of(path: Path) -> str:
    """`autosp/solve/cost.py` is `autosp.solve.cost`; a package is its folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def stage_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> list[str]:
    """Every module that a file imports, wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            found += _from(path, node)
    return found


def _from(path: Path, node: ast.ImportFrom) -> list[str]:
    """`from autosp import x` imports autosp.x when x is a stage."""
    base = node.module or ""
    if node.level:
        parents = path.relative_to(PACKAGE.parent).parent.parts
        base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
    if base == "autosp":
        return [f"autosp.{alias.name}" if alias.name in STAGES else "autosp" for alias in node.names]
    return [base]


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


def test_the_parser_sees_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.test_imports.PACKAGE", tmp_path / "autosp")
    path = tmp_path / "autosp" / "solve" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import autosp.engine\nfrom autosp import rules, compile\nfrom . import cost\nfrom ..spec import load\n"
        "def f():\n    from deepspeed.comm import x\n"
    )
    assert imports_of(path) == [
        "autosp.engine", "autosp.rules", "autosp", "autosp.solve", "autosp.spec", "deepspeed.comm",
    ]  # fmt: skip
