#!/usr/bin/env bash
# PyTorch 2.13.0, AOTAutogradCache (on by default) and a function marked by torch._dynamo.allow_in_graph inside
#   torch.utils.checkpoint: a later run gets what an earlier one compiled from another version of the function.
#
# Expected: the cache keeps no program with a call that its key does not describe. Called directly, such a function is one:
#   "Unsupported call_function target", the program is not kept, and every process compiles its own.
# Seen: under a checkpoint the call stands in a graph of its own, and the calls of such graphs are not looked at
#   (check_cacheable in torch/_functorch/_aot_autograd/autograd_cache.py goes over the outer graph). The key holds the
#   function's name alone. After the function's factor was changed from 2 to 3, the second process finds the first one's
#   program and gives its loss, 4 sin 2 = 3.6372, in place of 4 sin 3 = 0.5645; its gradient is the first one's too. So it
#   is in 2.15.0.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy setuptools
cat > "$folder/show.py" <<'PY'
import sys

import torch
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

FACTOR, WHERE = float(sys.argv[1]), sys.argv[2]


def scaled(x):
    return x * FACTOR


torch._dynamo.allow_in_graph(scaled)


def loss(x):
    if WHERE == "checkpointed":
        return checkpoint(lambda x: scaled(x).sin(), x, use_reentrant=False).sum()
    return scaled(x).sin().sum()


x = torch.ones(4, requires_grad=True)
compiled = torch.compile(loss, fullgraph=True)(x)
compiled.backward()
kept = "found" if counters["aot_autograd"]["autograd_cache_hit"] else "compiled"
print(f"{kept} {compiled.item():.4f} {x.grad[0].item():.4f} eager {loss(x.detach()).item():.4f}")
PY
run() {
    TORCHINDUCTOR_CACHE_DIR="$folder/cache-$1" "$folder/env/bin/python" "$folder/show.py" "$2" "$1" 2>/dev/null | tail -1
}
seen=""
for where in direct checkpointed; do
    run "$where" 2 > /dev/null
    second="$(run "$where" 3)"
    echo "factor 3 after a run with factor 2, $where: $second"
    seen="$seen[$second]"
done
expected="[compiled 0.5645 -2.9700 eager 0.5645][found 3.6372 -0.8323 eager 0.5645]"
if [ "$seen" = "$expected" ]; then echo "as described"; else echo "changed: $seen"; exit 1; fi
