"""The parity table: pairwise over everything that may interact, then a few cases by hand."""

from __future__ import annotations

from tests.execute.case import Case
from tests.execute.pairwise import Row, pairwise

MESHES = {"sp2": (1, 2), "sp4": (1, 4), "dp2sp2": (2, 2)}

FACTORS = {
    "mesh": list(MESHES),
    "path": ["zero1", "zero0", "plain"],
    "mask": ["absent", "ones", "right"],
    "labels": ["full", "prompt", "unequal"],
    "kv_heads": [8, 4, 1],
    "dynamic": [False, True],
    "batch": [1, 2],
    "optimizer": ["sgd", "adam"],
    "attn": ["sdpa", "eager"],
    "positions": [True, False],
}

BY_HAND = [
    Case(path="zero1", backend="inductor", batch=2, mask="right", optimizer="adam"),
    Case(dp=2, path="zero1", accumulate=2, clip=0.05, batch=2, labels="unequal"),
    Case(path="zero1", lengths=(32, 48), kv_heads=4),
    Case(path="plain", lengths=(32, 48, 40), dynamic=True, mask="right", batch=2),
    Case(path="plain", lengths=(37,), labels="prompt", mask="ones"),
    Case(sp=4, path="zero1", lengths=(37,), batch=2, labels="unequal", optimizer="adam"),
    Case(path="zero1", spec=None, optimizer="adam"),
    Case(path="plain", labels="same", positions=False),
]
BY_HAND_SLOW = [
    Case(path="plain", backend="inductor", kv_heads=4, labels="unequal"),
    Case(dp=2, path="zero1", mesh_in_config=True, kv_heads=4),
]


def _case(row: Row) -> Case:
    dp, sp = MESHES[row["mesh"]]
    return Case(dp=dp, sp=sp, **{name: value for name, value in row.items() if name != "mesh"})


PAIRWISE = [_case(row) for row in pairwise(FACTORS)]
CASES = PAIRWISE + BY_HAND + BY_HAND_SLOW
QUICK = PAIRWISE[:2] + BY_HAND  # in the default run
