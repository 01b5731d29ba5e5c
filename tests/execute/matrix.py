"""The parity matrix: every family in every case, by the engine that `autosp parity` is.

`python -m tests.execute.matrix` runs all of it and writes docs/parity.md.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path

import attrs

from tests.execute.families import CLASSIFIERS, EXPERTS, FAMILIES, OWN, OWN_SPEC, SEQUENCES, UNLISTED, VARIANTS

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
ROWS = [*FAMILIES, *UNLISTED, *EXPERTS, *VARIANTS, *SEQUENCES, *OWN]
ITS_OWN_BATCH = ("LlavaForConditionalGeneration",)
RESULTS = PAGE.with_suffix(".json")
PEER = "DeepSpeed's pass"

Cell = tuple[str, str]  # a row and the title of a column


@attrs.frozen
class Column:
    """A case: what of a Trial differs from the usual one. simulated: in one process, else in real ones."""

    title: str
    said: str
    simulated: bool = True
    fields: dict = attrs.field(factory=dict, hash=False)


def column(title: str, said: str, simulated: bool = True, **fields) -> Column:
    return Column(title, said, simulated, fields)


COLUMNS = [
    column("sp 2", "32 tokens, batch 2, no mask, every label counts"),
    column("sp 3, odd", "37 tokens over 3 ranks; the first shard has no valid label", sp=3, lengths=(37,), labels="prompt"),
    column("sp 4", "a different number of valid labels on each rank", sp=4, labels="unequal"),
    column("sp 8", "as many ranks as heads, more than kv heads", sp=8, batch=1),
    column("short", "5 tokens over 8 ranks: some hold nothing", sp=8, lengths=(5,), batch=1),
    column("dp 2 x sp 4", "each data-parallel rank has a batch of its own", dp=2, sp=4, labels="unequal"),
    column("right", "padded on the right, prompt masked", mask="right", labels="prompt"),
    column("left", "padded on the left", mask="left", labels="prompt"),
    column("packed", "two documents a row, told by position_ids that restart", mask="packed"),
    column("no label", "no label of the batch counts: the unsharded result on all ranks, NaN or 0", labels="empty"),
    column("trainer", "num_items_in_batch and shift_labels are given", labels="prompt", extras=("num_items_in_batch", "shift_labels")),
    column("lengths", "32, 27 and 40 tokens in turn", lengths=(32, 27, 40)),
    column("written out", "attention as matmul, softmax, matmul", attn="eager"),
    column("accumulate", "4 batches a step, gradients clipped, Adam", accumulate=4, clip=0.05, optimizer="adam"),
    column("bf16", "bf16 weights", precision="bf16"),
    column("2 processes", "real processes on gloo, a DeviceMesh, padded, 32 and 27 tokens", False, mask="right", labels="prompt", lengths=(32, 27)),
    column("ZeRO-1", "real processes, a DeepSpeed engine, Adam", False, zero=1, optimizer="adam", labels="unequal"),
    column("ZeRO-0, 2x2", "real processes, dp 2 x sp 2", False, zero=0, dp=2, labels="prompt"),
    column("autocast", "real processes, torch.autocast to bf16", False, precision="autocast"),
    column("fp16", "real processes, autocast to fp16 and a GradScaler", False, precision="fp16"),
    column(PEER, "the pass that this project replaces: Inductor, ZeRO-1, 2 processes, 2 steps, with the mask of ones and the position_ids that it needs", False),
]  # fmt: skip
BY_TITLE = {each.title: each for each in COLUMNS}


_NO_INPUT = "its forward takes no such input"
_FIXED = "its batch is one of pictures and the tokens that stand for them"
_PADDED = ("right", "left")
_VARIED = ("sp 3, odd", "short", "dp 2 x sp 4", *_PADDED, "packed", "no label", "trainer", "lengths", "ZeRO-0, 2x2")
# rows, columns, why these cells do not exist: what the model's own forward cannot be given
NOT_THERE = [
    (tuple(OWN), (*_PADDED, "packed", "trainer"), _NO_INPUT),
    (tuple(OWN), ("written out",), "its attention is written in the model"),
    (tuple(OWN), (PEER,), "no Hugging Face model"),
    (("SoftLabels",), ("no label",), "every token has a target"),
    (("BertForMaskedLM", "LlamaDistilled", *SEQUENCES), ("trainer",), _NO_INPUT),
    (tuple(CLASSIFIERS), ("no label",), "every row has a label"),
    (("LlamaDistilled",), ("no label",), "it has no labels"),
    (tuple(SEQUENCES), ("packed",), "a row is one text"),
    (ITS_OWN_BATCH, _VARIED, _FIXED),
    ((*SEQUENCES, *ITS_OWN_BATCH, "LlamaDistilled"), (PEER,), "no causal model's inputs"),
]


# At 32 tokens two experts of a token tie to the last bits of the dtype: rounding chooses, in the unsharded run as in ours.
TIES = [("GptOssForCausalLM", "fp16"), ("Qwen3MoeForCausalLM", "autocast")]


def not_there(row: str, title: str) -> str:
    """Why a cell does not exist. Empty where it does."""
    return next((why for rows, titles, why in NOT_THERE if row in rows and title in titles), "")


def trial(row: str, title: str):
    from autosp.parity.trial import Trial

    fields = dict(BY_TITLE[title].fields)
    if title == "2 processes" and row in OWN:
        fields.pop("mask")
    if (row, title) in TIES:
        fields["lengths"] = (31,)
    module = "sequences" if row in SEQUENCES else "families"
    return Trial(
        model=f"tests.execute.{module}:{row}", spec=OWN_SPEC if row in OWN else None, lr=0.1 if "adam" not in
        fields.values() else None, **fields,
    )  # fmt: skip


def simulate_row(cells: Sequence[Cell]) -> dict[Cell, object]:
    """Verdicts on simulated cells of one row, which share its traces: a cell proves what it would alone."""
    import torch

    from autosp.parity.judging import judge
    from autosp.parity.sharded import Simulator
    from autosp.parity.verdict import Verdict

    torch.set_num_threads(1)
    simulator, found = Simulator(), {}
    for cell in cells:
        try:
            found[cell] = judge(trial(*cell), simulate=True, simulator=simulator)
        except Exception:
            found[cell] = Verdict(trial(*cell), failure=traceback.format_exc())
    return found


def simulate_rows(pool: Executor, cells: Iterable[Cell]) -> dict[str, Future]:
    """Verdicts by cell, to come, by row: a row is one task."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell[0], []).append(cell)
    return {row: pool.submit(simulate_row, chosen) for row, chosen in rows.items()}


