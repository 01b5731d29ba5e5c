"""One rank's joint graph on fake tensors, before anything is compiled: nothing is computed or sent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from ..compat.torch import (
    FakeTensorMode,
    TracingContext,
    aot_module_simplified,
    aot_settings,
    data_dependent,
    example_size,
    min_cut_rematerialization_partition,
    within_trace,
)
from ..folding import LIKE, find_repetitions, shortened, stretched
from .joint import Joint, read_joint
from .partition import tidy

SHORT = "autosp_short"  # in a stamped joint graph's meta: the one that was traced
KEPT = 5  # parts of a run that are traced: the first and the last differ (what is computed once for all is there)


class _JointMade(Exception):
    """Ends AOTAutograd's work once there is a joint graph."""


def trace_joint(
    local: fx.GraphModule, examples: Sequence, decompositions: dict | None = None
) -> tuple[Joint, fx.GraphModule] | None:
    """The joint graph of a local graph, and the module that holds it; None where no gradient flows.

    examples: the values of the placeholders (tensors, fake or real, or numbers; symbols become the
    numbers that they had in the example). decompositions: the compiler's (Inductor's), if any. Of many equal parts of
    the graph (layers, tiles) a few are traced, and stamped for the others.
    """
    short = shortened(local, find_repetitions(local, examples), KEPT)
    if short is not None:
        traced = joint_graph(short.graph, [examples[i] for i in short.of], decompositions)
        if traced is None:
            return None
        whole = stretched(traced[0], short, local)
        if whole is not None:
            whole.meta[SHORT] = traced[0]
            return read_joint(whole, traced[1]), whole
    traced = joint_graph(local, examples, decompositions)
    return None if traced is None else (read_joint(*traced), traced[0])


def joint_graph(
    local: fx.GraphModule, examples: Sequence, decompositions: dict | None
) -> tuple[fx.GraphModule, int] | None:
    """The joint graph, and how many of its outputs are the forward's; None where no gradient flows."""
    traced: list = []

    def partition(gm, joint_inputs, *, num_fwd_outputs, **_):
        tidy(gm)
        traced.append((gm, num_fwd_outputs))
        raise _JointMade

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=data_dependent())
    fakes = [_fake(x, mode) for x in examples]
    with within_trace(TracingContext(mode)), torch.enable_grad(), aot_settings(enable_autograd_cache=False):
        try:
            aot_module_simplified(
                local, fakes, fw_compiler=_unused, bw_compiler=_unused, inference_compiler=_unused,
                partition_fn=partition, decompositions=decompositions or {}, keep_inference_input_mutations=True,
            )  # fmt: skip
        except _JointMade:
            return traced[0]
    return None


def _unused(gm: fx.GraphModule, inputs):
    return gm


def _fake(x, mode: FakeTensorMode):
    if isinstance(x, torch.SymInt):
        return int(example_size(x))
    if not isinstance(x, torch.Tensor):
        return x
    sizes = [int(example_size(s)) for s in x.shape]
    strides = [int(example_size(s)) for s in x.stride()]
    with mode:
        fake = torch.empty_strided(sizes, strides, dtype=x.dtype, device=x.device)
    return fake.requires_grad_(x.requires_grad)


def default_saved(joint: Joint, gm: fx.GraphModule, num_fwd_outputs: int) -> frozenset[int]:
    """The storages that PyTorch's own partitioner saves: what `recompute none` keeps. Of equal parts it saves the same,
    so it is asked about those that were traced."""
    gm = gm.meta.get(SHORT, gm)
    graph, mapping = fx.Graph(), {}
    graph.output(graph.graph_copy(gm.graph, mapping))
    copy = fx.GraphModule(gm, graph)  # with the constants that the graph reads
    copy.graph.output_node().meta.update(gm.graph.output_node().meta)
    _, backward = min_cut_rematerialization_partition(copy, None, num_fwd_outputs=num_fwd_outputs)
    passed = {n.name for n in backward.graph.find_nodes(op="placeholder")}
    saved = {old.name for old, new in mapping.items() if new.name in passed}
    ours = {s.id for s in joint.saveable}
    nodes = [n for n in joint.nodes if n.meta.get(LIKE, n.name) in saved]
    return frozenset(s.id for n in nodes for s in joint.of.get(n, ()) if s.id in ours)
