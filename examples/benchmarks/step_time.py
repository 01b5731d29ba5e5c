"""Seconds of a step under `recompute sac` against `recompute none`, in turn in one process: a small Llama on the CPU.

    python examples/benchmarks/step_time.py --seq 4096 --steps 7

Inductor compiles both. The predicted ratio is that of the plan's device (`cpu`: rough figures of a laptop).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

import autosp

SETTINGS = ("none", "sac")


def main() -> None:
    args = arguments()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
    ids = torch.randint(512, (1, args.seq))
    steps = {setting: step_of(mesh, setting, ids, args.backend) for setting in SETTINGS}
    seconds: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    for turn in range(args.steps + 2):
        for setting, (_, step) in steps.items():
            begin = time.perf_counter()
            step()
            if turn > 1:  # the first call compiles the forward, and the backward when it is reached
                seconds[setting].append(time.perf_counter() - begin)
    none, sac = (statistics.median(seconds[s]) for s in SETTINGS)
    pairs = [b / a for a, b in zip(seconds["none"], seconds["sac"], strict=True)]
    print(f"{args.backend}, {args.seq} tokens, {args.steps} pairs: none {none:.3f} s, sac {sac:.3f} s")
    print(f"measured ratio  {statistics.median(pairs):.3f} (median of pairs; {min(pairs):.3f} to {max(pairs):.3f})")
    print(f"predicted ratio {predicted(ids):.3f}")
    dist.destroy_process_group()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--backend", default="inductor", choices=("inductor", "aot_eager"))
    return parser.parse_args()


def build() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=131072, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def step_of(mesh, setting: str, ids: torch.Tensor, backend: str):
    """A compiled model, and a call that trains it a step."""
    model = autosp.compile(build(), "llama", mesh=mesh, backend=backend, recompute=setting)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    return model, step


def predicted(ids: torch.Tensor) -> float:
    """Seconds of the plans' steps, `sac` over `none`."""
    plans = [
        autosp.plan(build(), {"input_ids": ids, "labels": ids}, "llama", sp=1, device="cpu", zero=0,
                    dtype=torch.float32, recompute=setting)
        for setting in SETTINGS
    ]  # fmt: skip
    return plans[1].step_seconds / plans[0].step_seconds


if __name__ == "__main__":
    main()
