"""What a rank holds and computes twice, by how it recomputes: a Llama of 8B shape, on fake tensors.

    python examples/benchmarks/recompute_table.py --layers 32 --seq 131072 --sp 8

One rank of `sp`; bytes without parameters and gradients; attention is the GPU's flash kernel, of which only
shapes are computed. Peers: PyTorch's own partitioner, the recomputation of DeepSpeed's AutoSP (its own code,
spliced into PyTorch's source as DeepSpeed does it), and layers checkpointed whole.
"""

from __future__ import annotations

import argparse
import operator
import time
from collections.abc import Iterator

import torch
from solve_time import build
from torch import fx

from autosp.engine.traced import planned
from autosp.lower import Rank, lower
from autosp.recompute import tile
from autosp.recompute.choose import Candidate, Chooser
from autosp.recompute.joint import crosses_layers
from autosp.recompute.liveness import peaks
from autosp.recompute.seconds import flops
from autosp.recompute.trace import default_saved, trace_joint
from autosp.solve import load_device
from autosp.spec import Tile

GiB = 2**30
aten = torch.ops.aten


def main() -> None:
    args = arguments()
    model, batch = build(args.layers, args.seq)
    batch.pop("position_ids")  # with them every rank makes a mask, for documents may be packed
    plan, _, examples = planned(model, batch, "llama", sp=args.sp, device=args.device)[:3]
    local = with_flash(lower(plan, Rank(0, "nobody", complete=False)))
    tiles = [Tile("loss", "auto"), Tile("mlp", "auto")]
    print(f"{args.layers} layers, {args.seq:,} tokens over {args.sp} ranks, bf16, {args.device}: one rank")
    print("| | saved GiB | peak GiB | extra TFLOP | extra s |")
    print("|---|---|---|---|---|")
    begin = time.perf_counter()
    for name, chooser, found in rows(local, examples, tiles, load_device(args.device), args.sp):
        print(row(name, chooser, found), flush=True)
    print(f"\nin {time.perf_counter() - begin:.0f} s")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--seq", type=int, default=131072)
    parser.add_argument("--sp", type=int, default=8)
    parser.add_argument("--device", default="a100-80gb")
    return parser.parse_args()


def rows(local: fx.GraphModule, examples, tiles, device, p: int) -> Iterator[tuple[str, Chooser, Candidate]]:
    joint, gm = trace_joint(local, examples)
    chooser = Chooser(joint, device, p)
    outputs = len(gm.graph.output_node().args[0]) - joint.inputs
    none = default_saved(joint, gm, outputs)
    layers = {s.id for s in joint.saveable if crosses_layers(s) or (s.layer is None and s.id in none)}
    yield "none (PyTorch)", chooser, chooser.candidate(none)
    yield "layers checkpointed whole", chooser, chooser.candidate(layers)
    whole = chooser.candidate(none).peak.bytes
    yield "sac", chooser, chooser.least(protect=True)
    for budget in (1.0, 0.5, 0.25):
        yield f"sac budget {budget}", chooser, chooser.fitting(int(budget * whole)) or chooser.smallest()
    tiled, _, _ = tile(local, tiles)
    joint, _ = trace_joint(tiled, examples)
    chooser = Chooser(joint, device, p)
    yield "sac, tiles of loss and MLP", chooser, chooser.least(protect=True)
    for budget in (1.0, 0.5, 0.25):
        yield f"sac budget {budget}, tiles", chooser, chooser.fitting(int(budget * whole)) or chooser.smallest()
    yield "attention kept, collectives twice, tiles", chooser, tags(chooser)
    yield "least peak, tiles", chooser, chooser.smallest()
    joint, gm = trace_joint(local, examples)
    chooser = Chooser(joint, device, p)
    yield "DeepSpeed's SAC", chooser, chooser.candidate(deepspeeds(joint, gm, outputs))


def tags(chooser: Chooser) -> Candidate:
    """The fewest bytes that cross without an attention that runs twice."""
    kept = [c for c in chooser.corners() if not any("attention" in str(n.target) for n in c.schedule.again)]
    return min(kept, key=lambda c: c.bytes)


def deepspeeds(joint, gm: fx.GraphModule, outputs: int) -> frozenset[int]:
    """What DeepSpeed's pass saves. It edits PyTorch in this process for good, so it comes last."""
    from deepspeed.compile.passes.long_context_checkpointing import register_long_context_checkpointing

    register_long_context_checkpointing()
    return default_saved(joint, gm, outputs)


def with_flash(local: fx.GraphModule) -> fx.GraphModule:
    """The graph with the GPU's attention kernel, which fake tensors of the CPU would not choose."""
    for node in local.graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default):
        if not node.kwargs.get("is_causal"):
            continue
        with local.graph.inserting_before(node):
            flash = local.graph.call_function(
                aten._scaled_dot_product_flash_attention.default, (*node.args[:3], 0.0, True)
            )
            out = local.graph.call_function(operator.getitem, (flash, 0))
        flash.meta.update(node.meta)
        out.meta.update(node.meta)
        node.replace_all_uses_with(out)
        local.graph.erase_node(node)
    local.recompile()
    return local


def row(name: str, chooser: Chooser, c: Candidate) -> str:
    peak = max(p.bytes for p in peaks(chooser.joint, c.schedule, gradients=False))
    twice = sum(flops(n) for n in c.schedule.again if n in chooser.in_forward)
    return f"| {name} | {c.bytes / GiB:.2f} | {peak / GiB:.2f} | {twice / 1e12:.1f} | {c.seconds:.2f} |"


if __name__ == "__main__":
    main()
