"""Finds the text files that ship with autosp, in an installed wheel and in a checkout alike."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDERS = {
    "grammar": ("grammar", ".lark"),
    "models": ("specs/models", ".spec"),
    "rules": ("specs/rules", ".rule"),
    "devices": ("specs/devices", ".device"),
}


@cache
def folder(kind: str) -> Path:
    """The folder of one kind of file: inside the package (a wheel) or beside it (a checkout)."""
    package = Path(__file__).resolve().parent
    for root in (package, package.parent):
        candidate = root / FOLDERS[kind][0]
        if candidate.is_dir():
            return candidate
    raise AssertionError(f"autosp was installed without its {kind} files")


def path(kind: str, name: str) -> Path:
    """The path of a file, its ending left out or written: `path("models", "llama")`."""
    ending = FOLDERS[kind][1]
    return folder(kind) / (name if name.endswith(ending) else name + ending)


def read(kind: str, name: str) -> str:
    """The text of a file. Raises FileNotFoundError where there is none of that name."""
    return path(kind, name).read_text(encoding="utf-8")


def listing(kind: str) -> tuple[str, ...]:
    """The names of all files of one kind, sorted, without their ending."""
    return tuple(sorted(p.stem for p in folder(kind).glob(f"*{FOLDERS[kind][1]}")))
