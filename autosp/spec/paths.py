"""Module paths such as `model.layers.*.mlp`: what they match, and what was meant where nothing does."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ..errors import suggest


def matches(pattern: str, path: str) -> bool:
    """Whether a module's path is one of those that `pattern` means: '*' stands within one name."""
    wanted, names = pattern.split("."), path.split(".")
    return len(wanted) == len(names) and all(map(fnmatchcase, names, wanted))


def children(pattern: str, paths: Iterable[str]) -> list[str]:
    """The names that stand directly below the modules that `pattern` means ('' means the model)."""
    depth = pattern.count(".") + 1 if pattern else 0
    found = {}
    for path in paths:
        names = path.split(".")
        if len(names) > depth and matches(pattern, ".".join(names[:depth])):
            found[names[depth]] = None
    return list(found)


def split_at_miss(pattern: str, paths: list[str]) -> tuple[str, str, str]:
    """A pattern that matches nothing: the part that matches, the name that does not, the rest."""
    names = pattern.split(".")
    for i in range(len(names)):
        if not any(fnmatchcase(child, names[i]) for child in children(".".join(names[:i]), paths)):
            return ".".join(names[:i]), names[i], ".".join(names[i + 1 :])
    return pattern, "", ""


def meant(pattern: str, paths: list[str]) -> str | None:
    """The pattern that was likely meant, each wrong name replaced by the nearest; or None."""
    for _ in pattern.split("."):
        head, miss, rest = split_at_miss(pattern, paths)
        hit = miss and suggest(miss, children(head, paths))
        if not hit:
            return None
        pattern = ".".join(filter(None, (head, hit, rest)))
        if any(matches(pattern, path) for path in paths):
            return pattern
    return None
