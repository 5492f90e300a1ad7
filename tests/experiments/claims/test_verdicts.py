"""The rules: what an interval says, what verdicts come to together, and that none of them can be had both ways."""

from __future__ import annotations

from itertools import product

import pytest

from kdiga.experiments.claims.evidence import at_least, both, counted, opposite, overall

YES, NO, OPEN = WORDS = ("supported", "contradicted", "undecided")
COUNTS = list(product(range(6), repeat=3))


def cases(supported, contradicted, undecided):
    return [YES] * supported + [NO] * contradicted + [OPEN] * undecided


@pytest.mark.parametrize(
    ("low", "high", "bar", "expected"),
    [
        (0.1, 0.2, 0.0, YES),
        (0.0, 0.2, 0.0, YES),  # the whole interval is at or above the bar
        (-0.1, 0.2, 0.0, OPEN),
        (-0.2, 0.0, 0.0, OPEN),  # its upper end reaches it
        (-0.2, -0.001, 0.0, NO),
        (0.9, 1.0, 0.9, YES),
        (0.85, 1.0, 0.9, OPEN),
        (0.1, 0.89, 0.9, NO),
        (-0.005, 0.02, -0.01, YES),
        (0.0, 0.0, 0.0, YES),
    ],
)
def test_an_interval_and_a_bar(low, high, bar, expected):
    assert at_least(low, high, bar=bar) == expected


def test_an_interval_says_one_thing():
    ends = [place / 10 for place in range(-5, 6)]
    for low, high, bar in product(ends, repeat=3):
        if low > high:
            continue
        found = at_least(low, high, bar=bar)
        assert (found == YES) == (low >= bar)
        assert (found == NO) == (high < bar)
        # What is at least a bar is at least a lower one.
        if found == YES:
            assert at_least(low, high, bar=bar - 0.1) == YES
        if found == NO:
            assert at_least(low, high, bar=bar + 0.1) == NO


@pytest.mark.parametrize(("word", "turned"), [(YES, NO), (NO, YES), (OPEN, OPEN)])
def test_the_contrary(word, turned):
    assert opposite(word) == turned


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (YES, YES, YES),
        (YES, OPEN, OPEN),
        (OPEN, OPEN, OPEN),
        (YES, NO, NO),
        (OPEN, NO, NO),
        (NO, NO, NO),
    ],
)
def test_two_things_that_have_to_hold_together(one, other, together):
    assert both(one, other) == both(other, one) == together


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 0, 0), OPEN),
        ((0, 0, 3), OPEN),
        ((1, 0, 0), YES),
        ((1, 0, 1), YES),  # half is enough
        ((1, 0, 2), OPEN),
        ((5, 1, 0), OPEN),  # one against
        ((1, 1, 0), OPEN),
        ((2, 2, 0), OPEN),  # half, but no more than support it
        ((1, 2, 1), NO),
        ((0, 1, 1), NO),
        ((0, 1, 2), OPEN),
        ((2, 3, 1), NO),
    ],
)
def test_a_claim(counts, expected):
    assert overall(cases(*counts)) == expected


@pytest.mark.parametrize("counts", COUNTS)
def test_a_claim_by_its_counts(counts):
    supported, contradicted, undecided = counts
    given = cases(*counts)
    found = overall(given)
    assert counted(given) == dict(zip(WORDS, counts, strict=True))
    assert found == overall(given[::-1]), "order does not matter"
    if found == YES:
        assert supported >= undecided
        assert not contradicted
        assert supported
    if found == NO:
        assert contradicted > supported
        assert 2 * contradicted >= sum(counts)
    # One case more in favour never turns a verdict against, and the other way round.
    order = [NO, OPEN, YES]
    assert order.index(overall([*given, YES])) >= order.index(found) or found == YES
    assert overall([*given, YES]) != NO or found == NO
    assert overall([*given, NO]) != YES
    # What was never measured supports and contradicts nothing.
    if not supported and not contradicted:
        assert found == OPEN
    # A claim and its contrary are not both so.
    contrary = overall([opposite(case) for case in given])
    assert {found, contrary} not in ({YES}, {NO})
