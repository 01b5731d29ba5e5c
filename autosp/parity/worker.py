"""One rank of a launch: `python -m autosp.parity.worker FOLDER` answers each item with a file."""

from __future__ import annotations

import datetime
import faulthandler
import gc
import importlib
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from ..compat.torch import dynamo_config  # noqa: F401 - seconds, that would count against the first item
from .launch import Outcome


def main(folder: Path) -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    function, items = pickle.loads((folder / "items.pkl").read_bytes())
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=180)
    )
    program = _load(function)
    for index, item in enumerate(items):
        _write(folder / f"{index}.{rank}.pkl", _run(program, item, rank))
        _forget()
    dist.barrier()
    dist.destroy_process_group()


def _load(function: str) -> Callable[[object], object]:
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


def _run(program: Callable[[object], object], item: object, rank: int) -> Outcome:
    try:
        return Outcome(rank, value=program(item))
    except Exception:
        return Outcome(rank, error=traceback.format_exc())


def _write(path: Path, outcome: Outcome) -> None:
    """Whole or not at all: the parent reads as soon as the name exists."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(pickle.dumps(outcome))
    draft.rename(path)


def _forget() -> None:
    """Each item starts with nothing compiled."""
    torch.compiler.reset()
    gc.collect()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
