#!/usr/bin/env bash
# PyTorch 2.13.0, torch.compile: where a forward adds to a buffer in place and uses it, gradients are of another value
# of the buffer than the loss is.
#
# Expected: the gradients of the same module run eagerly; or an error.
# Seen (2.13.0, CPU, backends aot_eager and inductor): loss and buffer are eager's, the gradient of the weight that the
#   buffer multiplies is 1.5 times eager's. With the buffer at 1, the forward makes it 2 and multiplies by 2; the
#   partitioner does not save that 2 but computes it again in the backward, from the buffer, which is 2 by then: 3.
#   No warning. `self.n = self.n + 1` in the place of `self.n += 1` is right.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy setuptools
cat > "$folder/show.py" <<'PY'
import sys

import torch
from torch import nn


class Annealed(nn.Module):
    """A counter that scales what follows."""

    def __init__(self, rebind):
        super().__init__()
        self.a, self.rebind = nn.Linear(4, 4), rebind
        self.register_buffer("n", torch.ones(()))

    def forward(self, x):
        if self.rebind:
            self.n = self.n + 1
        else:
            self.n += 1
        return (self.a(x) * self.n).sum()


def step(backend, rebind):
    torch.manual_seed(0)
    model, x = Annealed(rebind), torch.ones(2, 4)
    call = model if backend is None else torch.compile(model, backend=backend, fullgraph=True)
    loss = call(x)
    loss.backward()
    return float(loss.detach()), float(model.n), float(model.a.weight.grad[0, 0])


found = {}
for rebind in (False, True):
    eager = step(None, rebind)
    for backend in ("aot_eager", "inductor"):
        torch._dynamo.reset()
        ours = step(backend, rebind)
        found[rebind, backend] = ours[2] / eager[2]
        same = abs(ours[0] - eager[0]) < 1e-5 and ours[1] == eager[1]
        print(f"rebind {rebind}, {backend}: loss and buffer equal {same}, gradient {ours[2]} of eager's {eager[2]}")
        assert same
wrong = all(abs(found[False, b] - 1.5) < 1e-6 and abs(found[True, b] - 1.0) < 1e-6 for b in ("aot_eager", "inductor"))
print("as described" if wrong else f"changed: {found}")
sys.exit(not wrong)
PY
"$folder/env/bin/python" "$folder/show.py"
