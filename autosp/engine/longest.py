"""The longest length whose peak fits: a search over a function that is slow, and nearly straight."""

from __future__ import annotations

from collections.abc import Callable, Mapping

STEP = 1024
FIRST = 131_072  # the first length that is tried
TOP = 2**27
PART = 100  # a length within one part in so many of the longest is the answer
NEAR = 10  # parts: peaks this far apart are taken to lie on one line


def longest(
    peak: Callable[[int], int],
    room: int,
    known: Mapping[int, int],
    *,
    step: int = STEP,
    first: int = FIRST,
    top: int = TOP,
) -> int:
    """The largest multiple of `step` whose `peak` (bytes) is at most `room`, within one percent; 0 if none.

    peak: rises with the length, and costs seconds to minutes; it has been called with the answer,
    which fits. known: peaks by length; that of length 0, the states, must be among them.
    """
    seen = dict(known)
    if seen[0] > room:
        return 0
    length = _rounded(first, step) if len(seen) == 1 else _next(seen, room, step, top)
    while length is not None:
        seen[length] = peak(length)
        length = _next(seen, room, step, top)
    return max((n for n, count in seen.items() if count <= room and n % step == 0), default=0)


def _rounded(length: float, step: int) -> int:
    return max(int(length) // step, 1) * step


def _next(seen: Mapping[int, int], room: int, step: int, top: int) -> int | None:
    """The length to try next; None where the longest is known well enough."""
    fits = max(n for n, count in seen.items() if count <= room)
    over = min((n for n, count in seen.items() if count > room), default=None)
    if fits >= top or (over is not None and over - fits <= max(step, fits // PART)):
        return None
    lowest = fits // step * step + step
    highest = top if over is None else (over - 1) // step * step
    guess = min(max(_rounded(_crossing(seen, room, fits, over, top), step), lowest), highest)
    if guess < lowest:
        return None
    if not fits or guess - fits > fits // PART or fits % step:
        return guess
    # a line to a peak that is far above the room says too little of what is left
    near = over is None or over - fits <= NEAR * (fits // PART)
    return None if near else min(_rounded(fits + fits // PART, step) + step, highest)


def _crossing(seen: Mapping[int, int], room: int, fits: int, over: int | None, top: int) -> float:
    """Where a line through two peaks reaches the room: the two longest that fit, while one that does
    not fit is far or unknown; else those on either side."""
    below = [n for n in seen if n < fits]
    far = over is None or over - fits > NEAR * (fits // PART)
    if over is None and not below:
        return 2 * fits
    beyond = _line(seen, room, max(below), fits, top) if far and below else top
    return beyond if over is None or beyond < over else _line(seen, room, fits, over, top)


def _line(seen: Mapping[int, int], room: int, left: int, right: int, top: int) -> float:
    rise = seen[right] - seen[left]
    return left + (room - seen[left]) * (right - left) / rise if rise > 0 else top
