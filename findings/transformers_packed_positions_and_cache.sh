#!/usr/bin/env bash
# transformers 5.24.0: whether packed documents see each other depends on `use_cache`, in training too.
#
# Expected: a row whose `position_ids` restart, without a mask, is a row of packed documents (masking_utils finds them
#   by the restarts): its second document's logits are those of the document alone, whatever `use_cache` is.
# Seen (5.24.0): with use_cache=False they are, to 1e-5. With the default, use_cache=True, the model makes a cache
#   object, the restarts are not looked at, and the second document attends to the first: other logits, and a
#   training loss of 5.03 for 5.27. No warning.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 numpy
cat > "$folder/show.py" <<'PY'
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("torch", torch.__version__, "transformers", transformers.__version__)
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, max_position_embeddings=64, initializer_range=0.2,
    )
).train()
ids = torch.randint(64, (1, 16))
positions = torch.tensor([[*range(8), *range(8)]])
alone = model(input_ids=ids[:, 8:]).logits
off = {}
for said in ({}, {"use_cache": True}, {"use_cache": False}):
    out = model(input_ids=ids, position_ids=positions, labels=ids, **said)
    off[str(said)] = float((out.logits[:, 8:] - alone).abs().max().detach())
    print(f"    {said}: loss {float(out.loss):.4f}, second document's logits off by {off[str(said)]:.1e}")
default, on, without = off.values()
assert default == on > 1e-1 and without < 1e-5
PY
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore "$folder/show.py"
