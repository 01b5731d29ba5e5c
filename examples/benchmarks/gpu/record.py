"""g. One step as a Chrome trace and as a snapshot of the allocator, both kept small."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import autosp

from .card import device_of
from .group import first_of
from .models import batch, llama
from .rank import DTYPE, SPEC
from .unpromised import memory_of

MOST = 12 * 2**20  # bytes of a file


def run(size: dict[str, Any], place: str, stem: Path, tell) -> dict[str, Any]:
    mesh = first_of(8, place)
    model = llama(size["model"], place, DTYPE[place], size["length"])
    autosp.compile(
        model, SPEC, mesh=mesh, device=device_of(place), backend=size["backend"], recompute="sac", grad_reduce="engine"
    )
    inputs = batch(size["model"]["vocab_size"], size["length"], place)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(**inputs).loss.backward()

    step()
    trace = stem.with_suffix(".trace.json.gz")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if place == "cuda" else [])]) as seen:
        step()
        if place == "cuda":
            torch.cuda.synchronize()
    seen.export_chrome_trace(str(trace))
    files = {"trace": _kept(trace)}
    tell({"files": files, "line": f"a trace of {files['trace']['bytes']:,} bytes"})
    if place == "cuda":
        snapshot = stem.with_suffix(".memory.pickle.gz")
        with gzip.open(snapshot, "wb") as out:
            pickle.dump(memory_of(step), out)
        files["snapshot"] = _kept(snapshot)
    words = [f"{name} {f['bytes']:,} bytes{'' if f['kept'] else ' (too large, removed)'}" for name, f in files.items()]
    return {"files": files, "line": ", ".join(words)}


def _kept(path: Path) -> dict[str, Any]:
    """The file's size; one that is too large to carry is removed."""
    count = path.stat().st_size
    if count > MOST:
        path.unlink()
    return {"file": path.name, "bytes": count, "kept": count <= MOST}
