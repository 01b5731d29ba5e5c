"""Module paths such as `model.layers.*.mlp`: what they match, and what was meant where nothing does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from ..errors import suggest

ALIKE = 0.75  # how much of a path reads like another (difflib's ratio) for it to be meant


def matches(pattern: str, path: str) -> bool:
    """Whether a module's path is one of those that `pattern` means: '*' stands within one name."""
    parts, names = pattern.split("."), path.split(".")
    return len(parts) == len(names) and all(map(fnmatchcase, names, parts))


def children(pattern: str, paths: Iterable[str]) -> list[str]:
    """The names that stand directly below the modules that `pattern` means ('' means the model)."""
    depth = pattern.count(".") + 1 if pattern else 0
    below = {}
    for path in paths:
        names = path.split(".")
        if len(names) > depth and matches(pattern, ".".join(names[:depth])):
            below[names[depth]] = None
    return list(below)


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


def nearest(pattern: str, paths: list[str], most: int = 3) -> list[str]:
    """The patterns that were likely meant by one that matches nothing, the likeliest first: with a name
    mended, with names before it that it lacks or without some that it has, else those that read alike."""
    if split_at_miss(pattern, paths)[1].isdigit():  # no number is near another
        return []
    mended = meant(pattern, paths)
    return ([mended] if mended else _longer(pattern, paths) or _shorter(pattern, paths) or _alike(pattern, paths))[
        :most
    ]


def _longer(pattern: str, paths: list[str]) -> list[str]:
    """The pattern below each module where it matches: `base_model.model.layers.*.mlp` for `layers.*.mlp`."""
    count = pattern.count(".") + 1
    split = [path.split(".") for path in paths]
    matching = [names for names in split if len(names) > count and matches(pattern, ".".join(names[-count:]))]
    heads = (starred(".".join(names[:-count])) for names in matching)
    return list(dict.fromkeys(f"{head}.{pattern}" for head in heads))


def _shorter(pattern: str, paths: list[str]) -> list[str]:
    """The pattern without the names before it: `layers.*.mlp` for `module.layers.*.mlp`."""
    names = pattern.split(".")
    tails = [".".join(names[i:]) for i in range(1, len(names))]
    return [tail for tail in tails if any(matches(tail, path) for path in paths)][:1]


def _alike(pattern: str, paths: list[str]) -> list[str]:
    """Paths that read like the pattern, with '*' for numbers if the pattern has it."""
    if "*" not in pattern:
        return difflib.get_close_matches(pattern, paths, cutoff=ALIKE)
    return difflib.get_close_matches(pattern, dict.fromkeys(map(starred, paths)), cutoff=ALIKE)


def common_pattern(paths: list[str]) -> str:
    """One pattern for paths of as many names each, '*' where they differ; '' where their lengths do."""
    names = [path.split(".") for path in paths]
    if len({len(each) for each in names}) != 1:
        return ""
    return ".".join(each[0] if len(set(each)) == 1 else "*" for each in zip(*names, strict=True))


def starred(path: str) -> str:
    """The modules of every layer by one path: `model.layers.*.mlp`."""
    return ".".join("*" if name.isdigit() else name for name in path.split("."))
