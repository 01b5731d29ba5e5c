#!/usr/bin/env bash
# transformers 5.24.0: `disable_input_require_grads()` undoes one `enable_input_require_grads()`, not two.
#
# Expected: after it, no hook of `enable_input_require_grads` is left on the embeddings, however often that was called
#   (PEFT's `gradient_checkpointing_enable()` calls it, and a training script with adapters calls it again).
# Seen (transformers 5.24.0, peft 0.21.2): each call registers a hook and forgets the handles of the one before: of two
#   hooks one stays, a second `disable_input_require_grads()` finds none to remove, and the embedding's output asks for
#   a gradient for good; `torch.compile(fullgraph=True)` goes on refusing the model (requires_grad_ on an intermediate).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2 numpy
cat > "$folder/show.py" <<'PY'
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32,
    )
)
adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
embeddings = model.get_input_embeddings()
ids = torch.zeros(1, 4, dtype=torch.long)
seen = []
for step in (
    adapted.gradient_checkpointing_enable, adapted.enable_input_require_grads, adapted.disable_input_require_grads,
    adapted.disable_input_require_grads,
):
    step()
    seen.append(len(embeddings._forward_hooks))
    print(f"    {step.__name__}(): {seen[-1]} hooks, the embedding's output asks for a gradient: {embeddings(ids).requires_grad}")
assert not embeddings.weight.requires_grad and embeddings(ids).requires_grad
assert seen == [1, 2, 1, 1]
PY
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore "$folder/show.py"
