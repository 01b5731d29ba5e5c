"""The search for the longest length, over functions that stand for a peak."""

import pytest

from autosp.engine.longest import longest

GB = 10**9
STATES = 40 * GB
ROOM = 80 * GB

PEAKS = {
    "straight": lambda n: STATES + 100_000 * n,
    "with a knee": lambda n: max(STATES + 50_000 * n, 30 * GB + 200_000 * n),
    "flat, then straight": lambda n: max(45 * GB, STATES + 10_000 * n),
    "with a square": lambda n: STATES + 50_000 * n + n * n // 30,
    "steps": lambda n: STATES + 100_000 * (n // 3000 * 3000),
}


@pytest.mark.parametrize("name", PEAKS)
@pytest.mark.parametrize("first", (1024, 131_072, 10**7))
def test_the_answer_was_asked_for_and_little_is_left(name, first):
    peak, asked = PEAKS[name], []

    def ask(n: int) -> int:
        asked.append(n)
        return peak(n)

    found = longest(ask, ROOM, {0: STATES}, first=first)
    assert found in asked and found % 1024 == 0
    assert peak(found) <= ROOM < peak(int(found * 1.01) + 2048)
    assert len(asked) <= 12


def test_a_straight_line_takes_two_questions():
    asked = []
    assert longest(lambda n: asked.append(n) or STATES + 100_000 * n, ROOM, {0: STATES}) == 399_360
    assert asked == [131_072, 399_360]


def test_what_is_known_is_not_asked_again():
    peak = PEAKS["with a knee"]
    known = {n: peak(n) for n in (65_536, 131_072)} | {0: STATES}
    asked = []
    longest(lambda n: asked.append(n) or peak(n), ROOM, known)
    assert not set(asked) & set(known)


def test_states_that_do_not_fit_leave_no_length():
    assert longest(lambda n: pytest.fail("asked"), ROOM, {0: ROOM + 1}) == 0


def test_no_length_fits():
    assert longest(lambda n: STATES + GB * n, ROOM, {0: STATES}) == 0


def test_a_peak_that_does_not_grow_ends_at_the_top():
    assert longest(lambda n: STATES, ROOM, {0: STATES}, top=2**20) == 2**20


def test_the_answer_divides_by_the_step():
    assert longest(PEAKS["straight"], ROOM, {0: STATES}, step=3072) % 3072 == 0
