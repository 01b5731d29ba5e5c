#!/usr/bin/env bash
# DeepSpeed 0.19.8, DeepCompile's `autosp` pass: each rank returns another loss than the unsharded model, and NaN
# where its part of the sequence has no label.
#
# Expected: sequence parallelism over one batch returns the loss of that batch, as the same model gives it eagerly.
# Seen (0.19.8, torch 2.13.0, transformers 5.24.0; a Llama of one layer, 16 tokens over 2 ranks, prompts of 4 and 9 tokens
#   without labels): eager 4.5148 and 4.6109; the ranks 4.3983 and 4.6109 for the first, nan and 4.6109 for the second.
#   Labels are cut before they are shifted, and each rank averages over its own labels.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 deepspeed==0.19.8 numpy setuptools
cat > "$folder/show.py" <<'PY'
import logging
import math
import os
import sys

FOLDER = sys.argv[1]
os.environ.update(DS_ACCELERATOR="cpu", TORCH_EXTENSIONS_DIR=f"{FOLDER}/extensions", WORLD_SIZE="2")
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29791")
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def build():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=32, max_position_embeddings=64, use_cache=False, initializer_range=0.2,
        )
    ).train()


def run(rank):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    logging.disable(logging.WARNING)
    import deepspeed
    from deepspeed.compile.passes.sp_compile import prepare_autosp_inputs

    config = {
        "train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.0, "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True, "sequence_parallel_size": 2,
        "compile": {"deepcompile": True, "passes": ["autosp"]},
    }
    eager, model = build(), build()
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), config=config)
    engine.compile(backend="inductor")
    ids = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(3))
    found = []
    for prompt in (4, 9):
        labels = ids.clone()
        labels[:, :prompt] = -100
        places, mask = torch.arange(16)[None].contiguous(), torch.ones_like(ids)
        whole = float(eager(input_ids=ids, labels=labels, position_ids=places, attention_mask=mask).loss)
        prepare_autosp_inputs(ids, labels, places, mask)
        loss = engine(input_ids=ids, labels=labels, position_ids=places, attention_mask=mask).loss
        found.append((whole, float(loss.detach())))
        print(f"    rank {rank}, prompt {prompt}: loss {found[-1][1]:.4f}, eager {whole:.4f}", flush=True)
    answers = [None, None]
    dist.all_gather_object(answers, found)
    (first, second), (other, last) = answers
    assert first[1] != other[1] and max(abs(a - b) for a, b in (first, other)) > 1e-2
    assert any(math.isnan(b) for _, b in (second, last)) and not math.isnan(second[0])
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    import importlib.metadata as meta

    print(" ".join(f"{n} {meta.version(n)}" for n in ("deepspeed", "torch", "transformers")), flush=True)
    mp.spawn(run, nprocs=2)
    print("ok")
PY
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore "$folder/show.py" "$folder" 2>"$folder/errors.txt" | tee "$folder/out.txt" | grep -v '^\[' || true
grep -qx ok "$folder/out.txt" || { tail -20 "$folder/errors.txt"; exit 1; }
