"""docs/models.md, from what came of every class."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from tests.models.one import CASES, Found


def page(found: Sequence[Found], date: datetime.date) -> str:
    """The page: counts, and a line a class."""
    import torch
    import transformers

    counts = {kind: [f for f in found if f.outcome == kind] for kind in ("exact", "refused", "failed", "untried")}
    built = len(found) - len(counts["untried"])
    lines = [
        "# Every causal language model of transformers",
        "",
        f"The {len(found)} `*ForCausalLM` classes of transformers {transformers.__version__}, each as a tiny random model,",
        "whose configuration is made by rule from its class (`tests/models/tiny.toml`), trained a step unsharded, in plain",
        f"eager PyTorch, and split over {CASES[0]['sp']} ranks by the spec that its class chooses, all ranks simulated in one",
        "process: 2 rows of 32 tokens, then 2 of 27, padded on the right, the first labels masked.",
        "Exact: the loss and the gradient of every parameter are the unsharded program's, within the bar of",
        "[the parity page](parity.md), of which the figure is the largest share used.",
        "",
        f"**{len(counts['exact'])} exact, {len(counts['refused'])} refused, {len(counts['failed'])} failed** of the "
        f"{built} that a tiny model could be built for ({100 * len(counts['exact']) / max(built, 1):.0f} % exact); "
        f"{len(counts['untried'])} could not.",
        f"torch {torch.__version__}, transformers {transformers.__version__}, CPU, {date.isoformat()}. "
        "Written by `python -m tests.models`.",
        "",
        "| class | | |",
        "|---|---|---|",
        *(row(f) for f in sorted(found, key=lambda f: f.name.lower())),
        "",
    ]
    return "\n".join(lines)


def row(found: Found) -> str:
    """A class in a line."""
    name = found.name.removesuffix("ForCausalLM")
    said = {"exact": "exact", "refused": "refused", "failed": "**failed**", "untried": "no tiny model"}[found.outcome]
    why = f"{found.used:.2f}" if found.outcome == "exact" else found.why.replace("|", "\\|").replace("\n", " ")
    return f"| {name} | {said} | {why} |"
