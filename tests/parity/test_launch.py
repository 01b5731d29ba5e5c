"""The launcher: one launch for many items, a failure that names its rank, and no rank left hanging."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist

from autosp.parity.launch import errors, launch

HERE = "tests.parity.test_launch"


def add_up(item: float) -> float:
    total = torch.tensor(item + dist.get_rank())
    dist.all_reduce(total)
    return float(total)


def rank_one_fails(item: str) -> str:
    if item == "bad" and dist.get_rank() == 1:
        raise ValueError("out of luck")
    if item == "bad":
        dist.barrier()
    return item


def rank_one_dies(item: str) -> str:
    if dist.get_rank() == 1:
        os._exit(3)
    time.sleep(60)
    return item


def rank_one_sleeps(item: float) -> float:
    if item and dist.get_rank() == 1:
        time.sleep(item)
    return item


def test_many_items_share_a_launch():
    outcomes = launch(2, f"{HERE}:add_up", [1.0, 2.0, 3.0])
    assert [[outcome.value for outcome in by_rank] for by_rank in outcomes] == [[3.0, 3.0], [5.0, 5.0], [7.0, 7.0]]


def test_a_failure_names_its_rank_and_the_items_after_it_still_run(monkeypatch):
    monkeypatch.setattr("autosp.parity.launch.GRACE", 2.0)
    good, bad, after = launch(2, f"{HERE}:rank_one_fails", ["good", "bad", "after"])
    assert not errors(good) and not errors(after)
    assert "rank 1:\nTraceback" in errors(bad) and "ValueError: out of luck" in errors(bad)


def test_a_dead_rank_does_not_hang_the_others(monkeypatch):
    monkeypatch.setattr("autosp.parity.launch.GRACE", 2.0)
    (outcomes,) = launch(2, f"{HERE}:rank_one_dies", ["x"])
    assert "rank 1 failed with exit code 3" in outcomes[1].error
    assert "rank 0 was still running" in outcomes[0].error


def test_a_silent_rank_shows_where_it_stands():
    _, outcomes = launch(2, f"{HERE}:rank_one_sleeps", [0.0, 60.0], timeout=3.0)
    assert outcomes[0].value == 60.0
    assert "no answer within 3 s" in outcomes[1].error and "rank_one_sleeps" in outcomes[1].error
