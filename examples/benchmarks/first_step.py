"""Seconds to the end of the first step: `torch.compile` on the unsharded model, autosp cold, and autosp warm.

    python examples/benchmarks/first_step.py --layers 8 --sp 2

Every run is a new process (autosp: one for each rank) with Inductor, whose cache the ranks of a node share. Cold: empty
caches. Warm: the cold run's caches, and the plan that it saved. The clock starts when the model is built; imports are not
in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = ("torch.compile", "autosp cold", "autosp warm")


def main() -> None:
    args = arguments()
    if args.run:
        print(f"seconds {one(args.run, args)}", flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for run in RUNS:
            print(f"{run:14} {launched(run, args, Path(folder)):6.1f} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--sp", type=int, default=2)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--recompute", default="sac")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)  # what one process does
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    return parser.parse_args()


def launched(run: str, args: argparse.Namespace, folder: Path) -> float:
    """The slowest process' seconds."""
    world = 1 if run == "torch.compile" else args.sp
    own = [sys.executable, __file__, "--run", run, "--plan", str(folder / "plan.json")]
    own += ["--layers", str(args.layers), "--seq", str(args.seq), "--recompute", args.recompute]
    processes = []
    for rank in range(world):
        caches = folder / ("unsharded" if run == "torch.compile" else "sharded")
        environment = os.environ | {
            "RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": "29531",
            "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TORCHINDUCTOR_CACHE_DIR": str(caches),
        }  # fmt: skip
        processes.append(subprocess.Popen(own, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{run} failed")
    return max(float(out.rsplit("seconds ", 1)[1]) for out in outputs)


def one(run: str, args: argparse.Namespace) -> float:
    """Seconds from the built model to the end of its first backward, in this process."""
    import time

    import torch
    import torch.distributed as dist
    from transformers import LlamaConfig, LlamaForCausalLM

    import autosp

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=704, num_hidden_layers=args.layers, num_attention_heads=8,
        num_key_value_heads=4, use_cache=False,
    )  # fmt: skip
    model, ids = LlamaForCausalLM(config).train(), torch.randint(512, (1, args.seq))
    dist.init_process_group("gloo")
    begin = time.perf_counter()
    if run == "torch.compile":
        model.compile(fullgraph=True)
    else:
        mesh = dist.init_device_mesh("cpu", (1, dist.get_world_size()), mesh_dim_names=("dp", "sp"))
        plan = args.plan if run == "autosp warm" else None
        autosp.compile(model, "llama", mesh=mesh, recompute=args.recompute, plan=plan)
    model(input_ids=ids, labels=ids).loss.backward()
    seconds = time.perf_counter() - begin
    if run == "autosp cold" and dist.get_rank() == 0:
        model.autosp_plan.save(args.plan)
    dist.barrier()
    dist.destroy_process_group()
    return seconds


if __name__ == "__main__":
    main()
