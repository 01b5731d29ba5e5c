"""Exact texts in tests/golden/engine: blocks of `=== name` and what each rank must say.

`AUTOSP_UPDATE_GOLDEN=1 pytest tests/engine` rewrites them; read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "golden" / "engine"


def expect(file: str, name: str, text: str) -> None:
    """Holds a text against its block; in update mode writes it there."""
    path = FOLDER / f"{file}.txt"
    blocks = _read(path)
    if os.environ.get("AUTOSP_UPDATE_GOLDEN"):
        blocks[name] = text
        path.write_text("\n".join(f"=== {key}\n{value}\n" for key, value in sorted(blocks.items())))
    assert text == blocks.get(name)


def names(file: str) -> set[str]:
    return set(_read(FOLDER / f"{file}.txt"))


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    parts = (block.partition("\n") for block in path.read_text().split("=== ")[1:])
    return {name: text.strip("\n") for name, _, text in parts}
