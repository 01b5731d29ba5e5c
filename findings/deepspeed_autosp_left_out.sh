#!/usr/bin/env bash
# DeepSpeed 0.19.8: with ZeRO stage 3 (or 2) the `autosp` pass that a configuration asks for is left out, with one line
# at the log level info; training goes on without sequence parallelism.
#
# Expected: an error, or at least a warning: each rank now needs the memory of the whole sequence.
# Seen (0.19.8, torch 2.13.0; a Llama of one layer, 2 ranks, warnings and errors shown): stage 1 sends 4 all-to-alls in a
#   forward; stage 3, the same configuration otherwise, sends none, and nothing is said at level warning.
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
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29792")
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


def run(rank, stage):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    import deepspeed
    from deepspeed.compile.passes.sp_compile import prepare_autosp_inputs
    from deepspeed.utils import logger

    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    config = {
        "train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.0, "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True, "sequence_parallel_size": 2,
        "compile": {"deepcompile": True, "passes": ["autosp"]},
    }
    model = build()
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), config=config)
    said.clear()
    engine.compile(backend="inductor")
    ids = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(3))
    labels, places, mask = ids.clone(), torch.arange(16)[None].contiguous(), torch.ones_like(ids)
    if stage == 1:
        prepare_autosp_inputs(ids, labels, places, mask)
    with torch.profiler.profile() as profile:
        engine(input_ids=ids, labels=labels, position_ids=places, attention_mask=mask)
    sent = sum(event.count for event in profile.key_averages() if "alltoall_base" in event.key)
    about = [line for line in said if "AutoSP" in line or "autosp" in line]
    if rank == 0:
        print(f"    stage {stage}: {sent} all-to-alls in a forward, warnings about it: {about}", flush=True)
    assert about == [] and (sent == 4 if stage == 1 else sent == 0), (stage, sent, about)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    import importlib.metadata as meta

    print(" ".join(f"{n} {meta.version(n)}" for n in ("deepspeed", "torch", "transformers")), flush=True)
    for stage in (1, 3):
        mp.spawn(run, args=(stage,), nprocs=2)
    print("ok")
PY
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore "$folder/show.py" "$folder" 2>"$folder/errors.txt" | tee "$folder/out.txt" | grep -v '^\[' || true
grep -qx ok "$folder/out.txt" || { tail -20 "$folder/errors.txt"; exit 1; }
