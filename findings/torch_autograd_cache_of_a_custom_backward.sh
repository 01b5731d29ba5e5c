#!/usr/bin/env bash
# PyTorch 2.13.0, AOTAutogradCache (on by default) and torch.library.custom_op: after the formula of register_autograd was
#   changed, a later process computes gradients by the formula of an earlier one.
#
# Expected: a compiled program is found again only where what it was made of is the same, the backward of its operators
#   too: the key of the cache is meant to tell apart all that changes what is compiled.
# Seen: every OpOverload counts as safe to keep, and the key holds its name. What register_autograd was given is traced
#   into the program that is kept, and is in no key. The second process, whose formula multiplies by 5, finds the first
#   one's program and multiplies by 2: gradient 2 where eager gives 5. With an empty cache it gives 5. So it is in 2.15.0.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy setuptools
cat > "$folder/show.py" <<'PY'
import sys

import torch
from torch._dynamo.utils import counters

FACTOR = float(sys.argv[1])


@torch.library.custom_op("finding::scaled", mutates_args=())
def scaled(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


scaled.register_fake(torch.empty_like)
scaled.register_autograd(lambda ctx, grad: grad * FACTOR)


def gradient(call) -> float:
    x = torch.ones(4, requires_grad=True)
    call(x).backward()
    return x.grad[0].item()


def loss(x):
    return scaled(x).sum()


compiled = gradient(torch.compile(loss, fullgraph=True))
kept = "found" if counters["aot_autograd"]["autograd_cache_hit"] else "compiled"
print(f"{kept}: gradient {compiled:g}, eager {gradient(loss):g}")
PY
run() {
    TORCHINDUCTOR_CACHE_DIR="$folder/$1" "$folder/env/bin/python" "$folder/show.py" "$2" 2>/dev/null | tail -1
}
run shared 2 > /dev/null
seen="[$(run shared 5)][$(run empty 5)]"
echo "factor 5, after a run with factor 2 and with an empty cache: $seen"
expected="[found: gradient 2, eager 5][compiled: gradient 5, eager 5]"
if [ "$seen" = "$expected" ]; then echo "as described"; else echo "changed: $seen"; exit 1; fi
