"""Ranks compare notes through the store before any collective, so that a difference is an error
that names a rank instead of a hang.

A *program* is one compiled model, an *attempt* one call of it; ranks make both in the same order,
so their numbers say which notes belong together, and a failed call does not spoil the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping

import attrs
import torch.distributed as dist

from ..compat.torch import default_store
from ..errors import RankError
from . import agree_words as words
from .mesh import Mesh

_programs = itertools.count(1)


@contextlib.contextmanager
def new_program() -> Iterator[int]:
    """The number of the model that is compiled here; a failure is told to the ranks that call theirs."""
    number = next(_programs)
    try:
        yield number
    except Exception as e:
        _tell(f"autosp/{number}/failed", e)
        raise


def _tell(key: str, error: BaseException) -> None:
    """Writes a failure down. The error itself is on its way already: nothing here may hide it."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        with contextlib.suppress(Exception):
            _store().set(key, f"{dist.get_rank()}\t{words.reason(error)}")


def _store() -> dist.Store:
    return default_store()


@attrs.define(eq=False)
class Agreement:
    """The ranks that run one program and must agree. `attempts` counts its calls."""

    mesh: Mesh
    program: int = attrs.Factory(lambda: next(_programs))
    attempts: int = 0
    _meetings: int = 0
    _open: bool = False
    _fresh: bool = False  # compiled in the last attempt, and not run yet
    _heeded: RankError | None = None  # another rank's failure, passed on here: not told again

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """One call of the program, from its checks to its end; within another, a part of it. A
        failure is told to the other ranks; a connection that another rank's failure broke names it."""
        if self._open:
            yield
            return
        self.attempts, self._meetings, self._open = self.attempts + 1, 0, True
        try:
            yield
        except Exception as e:
            told = self._told_failure("results") if words.is_broken_connection(e) else None
            if told is not None:
                raise told from e
            if e is not self._heeded:
                _tell(self._failure_key(), e)
            raise
        finally:
            self._open, self._fresh = False, True

    def same(self, what: str, values: Mapping[str, str], rule: str, fix: str) -> None:
        """Raises RankError where a rank's values differ from those of the group's first rank, where
        a rank failed, or where one did not come in time."""
        if self.mesh.size == 1:
            return
        store = _store()
        self._meetings += 1
        key = f"{self._prefix()}/{self._meetings}"
        text = "\n".join(f"{k}\t{v}" for k, v in values.items())
        store.set(f"{key}/{self._me()}", f"{what}\n{text}")
        deadline = time.monotonic() + words.timeout_seconds()
        notes = [self._wait(store, key, rank, what, deadline) for rank in self.mesh.ranks]
        for rank, note in zip(self.mesh.ranks, notes, strict=True):
            if note != notes[0]:
                raise RankError(words.differ(what, self.mesh.ranks[0], notes[0], rank, note, rule, fix))

    def first_says(self, what: str, text: str) -> str:
        """What the group's first rank says here, on every rank. Raises RankError as `same` does."""
        if self.mesh.size == 1:
            return text
        store, first = _store(), self.mesh.ranks[0]
        self._meetings += 1
        key = f"{self._prefix()}/{self._meetings}"
        if self._me() == first:
            store.set(f"{key}/{first}", text)
            return text
        return self._wait(store, key, first, what, time.monotonic() + words.timeout_seconds())

    def enter(self) -> None:
        """Notes that this rank runs the program's collectives now: one that compiles meanwhile learns
        that it does so alone. Where nothing else opens an attempt, a run is one."""
        if not self._open:
            self.attempts += not self._fresh
            self._fresh = False
        if self.mesh.size > 1:
            with contextlib.suppress(dist.DistError):  # a help to others: not worth ending a training for
                _store().set(self._entered_key(self._me()), str(self.attempts))

    def _prefix(self) -> str:
        return f"autosp/{self.program}/{self.attempts}"

    def _failure_key(self) -> str:
        return f"{self._prefix()}/failed/{self.mesh.everyone_word}"

    def _entered_key(self, rank: int) -> str:
        return f"autosp/{self.program}/entered/{rank}"

    def _wait(self, store: dist.Store, key: str, rank: int, what: str, deadline: float) -> str:
        """What a rank wrote. The order matters: who has entered the program has met everyone before."""
        pause = 0.001
        try:
            while True:
                alone = self._runs_already(store, rank)
                if store.check([f"{key}/{rank}"]):
                    return store.get(f"{key}/{rank}").decode()
                if alone:
                    raise RankError(words.alone(self._me(), rank))
                told = self._told_failure(what)
                if told is not None:
                    raise told
                if time.monotonic() > deadline:
                    raise RankError(words.late(what, self._me(), rank))
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
        except dist.DistError as e:  # the store lives in a rank's process, by default the first one's
            raise RankError(words.gone(what, self._me(), rank)) from e

    def _runs_already(self, store: dist.Store, rank: int) -> bool:
        key = self._entered_key(rank)
        return rank != self._me() and store.check([key]) and int(store.get(key)) == self.attempts

    def _told_failure(self, what: str) -> RankError | None:
        """Another rank's failure in this attempt, or where it compiled this program."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return None
        with contextlib.suppress(dist.DistError):
            for key in (f"autosp/{self.program}/failed", self._failure_key()):
                if _store().check([key]):
                    rank, reason = _store().get(key).decode().split("\t", 1)
                    if int(rank) != self._me():
                        self._heeded = RankError(words.failed(what, self._me(), int(rank), reason))
                        return self._heeded
        return None

    def _me(self) -> int:
        return self.mesh.ranks[self.mesh.rank]
