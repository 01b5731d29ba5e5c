"""Runs many items in one launch of real gloo processes, one after another, and brings back what each rank found.

Importing DeepSpeed takes seconds, so a launch is kept for as long as nothing goes wrong. A rank that
fails or goes silent ends its launch, never the run: the items after it get a new one.
"""

from __future__ import annotations

import functools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from .ranks import Ranks, settle, start

BUILD = 900.0  # seconds
START = 180.0  # seconds until the first item may begin to count
GRACE = 20.0  # seconds that ranks have to answer after one of them failed
DEAD_STARTS = 2  # launches in a row that may end before any answer


@attrs.frozen
class Outcome:
    """What one rank made of one item: a value, or the text of its failure (`silent`: it gave no answer)."""

    rank: int
    value: Any = None
    error: str = ""
    silent: bool = False


def launch(
    world: int, function: str, items: Sequence[object], timeout: float = 120.0, *, deepspeed: bool = True
) -> list[tuple[Outcome, ...]]:
    """Calls `function` ("package.module:name") on each item in `world` processes; outcomes by item, by rank.

    `timeout` is per item. The process group (gloo) is ready when the function is called.
    deepspeed: whether the items make engines of DeepSpeed, which compile an extension on first use.
    """
    if deepspeed:
        build_extension()
    outcomes: list[tuple[Outcome, ...]] = []
    dead = 0
    while len(outcomes) < len(items):
        got = _one_launch(world, function, items[len(outcomes) :], timeout)
        dead = dead + 1 if all(outcome.silent for outcome in got[0]) else 0
        outcomes += got
        if dead > DEAD_STARTS:
            outcomes += [got[0]] * (len(items) - len(outcomes))
    return outcomes


def environment() -> dict[str, str]:
    """Ranks find the modules that this process finds, and use the CPU."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "DS_ACCELERATOR": "cpu"}


@functools.cache
def build_extension() -> None:
    """Builds what `deepspeed.initialize` compiles on first use, before any rank could be ended in the middle of it.

    A build that was killed leaves a lock on which all later ones wait.
    """
    code = "from deepspeed.comm.torch import build_shm_op; build_shm_op()"
    build = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **environment()}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _, stderr = build.communicate(timeout=BUILD)
    except subprocess.TimeoutExpired:
        os.killpg(build.pid, signal.SIGINT)  # which gives the lock back
        folder = os.environ.get("TORCH_EXTENSIONS_DIR", "~/.cache/torch_extensions")
        raise RuntimeError(
            f"DeepSpeed's extension was not built in {BUILD:.0f} s: a build that was killed may have left "
            f"its lock file under {folder}; remove that folder"
        ) from None
    if build.returncode:
        raise RuntimeError(f"DeepSpeed's extension was not built:\n{stderr}")


def errors(outcomes: Sequence[Outcome]) -> str:
    """The failures of one item, each under the name of its rank; empty if there are none."""
    return "\n\n".join(f"rank {outcome.rank}:\n{outcome.error}" for outcome in outcomes if outcome.error)


def _one_launch(world: int, function: str, items: Sequence[object], timeout: float) -> list[tuple[Outcome, ...]]:
    """Outcomes up to and including the first item that a rank failed on."""
    with tempfile.TemporaryDirectory(prefix="autosp-launch-") as name:
        folder = Path(name)
        (folder / "items.pkl").write_bytes(pickle.dumps((function, list(items))))
        argv = [sys.executable, "-m", "autosp.parity.worker", str(folder)]
        with start(world, argv, folder, env=environment()) as ranks:
            outcomes = []
            for index in range(len(items)):
                outcomes.append(_await_item(ranks, folder, index, timeout + (START if index == 0 else 0)))
                if any(outcome.error for outcome in outcomes[-1]):
                    break
            return outcomes


def _await_item(ranks: Ranks, folder: Path, index: int, seconds: float) -> tuple[Outcome, ...]:
    deadline = time.monotonic() + seconds
    waiting_for_the_rest = False
    while True:
        answers = [_answer(folder, rank, index) for rank in range(len(ranks.processes))]
        there = tuple(answer for answer in answers if answer)
        if len(there) == len(answers):
            return there
        trouble = ranks.failed() or any(answer and answer.error for answer in answers)
        if trouble and not waiting_for_the_rest:
            deadline = min(deadline, time.monotonic() + GRACE)
            waiting_for_the_rest = True
        if ranks.done() or time.monotonic() > deadline:
            return _silent(ranks, [_answer(folder, rank, index) for rank in range(len(answers))], seconds)
        time.sleep(0.05)


def _answer(folder: Path, rank: int, index: int) -> Outcome | None:
    path = folder / f"{index}.{rank}.pkl"
    return pickle.loads(path.read_bytes()) if path.exists() else None


def _silent(ranks: Ranks, answers: list[Outcome | None], seconds: float) -> tuple[Outcome, ...]:
    """Outcomes with the ranks that gave none: where each of them stands, or its last words."""
    ranks.signal(signal.SIGUSR1)  # the worker answers with its stacks
    settle(ranks, 1.0)
    return tuple(
        answer or Outcome(rank, error=f"no answer within {seconds:.0f} s\n{ranks.describe([rank])}", silent=True)
        for rank, answer in enumerate(answers)
    )
