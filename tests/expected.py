"""Golden texts: what autosp prints, held word by word in tests/golden.

`pytest --renew [TESTS]` writes those of the tests that it runs anew; read the diff before it is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
renewing = False  # set by tests/conftest.py, from --renew


def expect(file: str, text: str, same: Callable[[str], str] = str) -> None:
    """Holds a text against a file of tests/golden; `same` takes out of both what may differ."""
    path = GOLDEN / file
    held = path.read_text(encoding="utf-8") if path.exists() else ""
    if renewing and same(text) != same(held):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
        held = text
    assert same(text) == same(held)


def expect_block(file: str, name: str, text: str) -> None:
    """Holds a text against the block `=== name` of a file of tests/golden."""
    blocks = _blocks(file)
    if renewing:
        blocks[name] = text
        whole = "\n".join(f"=== {key}\n{value}\n" for key, value in sorted(blocks.items()))
        (GOLDEN / file).write_text(whole, encoding="utf-8")
    assert text == blocks.get(name)


def names(file: str) -> set[str]:
    """The names of a file's blocks."""
    return set(_blocks(file))


def _blocks(file: str) -> dict[str, str]:
    path = GOLDEN / file
    if not path.exists():
        return {}
    parts = (block.partition("\n") for block in path.read_text(encoding="utf-8").split("=== ")[1:])
    return {name: text.strip("\n") for name, _, text in parts}
