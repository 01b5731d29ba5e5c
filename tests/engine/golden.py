"""Exact texts in tests/golden/engine: blocks of `=== name` and what each rank must say."""

from __future__ import annotations

from tests import expected


def expect(file: str, name: str, text: str) -> None:
    """Holds a text against its block."""
    expected.expect_block(f"engine/{file}.txt", name, text)


def names(file: str) -> set[str]:
    return expected.names(f"engine/{file}.txt")
