"""`reduce loss mean over [dp, sp]` weighs every token alike, whichever rank holds it."""

from autosp.parity.launch import errors, launch
from tests.execute.reference import LOSS_BAR, loss_error
from tests.execute.token_mean import unsharded


def test_a_token_weighs_the_same_on_every_data_parallel_rank() -> None:
    losses, parameters = unsharded()
    answers = launch(4, "tests.execute.token_mean:sharded", [("plain", parameters), ("zero1", parameters)])
    for outcomes in answers:
        assert not errors(outcomes), errors(outcomes)
        for outcome in outcomes:
            assert loss_error(losses, outcome.value.losses) <= LOSS_BAR
            assert outcome.value.difference.ratio <= 1, outcome.value.difference
        assert len({outcome.value.losses for outcome in outcomes}) == 1
