"""Ranks compare notes through the store before any collective, so that a difference is an error
that names a rank instead of a hang."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping

import attrs
import torch
import torch.distributed as dist

from ..errors import Problem, RankError
from .mesh import Mesh

_meetings: dict[str, int] = {}


def timeout_seconds() -> float:
    """How long a rank waits for the others (`AUTOSP_TIMEOUT`, seconds; 600 unless set: another
    rank may be compiling)."""
    return float(os.environ.get("AUTOSP_TIMEOUT", "600"))


@attrs.frozen(eq=False)
class Agreement:
    """One group of ranks that must agree."""

    mesh: Mesh

    def _store(self):
        return dist.distributed_c10d._get_default_store()

    def _prefix(self) -> str:
        return f"autosp/{'-'.join(map(str, self.mesh.ranks))}"

    def fail(self, error: BaseException) -> None:
        """Tells the other ranks that this one stopped; they stop where they next meet."""
        if self.mesh.size > 1 and not isinstance(error, RankError):
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._store().set(f"{self._prefix()}/failed/{self.mesh.rank}", f"{type(error).__name__}: {first}"[:500])

    def same(self, what: str, values: Mapping[str, str], rule: str, fix: str) -> None:
        """Raises RankError where a rank's values differ from those of the group's first rank, where
        a rank failed, or where one did not come in time."""
        if self.mesh.size == 1:
            return
        store, prefix = self._store(), self._prefix()
        number = _meetings[prefix] = _meetings.get(prefix, 0) + 1
        text = "\n".join(f"{k}\t{v}" for k, v in values.items())
        store.set(f"{prefix}/{number}/{self.mesh.rank}", f"{what}\n{text}")
        deadline = time.monotonic() + timeout_seconds()
        notes = []
        for rank in range(self.mesh.size):
            notes.append(self._wait(store, f"{prefix}/{number}/{rank}", rank, what, deadline))
        for rank, note in enumerate(notes):
            if note != notes[0]:
                raise RankError(self._differ(what, notes[0], note, rank, rule, fix))

    def _wait(self, store, key: str, rank: int, what: str, deadline: float) -> str:
        pause = 0.001
        while not store.check([key]):
            self._heed(store, what)
            if time.monotonic() > deadline:
                raise RankError(self._late(what, rank))
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        return store.get(key).decode()

    def _heed(self, store, what: str) -> None:
        for rank in range(self.mesh.size):
            key = f"{self._prefix()}/failed/{rank}"
            if rank != self.mesh.rank and store.check([key]):
                raise RankError(self._failed(what, rank, store.get(key).decode()))

    def _name(self, rank: int) -> str:
        return f"rank {self.mesh.ranks[rank]}"

    def _differ(self, what: str, first: str, other: str, rank: int, rule: str, fix: str) -> Problem:
        a, b = first.splitlines(), other.splitlines()
        if a[0] != b[0]:
            detail = f"{self._name(0)} compares its {a[0]}, {self._name(rank)} its {b[0]}"
        else:
            mine, theirs = (dict(line.split("\t", 1) for line in t[1:]) for t in (a, b))
            key = next(k for k in [*mine, *theirs] if mine.get(k) != theirs.get(k))
            detail = (
                f"{key} is {mine.get(key, 'absent')} on {self._name(0)} "
                f"and {theirs.get(key, 'absent')} on {self._name(rank)}"
            )
        return Problem(what=f"ranks differ in their {what}: {detail}", rule=rule, fix=fix, where=self._name(rank))

    def _late(self, what: str, rank: int) -> Problem:
        return Problem(
            what=f"{self._name(rank)} did not come to compare its {what} within {timeout_seconds():.0f} s",
            rule="ranks of one group compile together or not at all",
            fix="look at that rank's output; a slow compile may need a larger AUTOSP_TIMEOUT",
            where=self._name(self.mesh.rank),
        )

    def _failed(self, what: str, rank: int, reason: str) -> Problem:
        return Problem(
            what=f"{self._name(rank)} stopped: {reason}",
            rule="a rank that fails stops its group before the next collective",
            fix=f"look at the output of {self._name(rank)}",
            where=f"{self._name(self.mesh.rank)}, comparing its {what}",
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
