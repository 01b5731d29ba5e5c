"""Processes that stand for ranks on one machine: start them together, see who failed, end them all."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

MANNERS = 3.0  # seconds that ranks have to end by themselves when interrupted


@attrs.frozen
class Ranks:
    """One launch. Each rank is the leader of its own process group and writes to its own two logs."""

    processes: tuple[subprocess.Popen, ...]
    folder: Path

    def codes(self) -> list[int | None]:
        """Exit code by rank; None while it runs."""
        return [process.poll() for process in self.processes]

    def failed(self) -> list[int]:
        """The ranks that have ended with a failure."""
        return [rank for rank, code in enumerate(self.codes()) if code not in (None, 0)]

    def done(self) -> bool:
        return all(code is not None for code in self.codes())

    def out(self, rank: int) -> Path:
        return self.folder / f"rank{rank}.out"

    def err(self, rank: int) -> Path:
        return self.folder / f"rank{rank}.err"

    def tail(self, rank: int) -> str:
        """What a rank last wrote to its error log, or else to its output."""
        logs = (path.read_text(errors="replace") for path in (self.err(rank), self.out(rank)) if path.exists())
        return next((last_error(text) for text in logs if text.strip()), "")

    def describe(self, ranks: Sequence[int]) -> str:
        """What happened to these ranks, each by its number, with its last lines."""
        codes = self.codes()
        return "\n\n".join(f"rank {rank} {_ending(codes[rank])}\n{self.tail(rank)}".rstrip() for rank in ranks)

    def signal(self, number: int) -> None:
        """Sends a signal to every rank that still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def kill(self) -> None:
        """Ends every rank and what it has started. First by an interrupt: a rank that is building one of
        DeepSpeed's extensions then gives back its lock file, on which every later launch would wait for ever."""
        self.signal(signal.SIGINT)
        settle(self, MANNERS)
        for process in self.processes:
            _end_group(process)
        for process in self.processes:
            process.wait()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_) -> None:
        self.kill()


def start(world: int, argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> Ranks:
    """Starts `argv` once per rank, on loopback, with the variables that torchrun would set."""
    shared = {**os.environ, **_DEFAULTS, "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world), **(env or {})}
    shared.setdefault("OMP_NUM_THREADS", "1")
    processes = []
    try:
        for rank in range(world):
            processes.append(_start_one(rank, world, argv, folder, shared))
    except BaseException:
        Ranks(tuple(processes), folder).kill()
        raise
    return Ranks(tuple(processes), folder)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def last_error(log: str, lines: int = 30) -> str:
    """An error of autosp with its own text, without its traceback; else the last lines."""
    text = re.sub(r"^\[rank\d+\]: ?", "", log.rstrip(), flags=re.MULTILINE)
    if errors := list(re.finditer(r"^autosp\.errors\.\w+: ", text, flags=re.MULTILINE)):
        return text[errors[-1].end() :]
    return "\n".join(text.splitlines()[-lines:])


def settle(ranks: Ranks, seconds: float) -> None:
    """Gives ranks time to end by themselves after one of them failed."""
    deadline = time.monotonic() + seconds
    while not ranks.done() and time.monotonic() < deadline:
        time.sleep(0.05)


_DEFAULTS = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def _start_one(rank: int, world: int, argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> subprocess.Popen:
    own = {**env, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    with open(folder / f"rank{rank}.out", "wb") as out, open(folder / f"rank{rank}.err", "wb") as err:
        return subprocess.Popen(
            list(argv), env=own, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True
        )


def _ending(code: int | None) -> str:
    if code is None:
        return "was still running:"
    return f"was ended by {signal.Signals(-code).name}:" if code < 0 else f"failed with exit code {code}:"


def _end_group(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
