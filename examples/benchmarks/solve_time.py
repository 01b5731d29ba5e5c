"""How long a plan takes: a Llama of 8B shape, on fake tensors (no weights, no GPU, no process group).

    python examples/benchmarks/solve_time.py --layers 32 --seq 131072 --sp 8

Bounds: the solver under 2 s, capture to plan under 30 s.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, LlamaConfig

from autosp.passes import global_graph
from autosp.rules import default_rules
from autosp.sharding import MeshAxis
from autosp.solve import Ends, load_device, solve
from autosp.syntax import parse_layout

SEQUENCE = parse_layout("[batch@dp, seq@sp]")
SPLIT = ("input_ids", "labels", "position_ids")


def main() -> None:
    args = arguments()
    model, batch = build(args.layers, args.seq)
    (captured, _), capture_seconds = timed(
        lambda: global_graph(model, batch, layout_of=layout_of, dynamic=args.dynamic)
    )
    _, rule_seconds = timed(default_rules)
    ends = Ends(tuple("none" if o.name == "logits" else "whole" for o in captured.outputs), args.attention)
    device = load_device(args.device)
    plan, solve_seconds = timed(lambda: solve(captured, ends, axis=MeshAxis("sp", args.sp), device=device))
    print(f"layers                 {args.layers}")
    print(f"tokens, ranks          {args.seq}, {args.sp}")
    print(f"operators              {len(plan.problem.ops)}")
    print(f"values                 {len(plan.problem.values)}")
    print(f"collectives            {sum(r.kind != 'slice' for r in plan.reshards)}")
    print(f"capture                {capture_seconds:6.2f} s")
    print(f"rules, read once       {rule_seconds:6.2f} s")
    print(f"solve                  {solve_seconds:6.2f} s  (bound 2 s)")
    print(f"capture to plan        {capture_seconds + rule_seconds + solve_seconds:6.2f} s  (bound 30 s)")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--seq", type=int, default=131072)
    parser.add_argument("--sp", type=int, default=8)
    parser.add_argument("--attention", choices=("ulysses", "gather", "auto"), default="ulysses")
    parser.add_argument("--device", default="a100-80gb")
    parser.add_argument("--dynamic", action="store_true", help="lengths stay symbols")
    return parser.parse_args()


def build(layers: int, length: int) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A Llama of 8B shape and one batch, both fake."""
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=length,
        use_cache=False,
    )
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
        ids = torch.zeros(1, length, dtype=torch.long)
        return model, {"input_ids": ids, "labels": ids.clone(), "position_ids": torch.arange(length)[None]}


def layout_of(name: str, x: torch.Tensor):
    """The layouts of the shipped specs."""
    return SEQUENCE if name in SPLIT else None


def timed(work):
    """What `work` gives, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
