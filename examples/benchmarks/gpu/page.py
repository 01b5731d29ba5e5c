"""docs/gpu.md, from what a run wrote."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .sizes import PARTS

GiB = 2**30
COMMAND = "python -m examples.benchmarks.gpu"
TITLES = {
    "parity": "Parity", "rank": "One rank of 8 at Llama-3.1-8B's layer shapes",
    "longest": "The longest sequence that the plan says fits", "offload": "Offload of the residual stream",
    "flex": "flex_attention's backward", "calibrate": "The card's description", "record": "A trace and a snapshot",
}  # fmt: skip
NOTES = {
    "parity": "Three SGD steps of a small Llama against plain eager PyTorch on the card, by the bar of "
    "[parity.md](parity.md): compiled by Inductor on one rank, and simulated on 2 and 4 ranks "
    "(`used` is the part of the bar that is used).",
    "rank": "Four layers and the head, bf16, forward and backward without an optimizer, loss and MLPs in tiles. The "
    "process group sends nothing: what a rank receives is what it has sent, so collectives take a copy's time, and "
    "predicted seconds leave theirs out. `deepspeed` is its AutoSP pass's recomputation, `checkpoint` each layer under "
    "`torch.utils.checkpoint`, both on our graph. MFU counts the model's own FLOPs, causal attention's half, over the "
    "description's bf16 peak.",
    "longest": "A model of 1.0 billion parameters (four such layers), AdamW with fp32 masters. Each length trains, or "
    "runs out of memory, with the allocator held to what the plan takes for usable (where the longest does not "
    "train in that, on the whole card too); the last is five percent longer.",
    "offload": "Recompute `full`, the same choice twice: what leaves a layer stays on the card, or waits in the host.",
    "flex": "Loss and gradients against the same attention written out in eager PyTorch: compiled on one rank, and "
    "with heads split over simulated ranks.",
    "calibrate": "`f_calibrate.device` of the results is the file; links between cards are the shipped file's.",
    "record": "Of a step of one layer at 8K tokens, `sac`: files of the results folder.",
}  # fmt: skip
INSTALL = """\
## Run it

From the top of a checkout, on a machine with one GPU, Python 3.12, torch and transformers, and no network. FOLDER holds
a wheel of each package that is missing there; the first line fetches them where there is a network, and
`--rehearse --wheels FOLDER` tries the install.

```
python3 -m examples.benchmarks.gpu --collect FOLDER
python3 -m pip install --no-index --no-deps --target SITE FOLDER/*.whl
PYTHONPATH=SITE:$PWD python3 -m examples.benchmarks.gpu --results RESULTS
PYTHONPATH=SITE:$PWD python3 -m examples.benchmarks.gpu --only b:128K --minutes 5 --results MORE   # where there is time
```

Every process has a time limit, prints a line, and has written what it knew if it is ended; what no longer fits into
`--minutes` (8) is left out, and that is said.
"""
UNSHOWN = """\
## What the CPU cannot show

A rehearsal runs every line of the command on the CPU; these are new on a GPU, and one card shows only some of them:

- NCCL: no part of the run sends anything between cards. Its buffers, its bandwidth, its latencies and the ends of a
  `reduce_scatter` on other ranks' time are the device files' assumptions.
