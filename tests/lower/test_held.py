"""A buffer that a forward writes is read through a copy, and a graph that reads it itself does not check."""

from __future__ import annotations

import pytest
import torch

from autosp.engine.planning import planned
from autosp.errors import CheckError
from autosp.lower import Rank, check, lower
from autosp.lower.held import HELD
from autosp.spec import parse
from tests.execute import keeping


def local(training: bool):
    ids = torch.zeros(2, 10, dtype=torch.long)
    plan, *_ = planned(keeping.Annealed().train(training), {"idx": ids, "targets": ids}, parse(keeping.SPEC), sp=2)
    return plan, lower(plan, Rank(1, "none"))


def test_what_is_written_is_read_through_a_copy():
    plan, gm = local(training=True)
    check(plan, gm)
    (copy,) = [n for n in gm.graph.nodes if n.target is HELD]
    assert {str(user.target) for user in copy.args[0].users} == {str(HELD), "aten.copy_.default"}


def test_a_graph_that_reads_the_buffer_itself_is_refused():
    plan, gm = local(training=True)
    (copy,) = [n for n in gm.graph.nodes if n.target is HELD]
    copy.replace_all_uses_with(copy.args[0])
    gm.graph.erase_node(copy)
    with pytest.raises(CheckError, match="which is written before the backward"):
        check(plan, gm)
