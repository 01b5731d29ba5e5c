"""Names of other libraries, found when they are first used; an error says which of them has moved."""

from __future__ import annotations

from functools import reduce
from importlib import import_module, metadata
from typing import Any


class Moved(ImportError):
    """A private name that the installed release of a library no longer has."""


def look_up(library: str, name: str, places: str | tuple[str, ...]) -> Any:
    """What stands at the first of the `places` ("torch._ops:OpOverload") that exists.

    library: whose names they are. name: what `autosp.compat.LIBRARY` calls it. Raises Moved.
    """
    places = (places,) if isinstance(places, str) else places
    for place in places:
        module, _, path = place.partition(":")
        try:
            return reduce(getattr, path.split("."), import_module(module))
        except (ImportError, AttributeError):
            continue
    raise Moved(moved(library, name, places))


def moved(library: str, name: str, places: tuple[str, ...]) -> str:
    """The message of Moved."""
    each = " or ".join(place.replace(":", ".") for place in places)
    return f"{library} {metadata.version(library)} has no {each}, used by autosp.compat.{library}.{name}"
