"""Intervals and tests against published values, other formulas and sums over all cases."""

import itertools
import math

import pytest

from dcgrid.eval.study.order import Draw
from dcgrid.eval.study.preferences import binomial_test, holm, rater_interval, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        # Newcombe, Statist. Med. 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(hits, count, low, high):
    assert wilson(hits, count) == pytest.approx((low, high), abs=5e-5)
    # The other side of the coin.
    assert wilson(count - hits, count) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_ends_of_wilson_are_where_a_score_test_gives_five_percent():
    for count in (1, 7, 40, 1000):
        for hits in range(0, count + 1, max(1, count // 7)):
            for end in wilson(hits, count):
                if 0 < end < 1:
                    score = (hits / count - end) / math.sqrt(end * (1 - end) / count)
                    assert math.erfc(abs(score) / math.sqrt(2)) == pytest.approx(0.05, abs=1e-9)


def test_the_binomial_test_is_the_share_of_coin_series_that_are_as_odd():
    for count in range(1, 11):
        series = [sum(coins) for coins in itertools.product((0, 1), repeat=count)]
        for hits in range(count + 1):
            odd = sum(abs(2 * one - count) >= abs(2 * hits - count) for one in series)
            assert binomial_test(hits, count) == pytest.approx(odd / len(series), rel=1e-12)


def test_the_binomial_test_of_many_answers_neither_overflows_nor_vanishes():
    assert binomial_test(10_000, 20_000) == 1.0
    assert binomial_test(0, 900) == pytest.approx(2.0**-899, rel=1e-12)
    assert binomial_test(530, 1000) == pytest.approx(0.0619, abs=2e-4)


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (2, 1), (-1, 3)])
def test_impossible_counts_are_refused(hits, count):
    with pytest.raises(ValueError, match="n"):
        wilson(hits, count)
    with pytest.raises(ValueError, match="n"):
        binomial_test(hits, count)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_the_step_down_rule_rejects():
    draw = Draw(3)
    for _ in range(200):
        values = [(draw.below(1000) + 1) / 4000 for _ in range(6)]
        rejected = set()
        for rank, index in enumerate(sorted(range(6), key=values.__getitem__)):
            if values[index] > 0.05 / (6 - rank):
                break
            rejected.add(index)
        assert {index for index, p in enumerate(holm(values)) if p <= 0.05} == rejected


def test_the_interval_over_raters_is_near_that_of_all_draws():
    hits, counts = (9, 4, 7), (10, 10, 10)
    draws = itertools.product(range(3), repeat=3)
    shares = sorted(sum(hits[one] for one in draw) / 30 for draw in draws)
    low, high = rater_interval(hits, counts)
    # 27 draws: each end of the 95 % is the outermost of them, met in 1 of 27.
    assert (low, high) == pytest.approx((shares[0], shares[-1]), abs=1e-9)


def test_raters_who_agree_with_themselves_alone_widen_the_interval():
    of_one_mind = rater_interval([10] * 6 + [0] * 6, [10] * 12)
    mixed = rater_interval([5] * 12, [10] * 12)
    assert mixed == (0.5, 0.5)
    assert of_one_mind[1] - of_one_mind[0] > 0.45
    low, high = wilson(60, 120)
    assert of_one_mind[1] - of_one_mind[0] > 2 * (high - low)


def test_the_interval_over_raters_is_near_the_normal_one_where_there_are_many():
    draw = Draw(5)
    hits = [sum(draw.below(10) < 7 for _ in range(8)) for _ in range(200)]
    share = sum(hits) / 1600
    spread = math.sqrt(sum((hit / 8 - share) ** 2 for hit in hits) / 200 / 200)
    expected = (share - 1.96 * spread, share + 1.96 * spread)
    assert rater_interval(hits, [8] * 200) == pytest.approx(expected, abs=0.005)


def test_fewer_than_two_raters_have_no_interval():
    assert rater_interval([3], [4]) is None
    assert rater_interval([3, 0], [4, 0]) is None
    assert rater_interval([3, 1], [4, 2], seed=1) == rater_interval([3, 1], [4, 2], seed=1)
