"""The order and the sides of a rater: fair, spread, and the same in the page."""

import json
import subprocess
from collections import Counter
from importlib import resources

from dcgrid.eval.study.design import Check, Pair
from dcgrid.eval.study.order import Draw, rater_seed, session
from tests.tools import needs


def pairs(decks: int, each: int) -> list[Pair]:
    common = {"prompt": "", "originals": (), "against": "", "clip": "", "task": "", "seed": 0}
    return [
        Pair(
            id=f"p{deck}-{n}", deck=deck, files=(f"{deck}-{n}a", f"{deck}-{n}b"), ours="", **common
        )
        for n in range(each)
        for deck in range(decks)
    ]


def checks(count: int) -> list[Check]:
    return [
        Check(id=f"c{n}", prompt="", originals=(), files=(f"c{n}a", f"c{n}b"), good="", clip="")
        for n in range(count)
    ]


def test_the_seed_is_fnv_1a():
    # Test vectors of the authors (isthe.com/chongo/tech/comp/fnv): "" with ":" in front here.
    assert rater_seed("foo", "bar") == rater_seed("foo", "bar") != rater_seed("foo", "baz")
    value = 0x811C9DC5
    for byte in b"a:b":
        value = (value ^ byte) * 16777619 % 2**32
    assert rater_seed("a", "b") == value


def test_draws_are_even():
    draw = Draw(7)
    counts = Counter(draw.below(6) for _ in range(60_000))
    assert sum((count - 10_000) ** 2 / 10_000 for count in counts.values()) < 20.5  # p > 0.001
    orders = Counter(tuple(draw.shuffled("abc")) for _ in range(6000))
    assert len(orders) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in orders.values()) < 20.5


def test_every_comparison_is_dealt_as_often_and_in_turn():
    for rater in ("ada", "bo", "cy"):
        trials = session("s", rater, pairs(4, 6), [], 12)
        decks = [trial.pair[1] for trial in trials]
        assert len({trial.pair for trial in trials}) == 12
        assert all(set(decks[start : start + 4]) == set("0123") for start in (0, 4, 8))


def test_checks_are_spread_and_never_first():
    places = set()
    for number in range(300):
        trials = session("s", f"r{number}", pairs(2, 6), checks(3), 12)
        found = [place for place, trial in enumerate(trials) if trial.pair.startswith("c")]
        assert len(found) == 3
        assert found[0] >= 1
        dealt = [place - before for before, place in enumerate(found)]
        assert all(4 * n < place <= 4 * n + 4 for n, place in enumerate(dealt))
        places.update(found)
    assert len(places) > 8


def test_sides_are_a_fair_coin():
    lefts = sum(
        trial.left.endswith("a")
        for number in range(500)
        for trial in session("s", f"r{number}", pairs(2, 5), [], 10)
    )
    assert abs(lefts - 2500) < 4 * 35.4


def test_a_rater_always_gets_the_same_and_others_get_others():
    first = session("s", "ada", pairs(3, 5), checks(2), 15)
    assert first == session("s", "ada", pairs(3, 5), checks(2), 15)
    assert first != session("s", "bob", pairs(3, 5), checks(2), 15)
    assert first != session("t", "ada", pairs(3, 5), checks(2), 15)


@needs("node")
def test_the_page_deals_the_same():
    script = resources.files("dcgrid.eval.study").joinpath("page", "order.js").read_text()
    deck = pairs(3, 7)
    study = {
        "id": "5tudy",
        "per_rater": 17,
        "pairs": [{"id": one.id, "deck": one.deck, "files": one.files} for one in deck],
        "checks": [{"id": one.id, "files": one.files} for one in checks(4)],
    }
    raters = [f"r-{number}" for number in range(50)]
    program = f"""{script}
    const study = {json.dumps(study)};
    const all = {json.dumps(raters)}.map((rater) => makeSession(study, rater).map(
      (one) => [one.pair.id, one.left, one.right]));
    console.log(JSON.stringify(all));"""
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    ours = [
        [[one.pair, one.left, one.right] for one in session("5tudy", rater, deck, checks(4), 17)]
        for rater in raters
    ]
    assert json.loads(done.stdout) == ours
