"""Private names of torch, transformers and DeepSpeed: used in `autosp/compat` alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "autosp"
FILES = sorted(p for p in PACKAGE.rglob("*.py") if "compat" not in p.relative_to(PACKAGE).parts)
LIBRARIES = ("torch", "transformers", "deepspeed")

# Modules without an underscore that their libraries' documentation does not promise either.
INTERNAL = (
    "torch.fx.experimental", "torch.fx.passes", "torch.fx.traceback", "torch.amp.autocast_mode", "torch.utils.weak",
    "torch.utils.flop_counter.flop_registry", "torch.distributed.distributed_c10d", "torch.autograd.graph.Node",
    "transformers.utils", "transformers.integrations", "transformers.modeling_utils", "deepspeed.runtime",
    "deepspeed.compile", "deepspeed.utils",
)  # fmt: skip
# What belongs to symbolic sizes, traces and placeholders of Dynamo, on objects whose class is not in sight.
ATTRIBUTES = frozenset({"shape_env", "backed_var_to_val", "var_to_val", "tensor_to_context", "symbolic_context"})
KEYS = frozenset({"grapharg", "tensor_dict"})  # of a node's meta
OPERATORS = ("torch.ops.", "aten.")  # names of operators, which programs hold, are public with any spelling
PYTHON = ("sys._getframe",)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the text of each private name that is not the file's own."""
    own = _own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if _is_internal(a.name))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in names if _is_internal(name))
        elif isinstance(node, ast.Attribute):
            yield from ((node.lineno, text) for text in _attribute(node, own))
        elif isinstance(node, ast.keyword) and node.arg and is_private(node.arg):
            yield node.value.lineno, f"{node.arg}="
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((node.lineno, text) for text in _string(node.value))
        if isinstance(node, ast.Call):
            yield from ((node.lineno, text) for text in _looked_up(node, own))


def _own_names(tree: ast.Module) -> set[str]:
    """Private names that the file itself defines, on classes and on `self`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            found.add(node.attr)
    return found


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _is_internal(name: str) -> bool:
    if name.split(".")[0] not in LIBRARIES:
        return False
    return any(map(is_private, name.split("."))) or any(name == x or name.startswith(f"{x}.") for x in INTERNAL)


def _attribute(node: ast.Attribute, own: set[str]) -> Iterator[str]:
    text = ast.unparse(node)
    if text.startswith((*OPERATORS, *PYTHON)):
        return
    if node.attr in ATTRIBUTES or _is_internal(text):
        yield text
    elif is_private(node.attr) and node.attr not in own:
        yield text
    elif node.attr in ("hint", "expr") and isinstance(node.value, ast.Attribute) and node.value.attr == "node":
        yield text  # of a SymInt


def _string(text: str) -> Iterator[str]:
    if text in KEYS or (text.replace(".", "").isidentifier() and _is_internal(text)):
        yield repr(text)


def _looked_up(node: ast.Call, own: set[str]) -> Iterator[str]:
    """`getattr(x, "_name")` and its like."""
    if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr", "delattr"):
        name = node.args[1]
        if isinstance(name, ast.Constant) and (is_private(name.value) or name.value in ATTRIBUTES):
            if name.value not in own:
                yield ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_private_name_is_used_through_compat(path: Path):
    found = [f"{path.name}:{line}: {text}" for line, text in private_names(ast.parse(path.read_text()))]
    assert not found, "move to autosp/compat: " + ", ".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import torch._dynamo",
        "from torch._subclasses.fake_tensor import FakeTensor",
        "from torch.fx.experimental.proxy_tensor import make_fx",
        "def f():\n    from torch._inductor import config",
        "import deepspeed.runtime.engine",
        "torch._guards.TracingContext.get()",
        "torch.utils._pytree.tree_map(f, x)",
        "engine._config",
        "target._schema.arguments",
        "node.meta.get('grapharg')",
        "mode.shape_env",
        "size.node.hint",
        "getattr(gm, '_param_name_to_source', None)",
        "getattr(mode, 'shape_env', None)",
        "make_fx(f, _allow_non_fake_inputs=True)",
        "sys.modules.get('transformers.utils.output_capturing')",
    ],
)
def test_every_form_of_use_is_seen(line: str):
    assert list(private_names(ast.parse(line)))


@pytest.mark.parametrize(
    "text",
    [
        "from torch.distributed.device_mesh import DeviceMesh",
        "torch.ops.aten._to_copy.default, aten._unsafe_view",
        "class A:\n    _made = None\n    def f(self, other):\n        self._made = other._made",
        "sys._getframe(1)",
        "torch.compiler.reset()",
        "x.__class__",
        "NAMES = {'_scaled_mm'}",
    ],
)
def test_public_and_own_names_pass(text: str):
    assert not list(private_names(ast.parse(text)))
