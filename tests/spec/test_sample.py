"""A model as it is traced: without a cache, wherever its configuration stands."""

from __future__ import annotations

from types import SimpleNamespace

from torch import nn

from autosp.spec.sample import made_up, switch_off_cache
from autosp.syntax.read import parse_layout


def test_the_cache_of_a_model_in_a_model_is_switched_off_too():
    outer, inner = nn.Sequential(nn.Linear(1, 1)), SimpleNamespace(use_cache=True)
    outer.config, outer[0].config = SimpleNamespace(use_cache=False), inner
    assert switch_off_cache(outer) and not inner.use_cache
    assert not switch_off_cache(outer)


def test_a_dim_that_is_a_number_has_that_size_in_what_is_made_up():
    made = made_up("mask", parse_layout("[batch@dp, 1, seq, 64]"), {"batch": 2}, 8)
    assert made.shape == (2, 1, 8, 64)
