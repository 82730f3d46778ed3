"""What a rater sees in which order and on which side: a function of the study and the rater's id.

The page does the same (page/order.js), so what a rater was shown can be told from the id alone, and
answers whose sides do not follow from it are recognised as edited. Both count in 32 bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

_MASK = 0xFFFFFFFF

T = TypeVar("T")


class Shown(Protocol):
    """Two videos that are shown beside each other."""

    @property
    def id(self) -> str:
        """Name of the pair."""

    @property
    def files(self) -> tuple[str, ...]:
        """Two file names, in an order that says nothing."""


class Dealt(Shown, Protocol):
    """A pair of one of several comparisons, of which every rater gets as many."""

    @property
    def deck(self) -> int:
        """Number of the comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a rater sees at once."""

    pair: str
    """Name of the pair or check."""
    left: str
    """File of video A."""
    right: str
    """File of video B."""


def rater_seed(study: str, rater: str) -> int:
    """Return the seed of a rater: FNV-1a, 32 bits, over "STUDY:RATER" in UTF-8."""
    value = 0x811C9DC5
    for byte in f"{study}:{rater}".encode():
        value = ((value ^ byte) * 0x01000193) & _MASK
    return value


class Draw:
    """Random numbers: mulberry32, which takes four lines in any language.

    Args:
        seed: From 0 to 2**32 - 1.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def below(self, count: int) -> int:
        """Return a number from 0 to count - 1."""
        self._state = (self._state + 0x6D2B79F5) & _MASK
        mixed = _times(self._state ^ (self._state >> 15), self._state | 1)
        mixed ^= (mixed + _times(mixed ^ (mixed >> 7), mixed | 61)) & _MASK
        return ((mixed ^ (mixed >> 14)) * count) >> 32

    def shuffled(self, things: Sequence[T]) -> list[T]:
        """Return the things in random order (Fisher and Yates, from the end)."""
        order = list(things)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


def _times(left: int, right: int) -> int:
    return (left * right) & _MASK


def session(
    study: str, rater: str, pairs: Sequence[Dealt], checks: Sequence[Shown], most: int
) -> list[Trial]:
    """Return the trials of a rater, in order.

    The comparisons take turns, so that each is seen as often at any moment; checks are spread, one
    in each of as many equal stretches, and never first.

    Args:
        study: Id of the study.
        rater: Id of the rater.
        pairs: Every pair of the study, in the study's order.
        checks: Every attention check, in the study's order.
        most: Pairs a rater gets at most, checks not counted.
    """
    draw = Draw(rater_seed(study, rater))
    shown: list[Shown] = [*_deal(pairs, draw)[:most]]
    extra, dealt = draw.shuffled(checks), len(shown)
    for number in reversed(range(len(extra))):
        begin = number * dealt // len(extra)
        end = (number + 1) * dealt // len(extra)
        shown.insert(begin + 1 + draw.below(max(1, end - begin)), extra[number])
    return [_sides(pair, draw) for pair in shown]


def _deal(pairs: Sequence[Dealt], draw: Draw) -> list[Dealt]:
    """Return all pairs, one of each comparison a round."""
    numbers = sorted({pair.deck for pair in pairs})
    decks = {one: draw.shuffled([pair for pair in pairs if pair.deck == one]) for one in numbers}
    dealt: list[Dealt] = []
    while left := [number for number in numbers if decks[number]]:
        dealt += [decks[number].pop(0) for number in draw.shuffled(left)]
    return dealt


def _sides(pair: Shown, draw: Draw) -> Trial:
    left, right = pair.files if draw.below(2) == 0 else pair.files[::-1]
    return Trial(pair=pair.id, left=left, right=right)