def workers(count: int = 2) -> Executor:
    """Processes that simulate."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


def launch_all(cells: Sequence[Cell]) -> dict[Cell, object]:
    """Verdicts by cell, in as few launches of real processes as there are sizes of the world."""
    from autosp.engine.resolve import spec_for
    from autosp.parity.launch import launch
    from autosp.parity.trial import build
    from autosp.parity.verdict import of_outcomes, references

    found = {}
    trials = {cell: trial(*cell) for cell in cells}
    for world in sorted({t.world for t in trials.values()}):
        chosen = {cell: t for cell, t in trials.items() if t.world == world}
        items = [(t, spec_for(t.spec, build(t)[0])) for t in chosen.values()]
        wanted = [references(*item) for item in items]
        zero = any(t.zero is not None for t in chosen.values())
        outcomes = launch(world, "autosp.parity.sharded:on_rank", items, 240.0, deepspeed=zero)
        for (cell, t), expected, got in zip(chosen.items(), wanted, outcomes, strict=True):
            found[cell] = of_outcomes(t, expected, got)
    return found


def cell_text(verdict) -> str:
    """A cell of the page: the share of the bar that was used, or the refusal."""
    if verdict.failure:
        return "**FAILED**"
    if verdict.refusal:
        return f"refused: {verdict.refusal.what}"
    return f"{verdict.used:.2f}" if verdict.exact else f"**MISS {verdict.used:.2g}**"


def page(cells: dict[str, dict[str, str]]) -> str:
    """docs/parity.md, from the cells' texts by row and column."""
    import torch
    import transformers

    from autosp.parity.trial import EPS

    ours = [text for row in cells.values() for title, text in row.items() if title != PEER]
    lines = [
        "# The parity matrix",
        "",
        "Each cell trains a tiny random model of the family three steps, once as it is, in plain eager PyTorch, and once",
        "sharded by `autosp`, and compares every loss, every parameter at the end, and every gradient of the first step.",
        "The figure is the largest share of the bar that any of them uses: at most 1 is exact. The bar in fp32 is 1e-5 of",
        "the loss, and 1e-5 of a parameter's own largest value plus 1e-7 of the largest of all; in a lower precision, twice",
        "the unsharded program's own distance to fp32 (the loss: the larger of its distances of loss and parameters, and",
        "no less than the resolution of the loss's own dtype).",
        "",
        f"{sum(text[0] in '01' for text in ours)} cells are exact, {sum(text.startswith('refused') for text in ours)} "
        f"refused, {sum(text.startswith('**') for text in ours)} wrong. "
        f"torch {torch.__version__}, transformers {transformers.__version__}, CPU.",
        "Written by `python -m tests.execute.matrix`; one cell by hand: `autosp parity --model … --sp … --mask …`.",
        "",
        "| | " + " | ".join(c.title for c in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
        *(
            f"| {row} | "
            + " | ".join(cells[row].get(c.title) or f"({not_there(row, c.title)})" for c in COLUMNS)
            + " |"
            for row in ROWS
        ),
        "",
        "## The cases",
        "",
        *(f"- **{c.title}**: {c.said}" for c in COLUMNS),
        "",
        "Where nothing else is said: 2 ranks, batch 2, 32 tokens, SGD at lr 0.1, all ranks' local graphs run by a",
        "simulator in one process. Padding covers 3 positions of the first row and 7 of the second. In the column of",
        "DeepSpeed's pass a figure is relative, to be compared with the 1e-5 that the other columns are held to.",
        *(
            f"{row} has 31 tokens in {title}: at 32 two experts of a token tie, and rounding chooses."
            for row, title in TIES
        ),
        f"Adam has eps {EPS:g}: with 1e-5 the unsharded program in fp32 is off its own result in fp64 by up to 3.5 of the bar.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Runs the cells whose row or column is named (all of them by default), and writes the page anew."""
    from tests.execute.own_pass import figures_of

    begin = time.time()
    cells = [(row, c.title) for row in ROWS for c in COLUMNS if not not_there(row, c.title)]
    cells = [cell for cell in cells if not argv or any(word in cell for word in argv)]
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    texts = {row: kept.get(row, {}) for row in ROWS}
    good = True

    def keep(found: dict) -> None:
        nonlocal good
        for (row, title), verdict in found.items():
            texts[row][title] = verdict if isinstance(verdict, str) else cell_text(verdict)
            print(f"{time.time() - begin:5.0f} s  {row}, {title}: {texts[row][title]}", flush=True)
            if not isinstance(verdict, str) and not verdict.exact:
                print((verdict.refusal.text if verdict.refusal else verdict.failure) or verdict.gap, flush=True)
                good &= verdict.refusal is not None
        RESULTS.write_text(json.dumps(texts, indent=1) + "\n")

    simulated = [cell for cell in cells if BY_TITLE[cell[1]].simulated]
    with workers() as pool:
        for row in simulate_rows(pool, simulated).values():
            keep(row.result())
    for title in dict.fromkeys(title for _, title in cells if not BY_TITLE[title].simulated and title != PEER):
        keep(launch_all([cell for cell in cells if cell[1] == title]))
    for row, title in cells:
        if title == PEER:
            keep({(row, title): figures_of(row)})
    if all(not_there(row, c.title) or c.title in texts[row] for row in ROWS for c in COLUMNS):
        PAGE.write_text(page(texts))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
