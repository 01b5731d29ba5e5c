"""docs/troubleshooting.md quotes messages that autosp prints, and every environment variable."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
FILES = sorted((ROOT / "autosp").rglob("*.py"))
QUOTED = re.findall(r"^(?:error|warning): (?:autosp: )?(.+)$", PAGE, re.MULTILINE)
BLANK = "…"  # what stands for a value, in the page and in a text of the code


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a file, values in it as `…`; added texts are one."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
            yield written(node)


def written(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else BLANK
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return written(node.left) + written(node.right)
    return BLANK


def says(text: str, quoted: str) -> bool:
    """Whether a text of the code, filled in, can be what is quoted, word by word."""
    return re.fullmatch(".+".join(map(re.escape, re.split(f"{BLANK}+", quoted))), text) is not None


TEXTS = sorted({text for path in FILES for text in texts(ast.parse(path.read_text(encoding="utf-8")))})


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_message_that_is_quoted_is_in_the_code(quoted: str):
    assert any(says(text, quoted) for text in TEXTS)


def test_there_are_many_and_a_made_up_one_is_not_found():
    assert len(QUOTED) >= 25 and len(set(QUOTED)) == len(QUOTED)
    assert not any(says(text, "ranks differ in their hopes: …") for text in TEXTS)


def test_every_block_is_a_message():
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(QUOTED) and all(re.fullmatch(r"(error|warning): .+\n", block) for block in blocks)


def test_every_environment_variable_is_listed():
    variables = {text for text in TEXTS if re.fullmatch(r"AUTOSP_[A-Z]+", text)}
    assert variables == set(re.findall(r"^\| `(AUTOSP_[A-Z]+)", PAGE, re.MULTILINE))
