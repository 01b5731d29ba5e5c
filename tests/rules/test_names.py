"""Knowledge of operators stands in the rules: no file beside autosp/rules and autosp/compat holds a set of their names.

An operator may be named where a program is built (`graph.call_function(aten.cat.default, ...)`). It may not stand in a
set, a tuple or a table, nor be what a node's operator is compared with: that is a question for `rules.traits`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autosp.rules.kinds import KINDS

PACKAGE = Path(__file__).parents[2] / "autosp"
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] not in ("rules", "compat"))
WORDS = ("dim", "tile")  # of the spec language, that are operators too
OURS = ("autosp", "autosp_local", "autosp_tiles", "higher_order")  # our own operators, and what takes functions

# Where an operator is looked for that autosp, or Dynamo, has written: it means this call, and no kind of operator.
ALLOWED = {
    ("lower/checker.py", "copy_"): "lowering writes a buffer's new value by it",
    ("lower/checker.py", "sym_size.int"): "lowering reads a shard's length by it",
    ("lower/match.py", "detach"): "lowering cuts a gradient by it",
    ("lower/match.py", "sym_size.int"): "lowering reads a shard's length by it",
    ("lower/band_check.py", "cat"): "windows are joined by it",
    ("lower/band_check.py", "split_with_sizes"): "windows are cut by it",
    ("lower/band_check.py", "slice.Tensor"): "windows are cut by it",
    ("lower/band_check.py", "copy_"): "lowering writes a buffer's new value by it",
    ("lower/grouped.py", "expand"): "what was repeated is read by it",
    ("lower/grouped.py", "squeeze.dim"): "what was repeated is read by it",
    ("lower/grouped.py", "transpose.int"): "what was repeated is read by it",
    ("recompute/tile_check.py", "split_with_sizes"): "tiles are cut by it",
    ("recompute/tile_check.py", "detach"): "a tile waits for the one before by it",
    ("recompute/tile_check.py", "reshape"): "tiles of a part of a dim are opened and closed by it",
    ("recompute/tile_check.py", "add.Tensor"): "tiles that are sums are added by it",
    ("recompute/tile_check.py", "cat"): "tiles are joined by it",
    ("recompute/tile_check.py", "copy_"): "lowering writes a buffer's new value by it",
    ("recompute/tile_emit.py", "sym_size.int"): "lowering reads a shard's length by it",
    ("capture/assertions.py", "_assert_async"): "Dynamo writes assertions by it, and they are written anew",
    ("capture/assertions.py", "_assert_async.msg"): "what they are written as",
    ("capture/assertions.py", "_assert_scalar"): "Dynamo writes assertions by it, and they are written anew",
    ("capture/assertions.py", "sym_size.int"): "Dynamo asserts of it that it is not negative",
}


def operator_in(node: ast.AST) -> str:
    """`add.Tensor` of `aten.add.Tensor` or `torch.ops.aten.add.Tensor`, `cat` of `aten.cat.default`; '' of others."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    parts.insert(0, node.id if isinstance(node, ast.Name) else "")
    if parts[:2] == ["torch", "ops"] and len(parts) > 3 and parts[2] not in OURS:
        return ".".join(parts[3:]).removesuffix(".default")
    return ".".join(parts[1:]).removesuffix(".default") if parts[0] in ("aten", "prims") and len(parts) > 1 else ""


def is_name(text: object) -> bool:
    """Whether a text is the name of an operator of PyTorch, and no word by which the rules are asked."""
    if not isinstance(text, str) or not text.isidentifier() or text in KINDS or text in WORDS:
        return False
    return any(f"{space}::{text}" in REGISTERED for space in ("aten", "prims", "_c10d_functional"))


REGISTERED = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}


def held(node: ast.AST) -> list[ast.AST]:
    """What a set, a list, a tuple or a table's keys hold."""
    if isinstance(node, ast.Dict):
        return [k for k in node.keys if k is not None]
    return list(node.elts) if isinstance(node, (ast.Set, ast.List, ast.Tuple)) else []


def faults(text: str, file: str) -> Iterator[str]:
    """Every place of a file where operators are known by name."""
    for node in ast.walk(ast.parse(text)):
        members = held(node)
        operators = [x for x in map(operator_in, members) if x and (file, x) not in ALLOWED]
        if operators:
            yield f"{file}:{node.lineno} holds {', '.join(operators)}"
        texts = [m.value for m in members if isinstance(m, ast.Constant)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "split":
            texts = str(node.func.value.value).split() if isinstance(node.func.value, ast.Constant) else []
        names = sorted(set(filter(is_name, texts)))
        if len(names) > 1 or any(isinstance(t, str) and t.startswith(("aten.", "aten::", "prims.")) for t in texts):
            yield f"{file}:{node.lineno} holds the names {', '.join(names)}"
        if isinstance(node, ast.Compare):
            compared = [x for x in map(operator_in, [node.left, *node.comparators]) if x and (file, x) not in ALLOWED]
            if compared:
                yield f"{file}:{node.lineno} compares with {', '.join(compared)}"
            calls = [c for c in (node.left, *node.comparators) if isinstance(c, ast.Call)]
            if any(
                getattr(c.func, "id", getattr(c.func, "attr", "")) in ("name_of", "base_name", "op_name") for c in calls
            ):
                yield f"{file}:{node.lineno} compares an operator's name"
        if isinstance(node, ast.keyword) and node.arg == "target" and (found := operator_in(node.value)):
            if (file, found) not in ALLOWED:
                yield f"{file}:{node.value.lineno} looks for {found}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_knows_operators_by_their_names(path: Path):
    assert not list(faults(path.read_text(), str(path.relative_to(PACKAGE))))


def test_every_exception_is_still_one():
    for file, operator in ALLOWED:
        nodes = ast.walk(ast.parse((PACKAGE / file).read_text()))
        assert operator in {operator_in(n) for n in nodes}, (file, operator)


@pytest.mark.parametrize(
    "text",
    [
        "MATMULS = {aten.mm.default, aten.bmm.default}",
        "TABLE = {torch.ops.aten.add.Tensor: 1}",
        "if node.target is aten.linear.default: pass",
        "found = node.target in (aten.linear.default,)",
        "MATMULS = frozenset('mm addmm bmm'.split())",
        "LOSSES = ('nll_loss_forward', '_log_softmax')",
        "RULE = ['aten.mm.default']",
        "if name_of(node) == 'mm': pass",
        "gm.graph.find_nodes(op='call_function', target=aten.dropout.default)",
        "rewrite = dict(a=1) | {'x': 1} if n.target == torch.ops.aten.cat.default else {}",
    ],
)
def test_a_set_of_names_is_found(text: str):
    assert list(faults(text, "x.py"))


@pytest.mark.parametrize(
    "text",
    [
        "graph.call_function(aten.cat.default, (parts, -2))",
        "emit(torch.ops.aten.add.Tensor, (a, b), {})",
        "found = {'view': 1, 'permute': 2}",
        "if is_a(node, 'matmul'): pass",
        "from torch import ops\nMODES = ('none', 'full', 'sac')",
    ],
)
def test_building_a_program_is_none(text: str):
    assert not list(faults(text, "x.py"))
