"""`python -m tests.models`: every causal language model of transformers, tiny, unsharded and split; docs/models.md."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fnmatch
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import attrs

from tests.models.one import Found, examine
from tests.models.page import page
from tests.models.tiny import class_names

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
RESULTS = Path(tempfile.gettempdir()) / "autosp-models.jsonl"
GIB = 1 << 30


def main(argv: list[str]) -> int:
    """Examines the classes that are asked for and not yet known, then writes the page from all that is known."""
    asked = arguments(argv)
    names = [n for n in class_names() if any(fnmatch.fnmatch(n, p) or n == f"{p}ForCausalLM" for p in asked.only)]
    known = read(asked.results)
    if asked.again:
        known = {n: f for n, f in known.items() if f.outcome not in asked.again}
    todo = [n for n in names if n not in known]
    with asked.results.open("a", encoding="utf-8") as file:
        for found in run_all(todo, asked.jobs, asked.timeout, asked.memory):
            known[found.name] = found
            file.write(json.dumps(attrs.asdict(found)) + "\n")
            file.flush()
            print(
                f"{found.outcome:8} {found.name}  {found.seconds:.0f} s  {found.why or f'{found.used:.2f}'}", flush=True
            )
    chosen = {n: known[n] for n in names}
    if set(chosen) == set(class_names()):
        asked.page.write_text(page(list(chosen.values()), datetime.date.today()), encoding="utf-8")
    return int(any(f.outcome == "failed" for f in chosen.values()))


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.models", description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="classes, as Llama or Qwen3*")
    parser.add_argument("--jobs", type=int, default=1, help="classes at a time")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for a class")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB of address space for a class")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON lines; classes found there are not run again"
    )
    parser.add_argument("--again", nargs="+", default=[], metavar="OUTCOME", help="run those of this outcome again")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page is written, once every class is known")
    return parser.parse_args(argv)


def read(path: Path) -> dict[str, Found]:
    """What earlier runs found, the last word of each class."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [Found(**json.loads(line)) for line in lines]
    return {f.name: f for f in found}


@attrs.frozen
class Running:
    """A class that is being examined in a process of its own."""

    name: str
    process: multiprocessing.Process
    answer: Connection
    began: float


def run_all(names: list[str], jobs: int, timeout: float, memory: float):
    """What comes of each class, as it comes."""
    load()
    waiting, running = list(names), []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(start(waiting.pop(0), memory))
        time.sleep(0.05)
        for each in list(running):
            found = ended(each, timeout)
            if found:
                running.remove(each)
                yield found


def load() -> None:
    """What every class needs, once: the processes are forks of this one."""
    import torch
    import torch._dynamo
    import transformers

    import autosp.engine.dynamo_backend
    import autosp.parity.judging  # noqa: F401

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()


def start(name: str, memory: float) -> Running:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(name, theirs, memory))
    process.start()
    theirs.close()
    return Running(name, process, ours, time.time())


def work(name: str, answer: Connection, memory: float) -> None:
    """In the process of a class: what it prints is nobody's."""
    resource.setrlimit(resource.RLIMIT_AS, (int(memory * GIB),) * 2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    answer.send(examine(name))


def ended(each: Running, timeout: float) -> Found | None:
    """What came of a class whose process is at its end, or at the end of its time."""
    seconds = time.time() - each.began
    found = None
    if each.answer.poll():
        with contextlib.suppress(EOFError):
            found = each.answer.recv()
        each.process.join(10)
        found = found or Found(each.name, "failed", f"its process ended with {each.process.exitcode}", seconds=seconds)
    elif seconds > timeout:
        found = Found(each.name, "failed", f"not done after {timeout:.0f} s", seconds=seconds)
    if found and each.process.is_alive():
        each.process.kill()
        each.process.join()
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
