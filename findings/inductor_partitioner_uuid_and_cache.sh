#!/usr/bin/env bash
# PyTorch 2.13.0, Inductor's cache of compiled graphs and a CustomPartitionerFn: its uuid() does not decide what is found.
#
# Expected: CustomPartitionerFn asks for a uuid() that stands for it in cache keys, so that a second process with the same
#   graph and a partitioner of the same uuid finds what the first one compiled.
# Seen: the key also holds the pickled partitioner itself, among the settings of Inductor (inductor_config
#   [custom_partitioner_fn] in TORCH_LOGS="+torch._inductor.codecache"). A partitioner that keeps a frozenset of strings is
#   pickled in another order under every hash seed: the same uuid, and every process misses. One that keeps a tuple hits.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy setuptools
cat > "$folder/show.py" <<'PY'
import sys

import torch
from torch._dynamo.utils import counters
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.custom_graph_pass import CustomPartitionerFn

NAMES = [f"layer.{i}" for i in range(40)]


class Partitioner(CustomPartitionerFn):
    def __init__(self, names):
        self.names = names

    def __call__(self, gm, joint_inputs, **kwargs):
        return min_cut_rematerialization_partition(gm, joint_inputs, **kwargs)

    def uuid(self):
        return "the same in every process"


torch._inductor.config.custom_partitioner_fn = Partitioner(frozenset(NAMES) if sys.argv[1] == "set" else tuple(NAMES))
x = torch.ones(8, 8, requires_grad=True)
torch.compile(lambda x: (x @ x).sin().sum(), fullgraph=True)(x).backward()
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
PY
run() {
    PYTHONHASHSEED="$2" TORCHINDUCTOR_CACHE_DIR="$folder/cache-$1" "$folder/env/bin/python" "$folder/show.py" "$1" 2>/dev/null | tail -1
}
seen=""
for kind in tuple set; do
    run "$kind" 1 > /dev/null
    second="$(run "$kind" 2)"
    echo "a $kind of names: hits and misses of the second process: $second"
    seen="$seen[$second]"
done
if [ "$seen" = "[2 0][0 2]" ]; then echo "as described"; else echo "changed: $seen"; exit 1; fi
