"""From the items of an evaluation to pairs with names that say nothing. No file is opened here."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from dcgrid.errors import StudyError, UsageError
from dcgrid.eval.results import ClipEntry, Item, Results
from dcgrid.eval.study.design import Check, Pair
from dcgrid.eval.study.order import Draw, rater_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """What a study will show, and the files it will be made from."""

    pairs: tuple[Pair, ...]
    """Sorted by id."""
    checks: tuple[Check, ...]
    """Sorted by id."""
    sources: dict[str, str]
    """Video in the results, relative to their folder, by the blinded name of its copy."""
    damaged: dict[str, str]
    """The same for copies that are to be damaged."""
    left_out: int
    """Pairs that could not be made because one of the two videos is not there."""


def methods_against(results: Results, ours: str, against: Sequence[str]) -> tuple[str, ...]:
    """Return the methods to compare with, all others where none is named.

    Raises:
        UsageError: An unknown method, one named twice, or one compared with itself.
    """
    known = [method.key for method in results.methods]
    hint = f"the results have: {', '.join(known)}"
    for name in (ours, *against):
        if name not in known:
            raise UsageError(f"no method is called {name!r}", hint=hint)
    bounds = {method.key for method in results.methods if method.is_reference}
    others = (name for name in known if name != ours and name not in bounds)
    chosen = tuple(against) or tuple(others)
    if ours in chosen or len(set(chosen)) != len(chosen):
        raise UsageError(f"--against {', '.join(chosen)}: each other method once", hint=hint)
    if not chosen:
        raise UsageError(
            f"the results hold no method but {ours!r}",
            hint="evaluate two or more, or name a reference such as unedited with --against",
        )
    return chosen


class Blind:
    """Names that say nothing to those who do not have the results.

    Args:
        salt: What the names depend on beside what they stand for; not in the page.
    """

    def __init__(self, salt: str) -> None:
        self._salt = salt

    def name(self, *parts: object) -> str:
        """Return 16 hexadecimal digits for what the parts say."""
        text = "\0".join((self._salt, *map(str, parts)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def draw(self, purpose: str) -> Draw:
        """Return random numbers for a purpose."""
        return Draw(rater_seed(self._salt, purpose))


def make_pairs(
    results: Results, ours: str, against: Sequence[str], checks: int, blind: Blind
) -> Pairing:
    """Pair the videos of a method with those of others: same clip, same task, same seed.

    Each pair has file names of its own: a file that recurred would be the method in question.

    Args:
        results: The evaluation.
        ours: Key of the method in question.
        against: Keys of the others.
        checks: Attention checks to make.
        blind: Gives the names.

    Raises:
        StudyError: A method has no pair at all, or the results contradict themselves.
    """
    pairs, sources, left_out = _all_pairs(results, ours, against, blind)
    for method in against:
        if not any(pair.against == method for pair in pairs):
            raise StudyError(
                f"there is no clip of which both {ours!r} and {method!r} have a video",
                hint="leave it out with --against, or look at the failures in results.json",
            )
    made, damaged = _all_checks(results, pairs, checks, blind, sources)
    return Pairing(
        pairs=tuple(sorted(pairs, key=lambda pair: pair.id)),
        checks=tuple(sorted(made, key=lambda check: check.id)),
        sources=sources,
        damaged=damaged,
        left_out=left_out,
    )


def _all_pairs(
    results: Results, ours: str, against: Sequence[str], blind: Blind
) -> tuple[list[Pair], dict[str, str], int]:
    """Return the pairs, the video behind each file name, and how many could not be made."""
    decks = blind.draw("decks").shuffled(range(len(against)))
    clips = {clip.key: clip for clip in results.clips}
    prompts = {task.key: task.prompt for task in results.tasks}
    items = {(one.clip, one.task, one.seed, one.method): one for one in results.items}
    pairs: list[Pair] = []
    sources: dict[str, str] = {}
    left_out = 0
    for item in (one for one in results.items if one.method == ours):
        if item.clip not in clips or item.task not in prompts:
            raise StudyError(f"item {item.key!r} is of an unknown clip or task")
        originals = _originals(clips[item.clip], blind, sources)
        for deck, method in zip(decks, against, strict=True):
            other = items.get((item.clip, item.task, item.seed, method))
            if other is None or item.status != "done" or other.status != "done":
                left_out += 1
                continue
            pair = _pair(item, other, deck, prompts[item.task], originals, blind)
            theirs = next(file for file in pair.files if file != pair.ours)
            sources |= {pair.ours: item.video, theirs: other.video}
            pairs.append(pair)
    return pairs, sources, left_out


def _pair(
    item: Item, other: Item, deck: int, prompt: str, originals: tuple[str, ...], blind: Blind
) -> Pair:
    place = (item.clip, item.task, item.seed, other.method)
    ours, theirs = (f"{blind.name('edit', *place, one.method)}.mp4" for one in (item, other))
    return Pair(
        id=blind.name("pair", *place),
        deck=deck,
        prompt=prompt,
        originals=originals,
        files=tuple(sorted((ours, theirs))),
        ours=ours,
        against=other.method,
        clip=item.clip,
        task=item.task,
        seed=item.seed,
    )


def _originals(clip: ClipEntry, blind: Blind, sources: dict[str, str]) -> tuple[str, ...]:
    """Return the file names of what was edited, and note what they are copies of."""
    names = []
    for video in filter(None, (clip.video, clip.second)):
        name = f"{blind.name('original', video)}.mp4"
        sources[name] = video
        names.append(name)
    return tuple(names)


def _all_checks(
    results: Results, pairs: Sequence[Pair], count: int, blind: Blind, sources: dict[str, str]
) -> tuple[list[Check], dict[str, str]]:
    """Return attention checks over the clips in turn, and the copies that are to be damaged."""
    draw = blind.draw("checks")
    shown = {pair.clip for pair in pairs}
    clips = draw.shuffled([clip for clip in results.clips if clip.key in shown])
    checks, damaged = [], {}
    for number in range(count):
        clip = clips[number % len(clips)]
        good, bad = (f"{blind.name(kind, number)}.mp4" for kind in ("good", "bad"))
        sources[good], damaged[bad] = clip.video, clip.video
        prompts = [pair.prompt for pair in pairs if pair.clip == clip.key]
        checks.append(
            Check(
                id=blind.name("check", number),
                prompt=prompts[draw.below(len(prompts))],
                originals=_originals(clip, blind, sources)[:1],
                files=tuple(sorted((good, bad))),
                good=good,
                clip=clip.key,
            )
        )
    return checks, damaged
