#!/usr/bin/env bash
# DeepSpeed 0.19.8: the `autosp` pass compiles one engine of a process; the second one fails.
#
# Expected: two engines (a policy and its reward model, a sweep over learning rates) compile alike.
# Seen (0.19.8, torch 2.13.0, transformers 5.24.0): the second engine's first forward raises "OSError: could not get
#   source code": the pass reads the source of a function of torch, edits and re-executes it, and what it made has none.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 deepspeed==0.19.8 numpy setuptools
cat > "$folder/show.py" <<'PY'
import logging
import os
import sys

FOLDER = sys.argv[1]
os.environ.update(DS_ACCELERATOR="cpu", TORCH_EXTENSIONS_DIR=f"{FOLDER}/extensions", WORLD_SIZE="2")
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29793")
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
    answers = []
    for count in (1, 2):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        ids = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(3))
        labels, places, mask = ids.clone(), torch.arange(16)[None].contiguous(), torch.ones_like(ids)
        try:
            engine.compile(backend="inductor")
            prepare_autosp_inputs(ids, labels, places, mask)
            engine(input_ids=ids, labels=labels, position_ids=places, attention_mask=mask)
            answers.append("runs")
        except Exception as e:
            answers.append(f"{type(e).__name__}: {str(e).splitlines()[0]}")
        if rank == 0:
            print(f"    engine {count}: {answers[-1]}", flush=True)
    assert answers[0] == "runs" and "could not get source code" in answers[1], answers
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
