"""Ranks compare notes through the store before any collective, so that a difference is an error
that names a rank instead of a hang.

A *program* is one compiled model, an *attempt* one call of it; ranks make both in the same order,
so their numbers say which notes belong together, and a failed call does not spoil the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
import torch.distributed as dist

from ..compat.torch import default_store
from ..errors import EngineError, Problem, RankError
from . import messages
from .mesh import Mesh

_programs = itertools.count(1)
_WELL, _BADLY = "well", "badly"  # how a rank's try to compile ended


class FirstFailed(RankError):
    """What the group's first rank does for all failed there, and that is as good as here. kind: of its error."""

    def __init__(self, problems, kind: str):
        super().__init__(problems)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return RankError, (self.problems,)


@contextlib.contextmanager
def new_program() -> Iterator[int]:
    """The number of the model that is compiled here; a failure is reported to the ranks that call theirs."""
    number = next(_programs)
    try:
        yield number
    except Exception as e:
        _report(f"autosp/{number}/failed", e)
        raise


def _report(key: str, error: BaseException) -> None:
    """Writes a failure down. The error itself is on its way already: nothing here may hide it."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        with contextlib.suppress(Exception):
            _store().set(key, f"{dist.get_rank()}\t{messages.reason(error)}")


def _store() -> dist.Store:
    return default_store()


@attrs.define(eq=False)
class Agreement:
    """The ranks that run one program and must agree. `attempts` counts its calls."""

    mesh: Mesh
    program: int = attrs.Factory(lambda: next(_programs))
    attempts: int = 0
    _meetings: int = 0
    _tries: int = 0
    _open: bool = False
    _fresh: bool = False  # compiled in the last attempt, and not run yet
    _heeded: RankError | None = None  # another rank's failure, passed on here: not reported again

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """One call of the program, from its checks to its end; within another, a part of it. A
        failure is reported to the other ranks; a connection that another rank's failure broke names it."""
        if self._open:
            yield
            return
        self.attempts, self._meetings, self._tries, self._open = self.attempts + 1, 0, 0, True
        try:
            yield
        except Exception as e:
            failure = self._reported_failure("results") if is_broken_connection(e) else None
            if failure is not None:
                raise failure from e
            if e is not self._heeded:
                _report(self._failure_key(), e)
            raise
        finally:
            self._open, self._fresh = False, True

    def same(self, what: str, values: Mapping[str, str], rule: str, fix: str) -> None:
        """Raises RankError where a rank's values differ from those of the group's first rank, where
        a rank failed, or where one did not come in time."""
        if self.mesh.size == 1:
            return
        store = _store()
        key = self._next_meeting()
        text = "\n".join(f"{k}\t{v}" for k, v in values.items())
        store.set(f"{key}/{self._me()}", f"{what}\n{text}")
        deadline = time.monotonic() + timeout_seconds()
        notes = [self._wait(store, key, rank, what, deadline) for rank in self.mesh.ranks]
        for rank, note in zip(self.mesh.ranks, notes, strict=True):
            if note != notes[0]:
                raise RankError(messages.differ(what, self.mesh.ranks[0], notes[0], rank, note, rule, fix))

    def from_first_rank(self, what: str, find: Callable[[], str]) -> str:
        """What the group's first rank finds here, on every rank. Raises FirstFailed on the others where it finds an
        error, and RankError as `same` does."""
        if self.mesh.size == 1:
            return find()
        store, first, key = _store(), self.mesh.ranks[0], self._next_meeting()
        if self._me() == first:
            try:
                text = find()
            except Exception as e:
                store.set(f"{key}/{first}", f"{_BADLY}\t{type(e).__name__}\t{messages.reason(e)}")
                raise
            store.set(f"{key}/{first}", f"{_WELL}\t{text}")
            return text
        how, _, answer = self._wait(store, key, first, what, time.monotonic() + timeout_seconds()).partition("\t")
        if how == _WELL:
            return answer
        kind, _, reason = answer.partition("\t")
        self._heeded = FirstFailed(messages.failed(what, self._me(), first, reason), kind)
        raise self._heeded

    def went_well(self, what: str, wait: bool) -> None:
        """Notes that this rank's try to compile went well. wait: until all the group's did. Raises RankError where
        another's did not, or as `same` does."""
        if self.mesh.size > 1:
            self._tried(_WELL)
            for rank, note in self._others_tried(what).items() if wait else ():
                if note != _WELL:
                    raise self._failed_there(what, rank, note)
            self._tries += 1

    def failed_alike(self, what: str, error: Exception) -> bool:
        """Notes that this rank's try to compile failed, and says whether it failed so on every rank of the group: where
        it did, all may try something else. A rank that fails alone (its memory, its disk) may not."""
        if self.mesh.size == 1:
            return True
        kind = error.kind if isinstance(error, FirstFailed) else type(error).__name__
        try:
            self._tried(f"{_BADLY}\t{kind}\t{messages.reason(error)}")
            if isinstance(error, RankError) and not isinstance(error, FirstFailed):
                return False
            alike = all(note.split("\t")[:2] == [_BADLY, kind] for note in self._others_tried(what).values())
        except (RankError, dist.DistError):  # this rank's own error is the one to raise
            return False
        self._tries, self._meetings = self._tries + 1, 0
        return alike

    def _tried(self, note: str) -> None:
        _store().set(f"{self._try()}/{self._me()}", note)

    def _others_tried(self, what: str) -> dict[int, str]:
        """How the tries of the group's other ranks ended, each rank's note."""
        deadline, others = time.monotonic() + timeout_seconds(), [r for r in self.mesh.ranks if r != self._me()]
        return {rank: self._wait(_store(), self._try(), rank, what, deadline) for rank in others}

    def _failed_there(self, what: str, rank: int, note: str) -> RankError:
        self._heeded = RankError(messages.failed(what, self._me(), rank, note.split("\t", 2)[2]))
        return self._heeded

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

    def _next_meeting(self) -> str:
        self._meetings += 1
        return f"{self._prefix()}/{self._tries}/{self._meetings}"

    def _try(self) -> str:
        return f"{self._prefix()}/{self._tries}/tried"

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
                    raise RankError(messages.alone(self._me(), rank))
                if store.check([f"{self._try()}/{rank}"]):  # it has given up the try that this meeting is a part of
                    note = store.get(f"{self._try()}/{rank}").decode()
                    if note != _WELL:
                        raise self._failed_there(what, rank, note)
                failure = self._reported_failure(what)
                if failure is not None:
                    raise failure
                if time.monotonic() > deadline:
                    raise RankError(messages.late(what, self._me(), rank, timeout_seconds()))
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
        except dist.DistError as e:  # the store lives in a rank's process, by default the first one's
            raise RankError(messages.gone(what, self._me(), rank)) from e

    def _runs_already(self, store: dist.Store, rank: int) -> bool:
        key = self._entered_key(rank)
        return rank != self._me() and store.check([key]) and int(store.get(key)) == self.attempts

    def _reported_failure(self, what: str) -> RankError | None:
        """Another rank's failure in this attempt, or where it compiled this program."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return None
        with contextlib.suppress(dist.DistError):
            for key in (f"autosp/{self.program}/failed", self._failure_key()):
                if _store().check([key]):
                    rank, reason = _store().get(key).decode().split("\t", 1)
                    if int(rank) != self._me():
                        self._heeded = RankError(messages.failed(what, self._me(), int(rank), reason))
                        return self._heeded
        return None

    def _me(self) -> int:
        return self.mesh.ranks[self.mesh.rank]


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


def is_broken_connection(error: BaseException) -> bool:
    """Whether a collective failed because of a peer, rather than for a reason of its own."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection"))
    )


def batch_notes(inputs: Mapping[str, object]) -> dict[str, str]:
    """One line per input: dtype, shape and a checksum of a tensor; the text of anything else."""
    return {f"input '{name}'": _note(value) for name, value in sorted(inputs.items()) if value is not None}


def _note(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__ if not isinstance(value, (bool, int, float, str)) else repr(value)
    raw = value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return f"{messages.tensor_text(value)} checksum {digest}"
