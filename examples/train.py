"""Trains a small model on long windows of text, the sequence of each split over an sp group of ranks.

torchrun --nproc_per_node 2 examples/train.py --seq 512
"""

import argparse
import pydoc_data.topics
import time
from pathlib import Path

import deepspeed
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import autosp


def build_model(args) -> torch.nn.Module:
    """Four layers with random weights; its tokens are bytes."""
    torch.manual_seed(0)
    shape = dict(hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=8, head_dim=16)
    config = AutoConfig.for_model(
        args.model, vocab_size=256, num_key_value_heads=4, max_position_embeddings=args.seq, use_cache=False, **shape
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()


def build_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)


def read_windows(args) -> torch.Tensor:
    """The text as rows of `seq` bytes; without --text, the prose that every Python ships."""
    text = Path(args.text).read_bytes() if args.text else "\n".join(pydoc_data.topics.topics.values()).encode()
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long().unfold(0, args.seq, args.seq)


def batch_of(windows: torch.Tensor, args, step: int, dp_rank: int) -> dict[str, torch.Tensor]:
    """One window, the same for every rank of an sp group."""
    ids = windows[(step * args.dp + dp_rank) % len(windows)][None].clone()
    return {"input_ids": ids, "labels": ids.clone()}


def main(args) -> None:
    model, windows = build_model(args), read_windows(args)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,  # DeepSpeed clips at 1.0 unless told otherwise
        "zero_optimization": {"stage": args.zero},
        "compile": {"deepcompile": True, "passes": ["autosp"]},
        "sequence_parallel_size": args.sp,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=build_optimizer(model), config=config)
    autosp.compile(engine, backend=args.backend)

    for step in range(args.steps):
        start = time.perf_counter()
        batch = batch_of(windows, args, step, engine.global_rank // args.sp)
        loss = engine(**{name: tensor.to(engine.device) for name, tensor in batch.items()}).loss
        if step == 0 and engine.global_rank == 0:
            print(engine.autosp_plan.summary(), flush=True)
        engine.backward(loss)
        engine.step()
        if engine.global_rank == 0:
            speed = args.dp * args.seq / (time.perf_counter() - start)
            print(f"step {step + 1}/{args.steps}  loss {loss.item():.6f}  {speed:.0f} tokens/s", flush=True)

    if args.save and engine.global_rank == 0:
        torch.save(engine.module.state_dict(), args.save)
    engine.destroy()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sp", type=int, default=2, help="ranks that share a sequence")
    parser.add_argument("--dp", type=int, default=1, help="sp groups, each with a batch of its own")
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--zero", type=int, default=1, help="ZeRO stage")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--backend", default="inductor", help="inductor, aot_eager or eager")
    parser.add_argument("--model", default="llama", help="a model type of transformers")
    parser.add_argument("--text", help="a file to train on")
    parser.add_argument("--save", help="where rank 0 writes the parameters at the end")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(arguments())
