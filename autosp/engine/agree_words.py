"""What is said where ranks differ, from pure functions; and what they compare."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import torch
import torch.distributed as dist

from ..errors import AutospError, EngineError, Problem


def timeout_seconds() -> float:
    """How long a rank waits for the others (`AUTOSP_TIMEOUT`, seconds; 600 unless set: another
    rank may be compiling). Raises EngineError where it is no number."""
    text = os.environ.get("AUTOSP_TIMEOUT", "600")
    try:
        return float(text)
    except ValueError:
        raise EngineError(
            Problem(
                what=f"AUTOSP_TIMEOUT is '{text}'",
                rule="AUTOSP_TIMEOUT is a number of seconds",
                fix="export AUTOSP_TIMEOUT=600",
                where="environment",
            )
        ) from None


def reason(error: BaseException) -> str:
    """One line that says how a rank failed."""
    if isinstance(error, AutospError):
        first = error.problems[0]
        text = f"{first.what} ({first.where})" if first.where else first.what
    else:
        text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def each_length(why: str) -> str:
    return (
        f"the model could not be compiled for all lengths at once, so each length is compiled by itself: {why}. "
        "autosp.compile(..., dynamic=False) does not try"
    )


def is_broken_connection(error: BaseException) -> bool:
    """Whether a collective failed because of a peer, rather than for a reason of its own."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection"))
    )


def differ(what: str, first: int, first_note: str, rank: int, note: str, rule: str, fix: str) -> Problem:
    a, b = first_note.splitlines(), note.splitlines()
    if a[0] != b[0]:
        detail = f"rank {first} compares its {a[0]}, rank {rank} its {b[0]}"
    else:
        ours, theirs = (dict(line.split("\t", 1) for line in lines[1:]) for lines in (a, b))
        key = next(k for k in [*ours, *theirs] if ours.get(k) != theirs.get(k))
        detail = f"{key} is {ours.get(key, 'absent')} on rank {first} and {theirs.get(key, 'absent')} on rank {rank}"
    return Problem(what=f"ranks differ in their {what}: {detail}", rule=rule, fix=fix, where=f"rank {rank}")


def late(what: str, here: int, rank: int) -> Problem:
    return Problem(
        what=f"rank {rank} did not come to compare its {what} within {timeout_seconds():g} s",
        rule="ranks of one group compile together or not at all",
        fix="look at that rank's output; a slow compile may need a larger AUTOSP_TIMEOUT",
        where=f"rank {here}",
    )


def alone(here: int, rank: int) -> Problem:
    return Problem(
        what=f"rank {here} compiles, and rank {rank} runs a program that was compiled before",
        rule="ranks of one group call the model alike: the same sizes, the same inputs, train or eval together",
        fix="give every rank of a group the same batch, and call the model on all of them or on none",
        where=f"rank {here}",
    )


def failed(what: str, here: int, rank: int, reason: str) -> Problem:
    return Problem(
        what=f"rank {rank} stopped: {reason}",
        rule="a rank that fails stops its group before the next collective",
        fix=f"look at the output of rank {rank}",
        where=f"rank {here}, comparing its {what}",
    )


def gone(what: str, here: int, rank: int) -> Problem:
    return Problem(
        what=f"the store of the process group is gone, while waiting for the {what} of rank {rank}",
        rule="a rank that fails stops its group before the next collective",
        fix="look at the output of the rank that holds the store, by default rank 0",
        where=f"rank {here}",
    )


def batch_notes(inputs: Mapping[str, object]) -> dict[str, str]:
    """One line per input: dtype, shape and a checksum of a tensor; the text of anything else."""
    return {f"input '{name}'": _note(value) for name, value in sorted(inputs.items()) if value is not None}


def _note(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__ if not isinstance(value, (bool, int, float, str)) else repr(value)
    raw = value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} checksum {digest}"
