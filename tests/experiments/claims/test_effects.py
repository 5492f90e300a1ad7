"""How much two models differ: against loops, at the edges, and how often the interval covers the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kdiga.experiments.claims.evidence import effect


def random_outcomes(seed, seeds=3, images=40, share_right=0.6):
    return (np.random.default_rng(seed).random((seeds, images)) < share_right).tolist()


def by_loops(ours, theirs, share, confidence=0.95):
    """The formula as its docstring has it, image by image: half an image in each cell of right and wrong."""
    seeds, images = len(ours), len(ours[0])
    table = [
        [float(ours[s][i]) - share * float(theirs[s if len(theirs) > 1 else 0][i]) for i in range(images)]
        for s in range(seeds)
    ]
    weighed = [(sum(table[s][i] for s in range(seeds)) / seeds, 1.0) for i in range(images)]
    mean = sum(value for value, _ in weighed) / images
    weighed += [(own - share * other, 0.5) for own in (0.0, 1.0) for other in (0.0, 1.0)]
    count = images + 2
    middle = sum(value * weight for value, weight in weighed) / count
    of_images = sum(weight * (value - middle) ** 2 for value, weight in weighed) / (count - 1) / count
    of_seeds = 0.0
    if seeds > 1:
        means = [sum(row) / images for row in table]
        centre = sum(means) / seeds
        of_seeds = sum((value - centre) ** 2 for value in means) / (seeds - 1) / seeds
    below = of_images**2 / (images - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    reach = stats.t(df=(of_images + of_seeds) ** 2 / below).ppf(0.5 + confidence / 2) * math.sqrt(of_images + of_seeds)
    return mean, middle - reach, middle + reach


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5])
@pytest.mark.parametrize(("seeds", "others"), [(1, 1), (2, 1), (3, 3), (5, 1)])
def test_the_formula(share, seeds, others):
    for draw in range(5):
        ours, theirs = random_outcomes(draw, seeds), random_outcomes(100 + draw, others, share_right=0.4)
        found = effect(ours, theirs, share)
        assert found.to_list() == pytest.approx(by_loops(ours, theirs, share))
        assert (found.images, found.seeds) == (40, seeds)
        assert found.low < found.mean < found.high
        narrow = effect(ours, theirs, share, confidence=0.5)
        assert [narrow.mean, narrow.low, narrow.high] == pytest.approx(by_loops(ours, theirs, share, 0.5))


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("seeds", [1, 3])
def test_outcomes_that_never_differ_are_not_certain(right, seeds):
    for images in (1, 2, 20, 500):
        found = effect([[right] * images] * seeds, [[right] * images])
        assert found.mean == 0.0
        assert found.low < -0.3 / images
        assert found.high > 0.3 / images
    assert effect([[right] * 500], [[right] * 500]).high < effect([[right] * 20], [[right] * 20]).high


def test_one_seed_is_paired_over_images():
    ours = random_outcomes(1, 1, 200)
    theirs = [[not right if place % 20 == 0 else right for place, right in enumerate(ours[0])]]
    alike, crossed = effect(ours, theirs), effect(ours, [theirs[0][::-1]])
    assert alike.high - alike.low < 0.5 * (crossed.high - crossed.low), "the same images are hard for both"


def test_seeds_that_disagree_widen_it():
    steady = [[place < 30 for place in range(60)]] * 2
    torn = [[place < 45 for place in range(60)], [place < 15 for place in range(60)]]
    theirs = [[False] * 60]
    one, other = effect(steady, theirs), effect(torn, theirs)
    assert one.mean == other.mean == 0.5
    assert other.high - other.low > 5 * (one.high - one.low), "two seeds half the images apart say next to nothing"
    assert effect([[True] * 60] * 4, theirs).seeds == 4


def test_swapped_it_is_mirrored():
    for draw in range(10):
        ours, theirs = random_outcomes(draw), random_outcomes(50 + draw)
        one, other = effect(ours, theirs), effect(theirs, ours)
        assert [one.mean, one.low, one.high] == pytest.approx([-other.mean, -other.high, -other.low])


def test_a_larger_share_takes_its_part_of_theirs():
    ours, theirs = random_outcomes(3), random_outcomes(4, 1)
    accuracy = float(np.mean(theirs))
    for small, large in ((0.5, 0.9), (0.9, 1.0)):
        lowered = effect(ours, theirs, small).mean - effect(ours, theirs, large).mean
        assert lowered == pytest.approx((large - small) * accuracy)


TRUTHS = [
    # right under both, under ours alone, under theirs alone
    (0.4, 0.0, 0.0),
    (0.3, 0.05, 0.05),
    (0.2, 0.3, 0.1),
    (0.05, 0.6, 0.05),
    (0.6, 0.02, 0.25),
]
PAIRS = 1500
OFFSET = 0.03  # of a student from its method's mean, standard deviation


def coverage(shares, images, seeds):
    """Return how often the interval of pairs with a known difference covers it.

    With several seeds each student is off by an offset of its own: so large a share of its images turn right, or wrong.
    """
    both, ours_alone, theirs_alone = shares
    generator = np.random.default_rng([int(1000 * part) for part in shares] + [images, seeds])
    truth, covered = ours_alone - theirs_alone, 0
    if seeds > 1:  # half of the offsets turn images right, half turn them wrong
        turned = OFFSET * math.sqrt(2 / math.pi)
        truth = (both + ours_alone) * (1 - turned) + turned / 2 - both - theirs_alone
    for _ in range(PAIRS):
        kind = generator.random(images)
        theirs, ours = (kind < both) | (kind >= 1 - theirs_alone), kind < both + ours_alone
        offsets = generator.normal(0, OFFSET, seeds) if seeds > 1 else [0.0]
        rows = [np.where(generator.random(images) < abs(offset), offset > 0, ours) for offset in offsets]
        found = effect(rows, [theirs])
        covered += found.low <= truth <= found.high
    return covered / PAIRS


@pytest.mark.parametrize("shares", TRUTHS)
@pytest.mark.parametrize("images", [50, 200])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_covers_the_truth(shares, images, seeds):
    assert coverage(shares, images, seeds) >= 0.93


def test_where_four_images_differ_all_one_way_it_covers_less():
    """Its worst case: one seed, and differences too rare to be anything like normal."""
    assert 0.89 < coverage((0.3, 0.02, 0.0), 200, 1) < 0.93
