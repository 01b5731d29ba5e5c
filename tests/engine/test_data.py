"""Who reads which samples, on four real ranks: one sp group the same, dp ranks different ones, epochs anew."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from autosp.engine import sampler
from autosp.errors import EngineError
from autosp.parity.launch import Outcome
from tests.engine import golden

DATA = list(range(17))
MESHES = {
    "dp2_sp2": ((2, 2), ("dp", "sp")),
    "sp4": ((1, 4), ("dp", "sp")),
    "sp_first": ((2, 2), ("sp", "dp")),
    "only_sp": ((4,), ("sp",)),
    "two_data_axes": ((2, 2, 1), ("replicate", "shard", "sp")),
    "named_otherwise": ((2, 2), ("data", "cp")),
}


def reads(name: str) -> dict:
    """The indices that this rank reads: in order, and shuffled in two epochs."""
    if name == "engine":
        from tests.engine.with_deepspeed import engine

        place, *_ = engine()
    else:
        place = dist.init_device_mesh("cpu", MESHES[name][0], mesh_dim_names=MESHES[name][1])
    options = {"shared": ("cp",)} if name == "named_otherwise" else {}
    shuffled = sampler(DATA, place, seed=3, **options)
    epochs = []
    for epoch in range(2):
        shuffled.set_epoch(epoch)
        epochs.append(list(shuffled))
    return {
        "in_order": list(sampler(DATA, place, shuffle=False, **options)),
        "padded": list(sampler(DATA, place, shuffle=False, drop_last=False, **options)),
        "epochs": epochs,
    }


def three_of_four() -> list[str]:
    """A size that does not divide the world, met by the sampler and by the compilation."""
    import autosp
    from tests.engine.with_deepspeed import engine

    made, *_ = engine(sequence_parallel_size=3)
    said = []
    for act in (lambda: sampler(DATA, made), lambda: autosp.compile(made, "causal_lm")):
        with pytest.raises(EngineError) as caught:
            act()
        said.append(str(caught.value))
    return said


def one_rank(name: str) -> dict | list[str]:
    return three_of_four() if name == "three_of_four" else reads(name)


GROUPS = {  # ranks that read the same
    "dp2_sp2": [[0, 1], [2, 3]],
    "engine": [[0, 1], [2, 3]],
    "sp4": [[0, 1, 2, 3]],
    "sp_first": [[0, 2], [1, 3]],
    "only_sp": [[0, 1, 2, 3]],
    "two_data_axes": [[0], [1], [2], [3]],
    "named_otherwise": [[0, 1], [2, 3]],
}

RANKS = {name: (4, "tests.engine.test_data:one_rank") for name in [*GROUPS, "three_of_four"]}


@pytest.mark.parametrize("name", GROUPS)
def test_ranks_of_one_sp_group_read_the_same(name: str, ranks: tuple[Outcome, ...]):
    for group in GROUPS[name]:
        assert all(ranks[rank].value == ranks[group[0]].value for rank in group)


@pytest.mark.parametrize("name", GROUPS)
def test_groups_share_the_data_out(name: str, ranks: tuple[Outcome, ...]):
    shares = [ranks[group[0]].value for group in GROUPS[name]]
    each = len(DATA) // len(shares)
    assert sorted(i for share in shares for i in share["in_order"]) == DATA[: each * len(shares)]
    assert set(DATA) == {i for share in shares for i in share["padded"]}
    for epoch in range(2):
        seen = [i for share in shares for i in share["epochs"][epoch]]
        assert len(seen) == len(set(seen)) == each * len(shares)


@pytest.mark.parametrize("name", GROUPS)
def test_an_epoch_shuffles_anew(name: str, ranks: tuple[Outcome, ...]):
    first, second = ranks[0].value["epochs"]
    assert first != second != ranks[0].value["in_order"]


@pytest.mark.parametrize("name", ["three_of_four"])
def test_a_size_that_does_not_divide_the_world(name: str, ranks: tuple[Outcome, ...]):
    texts = {text for outcome in ranks for text in outcome.value}
    assert len(texts) == 1
    golden.expect("data", name, texts.pop())


def test_something_that_is_no_mesh():
    with pytest.raises(EngineError) as caught:
        sampler(DATA, object())
    golden.expect("data", "no_mesh", str(caught.value))


def test_a_mesh_without_a_shared_axis():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(EngineError) as caught:
            sampler(DATA, dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "ps")))
    finally:
        dist.destroy_process_group()
    golden.expect("data", "no_shared_axis", str(caught.value))


def test_a_rank_outside_the_mesh(monkeypatch: pytest.MonkeyPatch):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
        monkeypatch.setattr(type(mesh), "get_coordinate", lambda self: None)
        with pytest.raises(EngineError) as caught:
            sampler(DATA, mesh)
    finally:
        dist.destroy_process_group()
    golden.expect("data", "outside", str(caught.value))
