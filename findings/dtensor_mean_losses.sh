#!/usr/bin/env bash
# torch 2.13.0, DTensor: mean losses over tokens sharded on 2 ranks are plain averages of the shards' own means.
#
# Expected: DTensor gives the value of the operator on the whole tensors, or refuses (it refuses cross entropy over 7
#   tokens on 2 ranks: "cannot be evenly sharded, resulting in biased mean result").
# Seen (2.13.0): without an exception,
#   - cross_entropy, 8 tokens of which 3 (all in the second shard) are ignored: 2.0718 for 2.0611;
#   - nll_loss with class weights, where one shard's weights sum to 0: nan for 1.6611;
#   - mse_loss over 7 rows: 0.9750 for 0.9798.
#   mean() and var() over the same 7 rows are right. (2.15.0 gives the right cross entropy.)
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/show.py" <<'PY'
import math, sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def run(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    x, x7 = torch.randn(8, 5), torch.randn(7, 5)
    t = torch.tensor([1, 2, 3, 4, -100, -100, -100, 0])
    weight = torch.arange(5.0)

    def rows(value):
        return distribute_tensor(value, mesh, [Shard(0)])

    cases = {
        "cross_entropy, ignored tokens": (F.cross_entropy(x, t), F.cross_entropy(rows(x), rows(t))),
        "nll_loss, class weights": (
            F.nll_loss(x.log_softmax(-1), t, weight=weight),
            F.nll_loss(rows(x).log_softmax(-1), rows(t), weight=distribute_tensor(weight, mesh, [Replicate()])),
        ),
        "mse_loss, 7 rows": (F.mse_loss(x7, torch.zeros(7, 5)), F.mse_loss(rows(x7), rows(torch.zeros(7, 5)))),
        "mean, 7 rows": (x7.mean(), rows(x7).mean()),
    }
    off = {}
    for name, (whole, sharded) in cases.items():
        a, b = float(whole), float(sharded.full_tensor())
        off[name] = not math.isclose(a, b, rel_tol=1e-4)
        if rank == 0:
            print(f"    {name}: whole {a:.4f}, DTensor {b:.4f}", flush=True)
    assert list(off.values()) == [True, True, True, False], off
    dist.destroy_process_group()


if __name__ == "__main__":
    print("torch", torch.__version__, flush=True)
    mp.spawn(run, args=(sys.argv[1],), nprocs=2)
PY
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore "$folder/show.py" "$folder/store"