- Streams: collectives that overlap with work (two cards), and copies to the host that do (part d).
- Autotuning: Inductor's choice among Triton's and the libraries' kernels, and FlashAttention's own (parts a, b, f).
- One thread a device for autograd: simulated ranks run their backward each in its own thread instead (part a).
- The allocator: fragments, segments, what the driver keeps to itself (parts b, c; `expandable_segments` is on).
"""


def written(run: dict[str, Any] | None) -> str:
    """The page of a run; of None, that there was none."""
    return "\n".join([*_head(run), "", *_parts(run or {"outcomes": []}), INSTALL, UNSHOWN]).rstrip() + "\n"


def without_folders(text: str) -> str:
    """A text whose files have names alone: their folders are those of the machine that it was written on."""
    return re.sub(r"(?<![\w.:/])/(?:[\w.+@-]+/)+", "", text)


def _head(run: dict[str, Any] | None) -> Iterator[str]:
    yield "# On a GPU"
    yield ""
    yield f"Written by `{COMMAND} --page FOLDER` from the JSON of a run's results folder."
    yield ""
    if run is None:
        yield f"**Not measured.** No GPU has run it yet. `{COMMAND} --rehearse` runs every part on the CPU, in CI."
        return
    about = run["about"]
    if run["rehearsed"]:
        yield "**Not measured: a rehearsal on the CPU**, with tiny sizes. No figure here is a GPU's."
        yield ""
    yield f"- Command: `{run['command']}`, {run['date']}, {run['seconds']:.0f} s"
    yield f"- Card: {about['card']}" + (f", CUDA {about['cuda']}" if about["cuda"] else "")
    yield f"- Description: `{about['device']}`"
    yield "- Releases: " + ", ".join(f"{name} {version}" for name, version in about["versions"].items())


def _parts(run: dict[str, Any]) -> Iterator[str]:
    for letter, name in PARTS.items():
        own = [o for o in run["outcomes"] if o["name"] == name]
        yield f"## {letter}. {TITLES[name]}"
        yield ""
        yield textwrap.fill(NOTES[name], 118, break_long_words=False, break_on_hyphens=False)
        yield ""
        found = [o for o in own if o.get("found")]
        if found:
            yield from TABLES[name]([o["found"] for o in found])
            yield ""
        missing = [o for o in own if "failed" in o or "left_out" in o]
        for o in missing:
            cell = o["cell"] or "the part"
            why = f"failed, {o['failed']}" if "failed" in o else f"left out, {o['left_out']}"
            yield f"- {cell}: {why}" + (f": `{o['last'][-1][:160]}`" if o.get("last") else "")
        if missing:
            yield ""
        if not own:
            yield "Not measured."
            yield ""


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def _parity(found: list[dict[str, Any]]) -> list[str]:
    cases = [case for f in found for case in f.get("cases", [])]
    rows = [
        (c["head"], c["precision"], c["sp"], "refused: " + c["refused"]) + ("",) * 3
        if "refused" in c
        else (c["head"], c["precision"], c["sp"], "exact" if c["exact"] else "MISS", _e(c["loss"]), _e(c["parameters"]),
              f"{c['used']:.2f}")
        for c in cases
    ]  # fmt: skip
    kernels = next((f["attention"] for f in found if f.get("attention")), {})
    seen = [f"- attention, {case}: " + (", ".join(f"`{n[:60]}`" for n in names) or "no kernel of that name")
            for case, names in kernels.items()]  # fmt: skip
    return [*table(("head", "precision", "sp", "", "loss", "parameters", "used"), rows), "", *seen]


def _rank(found: list[dict[str, Any]]) -> list[str]:
    rows, named = [], []
    for f in sorted(found, key=lambda f: f["length"]):
        told, off = f.get("predicted"), f.get("error")
        rows.append((
            f"{f['length']:,}", f["setting"], _s(f["seconds"]), _s(told and told["seconds"]),
            _pc(off and off["seconds"]), _g(f["peak"]), _g(told and told["peak"]), _pc(off and off["peak"]),
            _g(f["reserved"]), f"{f['mfu']:.1%}",
        ))  # fmt: skip
        if "profile" in f:
            named.append(_named(f))
    heads = ("tokens", "recompute", "s", "predicted", "off", "peak GiB", "predicted", "off", "reserved", "MFU")
    beyond = ["", "Beyond 5 % of memory or 20 % of time, by operator:", "", *named] if named else []
    return [*table(heads, rows), *beyond]


def _named(f: dict[str, Any]) -> str:
    profile, told = f["profile"], f["predicted"]
    kinds = ", ".join(
        f"{kind} {_s(s)} s" + (f" (predicted {_s(told['kinds'][kind])})" if kind in told["kinds"] else "")
        for kind, s in profile["seconds"].items()
    )
    slow = ", ".join(f"`{k['kernel'][:60]}` {_s(k['seconds'])} s" for k in profile["slowest"][:3])
    large = ", ".join(f"`{a['operator'][:40]}` {_g(a['bytes'])} GiB" for a in profile["allocated"][:3])
    return (
        f"- {f['length']:,} {f['setting']}: {kinds}; slowest {slow}; kept from the forward {_g(f['between'])} GiB "
        f"(predicted {_g(sum(told['saved'].values()))}), allocated by {large}; predicted peak in the {told['phase']}"
        + (f" at {told['at']}" if told["at"] else "")
    )


def _longest(found: list[dict[str, Any]]) -> list[str]:
    rows = [
        (f"{t['length']:,}", _g(t["room"]), "trains" if t["trained"] else "runs out", *(
            (_g(f["predicted"]), _g(t["peak"]), _pc(f["predicted"] / t["peak"] - 1)) if t["trained"] else ("", "", "")))
        for f in found for t in f.get("tries", [])
    ]  # fmt: skip
    return table(("tokens", "in GiB", "", "predicted peak GiB", "peak GiB", "off"), rows)


def _offload(found: list[dict[str, Any]]) -> list[str]:
    rows = [
        (_gb(f.get("to_host")), _gb(f.get("from_host")), _g(f["moved"]), _s(f["copies"]), _s(f["hidden"]),
         _s(f["exposed"]), _g(f["peak"]["here"]), _g(f["peak"]["there"]))
        for f in found if "moved" in f
    ]  # fmt: skip
    heads = ("to host GB/s", "back GB/s", "GiB each way", "copies s", "hidden s", "exposed s", "peak GiB", "offloaded")
    return table(heads, rows)


def _flex(found: list[dict[str, Any]]) -> list[str]:
    rows = [
        (way, *((f"failed: {each['failed'][:120]}", "", "", "") if "failed" in each else
                (_e(each["loss"]), _e(each["gradients"]), each["worst"], f"{each['used']:.2f}")))
        for f in found for way, each in f.items() if isinstance(each, dict)
    ]  # fmt: skip
    return table(("", "loss", "gradients", "worst", "used"), rows)


def _calibrate(found: list[dict[str, Any]]) -> list[str]:
    rows = [(r["figure"], f"{r['shipped']:.4g}", f"{r['measured']:.4g}",
             _pc(r["shipped"] / r["measured"] - 1) if r["measured"] else "")
            for f in found for r in f.get("rows", [])]  # fmt: skip
    each = [f"- {name}: {value:.4g}" for f in found for name, value in f.get("measured", {}).items()]
    return [*table(("", "shipped", "measured", "off"), rows), "", *each]


def _record(found: list[dict[str, Any]]) -> list[str]:
    return [
        f"- {name}: `{file['file']}`, {file['bytes']:,} bytes" + ("" if file["kept"] else ", too large: removed")
        for f in found for name, file in f.get("files", {}).items()
    ]  # fmt: skip


def _e(x: float) -> str:
    return f"{x:.1e}"


def _s(x: float | None) -> str:
    return "" if x is None else f"{x:.3f}"


def _g(x: float | None) -> str:
    return "" if x is None else f"{x / GiB:.3f}"


def _gb(x: float | None) -> str:
    return "" if x is None else f"{x / 1e9:.1f}"


def _pc(x: float | None) -> str:
    return "" if x is None else f"{x:+.1%}"


TABLES: dict[str, Callable[[list[dict[str, Any]]], list[str]]] = {
    "parity": _parity, "rank": _rank, "longest": _longest, "offload": _offload, "flex": _flex,
    "calibrate": _calibrate, "record": _record,
}  # fmt: skip
