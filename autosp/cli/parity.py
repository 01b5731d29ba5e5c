"""`autosp parity`: a user's own model, trained a few steps unsharded and sharded, and how far apart they end."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ._machine import json_option, say_json

MASKS, LABELS = ("none", "ones", "right", "left", "packed"), ("full", "prompt", "unequal", "empty")
EXTRAS, PRECISIONS = ("num_items_in_batch", "shift_labels"), ("fp32", "bf16", "autocast", "fp16")


@click.command()
@click.option(
    "--model", required=True, metavar="MODEL", help="A config.json, a transformers class, or pkg.mod:factory."
)
@click.option(
    "--spec", metavar="SPEC", help="A file, or a shipped spec by name; by default chosen by the model's class."
)
@click.option("--sp", default=2, show_default=True, type=click.IntRange(1), help="Ranks that share a sequence.")
@click.option("--dp", default=1, show_default=True, type=click.IntRange(1), help="Groups, each with its own batch.")
@click.option("--batch", default=2, show_default=True, type=click.IntRange(1), help="Rows of a group's batch.")
@click.option("--seq", "lengths", default=(32,), show_default=True, multiple=True, type=click.IntRange(2),
              help="Length of a sequence; given twice, the steps take turns.")  # fmt: skip
@click.option("--mask", default="none", show_default=True, type=click.Choice(MASKS))
@click.option("--labels", default="full", show_default=True, type=click.Choice(LABELS))
@click.option("--extra", "extras", multiple=True, type=click.Choice(EXTRAS), help="Also give the forward this.")
@click.option("--steps", default=3, show_default=True, type=click.IntRange(1))
@click.option("--accumulate", default=1, show_default=True, type=click.IntRange(1), help="Batches to a step.")
@click.option("--clip", default=0.0, show_default=True, help="Clip the gradient norm.")
@click.option("--optimizer", default="sgd", show_default=True, type=click.Choice(("sgd", "adam")))
@click.option("--lr", type=float, help="By default 0.5 for sgd, 0.001 for adam.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(PRECISIONS))
@click.option("--zero", type=click.IntRange(0, 3), help="Train a DeepSpeed engine with this ZeRO stage.")
@click.option("--attn", type=click.Choice(("sdpa", "eager")), help="Attention of a transformers model.")
@click.option(
    "--backend", default="aot_eager", show_default=True, type=click.Choice(("inductor", "aot_eager", "eager"))
)
@click.option("--recompute", help='What the backward computes again, as in a spec: "sac", "sac budget 0.5", "full".')
@click.option("--dynamic", is_flag=True, help="Compile once for all lengths.")
@click.option("--simulate", is_flag=True, help="All ranks in this process, without a process group.")
@json_option()
def parity(simulate: bool, as_json: bool, **fields: Any) -> None:
    """Train MODEL on made-up batches, unsharded and sharded, and compare every loss and parameter.

    Exits with 1 where they differ, or where autosp refuses. The bar, in fp32: 1e-5 of the loss, and of a
    parameter's largest value; in a lower precision, twice the unsharded program's
    own distance to fp32, the loss being held to the larger of its distances of loss and parameters, and to no
    less than the resolution of its own dtype.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    sys.path[:0] = [os.getcwd()] if os.getcwd() not in sys.path else []
    from ..parity.judging import judge
    from ..parity.messages import as_fields, page
    from ..parity.trial import Trial

    if simulate and (fields["precision"] in ("autocast", "fp16") or fields["zero"] is not None):
        raise click.UsageError("--simulate runs no autocast and no DeepSpeed engine: leave it out")
    verdict = judge(Trial(**fields), simulate)
    say_json(as_fields(verdict)) if as_json else click.echo(page(verdict))
    if not verdict.exact:
        raise SystemExit(1)
