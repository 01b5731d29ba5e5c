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
from .joint import Joint, read_joint
from .partition import tidy


class _JointMade(Exception):
    """Ends AOTAutograd's work once there is a joint graph."""


def trace_joint(
    local: fx.GraphModule, examples: Sequence, decompositions: dict | None = None
) -> tuple[Joint, fx.GraphModule] | None:
    """The joint graph of a local graph, and the module that holds it; None where no gradient flows.

    examples: the values of the placeholders (tensors, fake or real, or numbers; symbols become the
    numbers that they had in the example). decompositions: the compiler's (Inductor's), if any.
    """
    traced: list = []

    def partition(gm, joint_inputs, *, num_fwd_outputs, **_):
        tidy(gm)
        traced.append((read_joint(gm, num_fwd_outputs), gm))
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
    """The storages that PyTorch's own partitioner saves: what `recompute none` keeps."""
    graph, mapping = fx.Graph(), {}
    graph.output(graph.graph_copy(gm.graph, mapping))
    copy = fx.GraphModule(gm, graph)  # with the constants that the graph reads
    copy.graph.output_node().meta.update(gm.graph.output_node().meta)
    _, backward = min_cut_rematerialization_partition(copy, None, num_fwd_outputs=num_fwd_outputs)
    passed = {n.name for n in backward.graph.find_nodes(op="placeholder")}
    back = {new.name: old for old, new in mapping.items()}
    ours = {s.id for s in joint.saveable}
    nodes = [back[name] for name in passed if name in back]
    return frozenset(s.id for n in nodes for s in joint.of.get(n, ()) if s.id in ours)
