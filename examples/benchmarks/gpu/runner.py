"""Cells one after the other, each in a process of its own with a time limit: what ends badly is written down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .sizes import LETTERS, Cell

ROOT = Path(__file__).parents[3]
AT_ONCE = {"cuda": 1, "cpu": 2}
TAIL = 12  # lines of a failed process's stderr that are kept

NOISE = "SyncActivityProfilerHandler"  # what the profiler says of itself

# Settings of every process. The cache of joint graphs is off: its key tells neither another partitioner in PyTorch's
# place nor a mark for recomputation, which is what the cells compare.
SETTINGS = {
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "DS_BUILD_OPS": "0",
    "PYTHONUNBUFFERED": "1",
}


def run(
    cells: Sequence[Cell], results: Path, minutes: float, place: str, say: Callable[[str], None] = print
) -> Iterator[dict[str, Any]]:
    """What came of every cell, as it ends; each is also a JSON file of the folder `results`.

    minutes: for all of them. What no longer fits is left out, and that is said. place: "cuda", where one runs at a
    time, or "cpu", where two do.
    """
    deadline = time.monotonic() + 60 * minutes

    def found(cell: Cell) -> dict[str, Any]:
        left = deadline - time.monotonic()
        if left >= cell.needs:
            return one(cell, results, min(cell.limit, left), place)
        outcome = named(cell) | {"left_out": f"{left:.0f} s are left, and it takes about {cell.needs:.0f}"}
        (results / cell.file).write_text(json.dumps(outcome, indent=1) + "\n")
        return outcome

    pool = ThreadPoolExecutor(AT_ONCE[place])
    try:
        for outcome in pool.map(found, cells):
            say(told(outcome))
            yield outcome
    finally:
        pool.shutdown(cancel_futures=True)


def named(cell: Cell) -> dict[str, Any]:
    return {"part": LETTERS.get(cell.part, cell.part), "name": cell.part, "cell": cell.name}


def one(cell: Cell, results: Path, limit: float, place: str) -> dict[str, Any]:
    """What came of one cell, and its JSON file: what it had written before it failed stays."""
    path, log = results / cell.file, (results / cell.file).with_suffix(".log")
    path.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", f"{__package__}.part", cell.module, "--place", place, "--size", json.dumps(cell.size),
        "--out", str(path),
    ]  # fmt: skip
    begin = time.monotonic()
    with log.open("w") as out:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment(place), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        failed = _wait(child, limit)
    found = json.loads(path.read_text()) if path.exists() else {}
    outcome = named(cell) | {"seconds": round(time.monotonic() - begin, 1), "size": cell.size, "found": found}
    if failed:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip() and NOISE not in line]
        outcome |= {"failed": failed, "last": lines[-TAIL:]}
    path.write_text(json.dumps(outcome, indent=1) + "\n")
    return outcome


def environment(place: str) -> dict[str, str]:
    """What a process finds in its environment; what the user has set stays."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"DS_ACCELERATOR": "cpu"} if place == "cpu" else {}
    return {**SETTINGS, **os.environ, **own, "PYTHONPATH": os.pathsep.join(paths)}


def _wait(child: subprocess.Popen, limit: float) -> str:
    """How it failed; empty where it did not."""
    try:
        code = child.wait(limit)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # its compile workers too
        child.wait()
        return f"ended after its limit of {limit:.0f} s"
    return f"exit status {code}" if code else ""


def told(outcome: dict[str, Any]) -> str:
    """A line of what came of a cell."""
    head = f"{outcome['part']} {outcome['name']} {outcome['cell']}".strip()
    if "left_out" in outcome:
        return f"{head}: left out, {outcome['left_out']}"
    line = outcome["found"].get("line", "")
    if "failed" in outcome:
        why = outcome["last"][-1] if outcome["last"] else "nothing on stderr"
        return f"{head}: FAILED, {outcome['failed']}: {why[:200]}" + (f"; until then: {line}" if line else "")
    return f"{head}: {line} ({outcome['seconds']:.0f} s)"
