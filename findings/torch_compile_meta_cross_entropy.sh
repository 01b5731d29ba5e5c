#!/usr/bin/env bash
# PyTorch 2.13.0, torch.compile on the meta device (how planners run a model that does not fit): the gradient of
# F.cross_entropy is gone.
#
# Expected: gradients of the shapes that eager gives on the meta device, or an error.
# Seen (2.13.0; 2.15.0 the same): eager on "meta" gives the weight a gradient of [16, 8]; torch.compile with aot_eager on
#   the CPU too; compiled on "meta" the loss says that it requires grad, backward() ends without an error, and the
#   weight's grad is None: nothing before the loss is in the backward graph. One warning: aten::nll_loss has no autograd
#   kernel. The joint graph holds the forward alone, so memory that is predicted from it has no backward. On fake tensors
#   of the device "cpu" it is whole.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy setuptools
cat > "$folder/show.py" <<'PY'
import sys
import warnings

import torch
from torch.nn import functional as F


def loss(x, w, t):
    return F.cross_entropy(F.linear(x, w), t)


def step(device, compiled):
    torch._dynamo.reset()
    x, w = torch.ones(4, 8, device=device), torch.ones(16, 8, device=device, requires_grad=True)
    t = torch.zeros(4, dtype=torch.long, device=device)
    call = torch.compile(loss, backend="aot_eager", fullgraph=True) if compiled else loss
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = call(x, w, t)
        result.backward()
    warned = any("aten::nll_loss: an autograd kernel was not registered" in str(each.message) for each in said)
    return result.requires_grad, None if w.grad is None else tuple(w.grad.shape), warned


found = {}
for device in ("cpu", "meta"):
    for compiled in (False, True):
        found[device, compiled] = step(device, compiled)
        print(f"{device}, {'compiled' if compiled else 'eager'}: loss requires grad {found[device, compiled][0]}, "
              f"gradient {found[device, compiled][1]}, warned {found[device, compiled][2]}")
whole = (True, (16, 8), False)
same = [found["cpu", False], found["cpu", True], found["meta", False]] == [whole] * 3
lost = found["meta", True] == (True, None, True)
print("as described" if same and lost else f"changed: {found}")
sys.exit(not (same and lost))
PY
"$folder/env/bin/python" "$folder/show.py"
