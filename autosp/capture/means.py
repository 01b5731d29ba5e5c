"""`reduce loss mean over [dp, sp]`: one mean over the tokens of all data-parallel batches.

Data parallelism takes the mean over dp of each rank's own mean, which weighs a token more the
fewer tokens its rank holds. Here each rank divides by the mean count instead: with counts n_r and
sums s_r, mean_r(s_r / mean(n)) = sum(s) / sum(n).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from ..errors import CaptureError, Problem

MARK = "autosp_token_mean"  # on the division of a loss's sum by its count


@torch.library.custom_op("autosp::mean_over", mutates_args=(), schema="(Tensor x, str axis) -> Tensor")
def mean_over_op(x: torch.Tensor, axis: str) -> torch.Tensor:
    """The mean of `x` over the ranks of an axis. Only a mark: lowering puts the collective there."""
    return x.clone() if x.is_floating_point() else x.double()


@mean_over_op.register_fake
def _(x: torch.Tensor, axis: str) -> torch.Tensor:
    return torch.empty_like(x, dtype=x.dtype if x.is_floating_point() else torch.float64)


mean_over_op.register_autograd(lambda ctx, grad: (grad, None))


def weigh_means(gm: fx.GraphModule, axes: Sequence[str]) -> None:
    """Make every token mean one over `axes` too. Raises CaptureError where the graph holds none."""
    if not axes:
        return
    means = [n for n in gm.graph.nodes if n.meta.get(MARK)]
    if not means:
        raise CaptureError(_no_mean(axes))
    for mean in means:
        number, loss = mean.args[1], mean
        with gm.graph.inserting_before(mean):
            for axis in axes:
                number = _mark(gm, number, axis)
        mean.args = (mean.args[0], number)
        for axis in axes:
            with gm.graph.inserting_after(loss):
                after = _mark(gm, loss, axis)
            loss.replace_all_uses_with(after, delete_user_cb=lambda user, new=after: user is not new)
            loss = after
    gm.graph.lint()
    gm.recompile()


def _mark(gm: fx.GraphModule, x: fx.Node, axis: str) -> fx.Node:
    node = gm.graph.call_function(torch.ops.autosp.mean_over.default, (x, axis))
    node.meta = {k: v for k, v in x.meta.items() if k in ("nn_module_stack", "stack_trace")}
    val = x.meta["val"]
    with val.fake_mode:
        node.meta["val"] = torch.empty_like(val, dtype=val.dtype if val.is_floating_point() else torch.float64)
    return node


def _no_mean(axes: Sequence[str]) -> Problem:
    return Problem(
        what=f"the loss is to be a mean over {', '.join(axes)} too, and the graph holds no mean over tokens",
        rule="'reduce loss mean over' weighs a cross-entropy with reduction 'mean'; a loss that is divided by a count "
        "of the caller's (num_items_in_batch) is weighed by that count",
        fix="leave the statement out, or let the model take its own mean",
        where="spec, reduce",
    )
