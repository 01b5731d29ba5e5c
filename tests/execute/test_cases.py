"""The parity table itself: small, without repeats, every pair shown."""

from __future__ import annotations

import itertools

import torch

from tests.execute.case import IGNORED, Case, build_batch
from tests.execute.cases import CASES, FACTORS, QUICK
from tests.execute.pairwise import pairs_of, pairwise


def test_the_table_is_small_and_its_names_are_unique():
    assert len(CASES) <= 40
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_pair_of_values_is_shown():
    shown = set().union(*map(pairs_of, pairwise(FACTORS)))
    for (a, first), (b, second) in itertools.combinations(FACTORS.items(), 2):
        assert {((a, x), (b, y)) for x in first for y in second} <= shown


def test_the_default_run_has_every_mesh_every_path_and_inductor():
    assert {(case.dp, case.sp) for case in QUICK} == {(1, 2), (1, 4), (2, 2)}
    assert {case.path for case in QUICK} == {"plain", "zero0", "zero1"}
    assert any(case.backend == "inductor" for case in QUICK)


def test_a_masked_prompt_leaves_the_first_shard_without_a_valid_token():
    case = Case(sp=4, labels="prompt", lengths=(32,))
    shifted = build_batch(case, 0, 0, 0)["labels"][:, 1:]
    assert (shifted[:, :8] == IGNORED).all()
    assert (shifted[:, 8:] != IGNORED).all()


def test_unequal_labels_give_every_shard_its_own_count():
    case = Case(sp=4, labels="unequal", lengths=(48,))
    labels = build_batch(case, 0, 0, 0)["labels"]
    counts = (labels != IGNORED).unflatten(1, (4, 12)).sum(dim=(0, 2))
    assert len(set(counts.tolist())) == 4


def test_ranks_of_one_sp_group_get_one_batch_and_steps_get_their_own():
    case = Case(dp=2, lengths=(32, 48))
    assert torch.equal(build_batch(case, 0, 0, 0)["input_ids"], build_batch(case, 0, 0, 0)["input_ids"])
    assert not torch.equal(build_batch(case, 0, 0, 0)["input_ids"], build_batch(case, 0, 0, 1)["input_ids"])
    assert build_batch(case, 1, 0, 0)["input_ids"].shape == (1, 48)
