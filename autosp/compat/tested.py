"""The sets of releases that autosp is tested on: `python -m tests.versions` runs them, and writes docs/versions.md.

pyproject.toml's bounds and `constraints.txt` are held to these rows by a test, and a release outside their range is
warned of when autosp meets it.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata

import attrs

LIBRARIES = ("torch", "transformers", "deepspeed", "highspy")
ALWAYS = ("torch", "highspy")  # the others count where the user's process has imported them


@attrs.frozen
class Releases:
    """One set of releases, the newest of everything that it does not name."""

    name: str
    what: str
    python: str
    torch: str
    transformers: str
    deepspeed: str
    highspy: str
    others: dict[str, str] = attrs.Factory(dict)

    def pins(self) -> dict[str, str]:
        """The version of every package that the row fixes."""
        return {name: getattr(self, name) for name in LIBRARIES} | self.others


WITNESS = {"spmd_types": "0.3.1"}  # the tests' independent checker of local graphs

# DeepSpeed before 0.18.9 has no pass "autosp" in its config; 0.18.9 does not step under ZeRO-1 on gloo with torch 2.11.
ROWS = (
    Releases(
        "oldest", "the oldest release of each that is promised to work",
        python="3.11", torch="2.11.0", transformers="5.17.0", deepspeed="0.19.0", highspy="1.8.0",
        others={"attrs": "23.1.0", "click": "8.2.0", "lark": "1.1.9", "numpy": "1.26.4", "rich": "13.0.0"} | WITNESS,
    ),
    Releases(
        "gpu", "torch 2.11 with transformers 5.17 on Python 3.12, as machines with GPUs often have",
        python="3.12", torch="2.11.0", transformers="5.17.0", deepspeed="0.19.8", highspy="1.16.0", others=WITNESS,
    ),
    Releases(
        "constraints", "constraints.txt, which the whole suite runs on",
        python="3.11", torch="2.13.0", transformers="5.24.0", deepspeed="0.19.8", highspy="1.16.0", others=WITNESS,
    ),
    Releases(
        "python-3.13", "the newest Python",
        python="3.13", torch="2.14.1", transformers="5.24.0", deepspeed="0.19.8", highspy="1.16.0", others=WITNESS,
    ),
    Releases(
        "newest", "the newest release of everything",
        python="3.11", torch="2.15.0", transformers="5.24.0", deepspeed="0.19.8", highspy="1.16.0", others=WITNESS,
    ),
)  # fmt: skip

Release = tuple[int, ...]


# Operators that shipped rules name and newer releases of torch have dropped: since when.
DROPPED = {"aten.cholesky.default": "2.14", "aten.qr.default": "2.14"}


def dropped(operator: str) -> bool:
    """Whether the installed torch is known to be without an operator that the rules serve older releases by."""
    since = DROPPED.get(operator)
    return since is not None and release(metadata.version("torch")) >= release(since)


def release(version: str) -> Release:
    """(2, 13, 0) of "2.13.0+cpu"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def versions(library: str) -> list[str]:
    """What the rows have of a library (or "python"), the oldest first."""
    own = {getattr(row, library, None) or row.others.get(library) for row in ROWS}
    return sorted(filter(None, own), key=release)


def bounds(library: str) -> tuple[str, str]:
    """The oldest version that the rows have, and the first minor release after the newest: ("2.11", "2.16")."""
    own = versions(library)
    major, minor = release(own[-1])[:2]
    return own[0].removesuffix(".0"), f"{major}.{minor + 1}"


def is_tested(library: str, version: str) -> bool:
    """Whether a version lies within the tested rows."""
    low, high = map(release, bounds(library))
    return low <= release(version) < high


def tested_range(library: str) -> str:
    """The tested range in words: "2.11 to 2.15"."""
    own = versions(library)
    first, last = (".".join(v.split(".")[:2]) for v in (own[0], own[-1]))
    return first if first == last else f"{first} to {last}"


def untested() -> Iterator[str]:
    """What this process uses of a release outside the rows; nothing is imported."""
    for library in LIBRARIES:
        if library in ALWAYS or library in sys.modules:
            try:
                version = metadata.version(library)
            except metadata.PackageNotFoundError:  # a build that was not installed
                continue
            if not is_tested(library, version):
                yield f"{library} {version} (tested: {tested_range(library)})"


@functools.cache
def warn_of_untested() -> None:
    """One warning a process, on the first rank, of releases that nobody has tested together with this one."""
    releases = list(untested())
    if releases and os.environ.get("RANK", "0") == "0":
        warnings.warn(
            f"autosp was not tested with {', '.join(releases)}; pip install -c constraints.txt takes the set that was, "
            "and docs/versions.md has every one",
            stacklevel=2,
        )
