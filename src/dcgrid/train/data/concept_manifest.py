"""Read which clips to train on, and check all of it before anything starts.

A manifest is a TOML file with a table a concept; paths are relative to it:

    [[concepts]]
    clip = "cat.mp4"
    subject = "a cat"                  what is in it
    motion = "leisurely stroll"        what it does
    scene = "on a blue playground"     where, optional
    identity = "Cat_identity"          unique tokens, optional: made from the file name
    motion_token = "motion_stroll"
    role = "subject"                   or "effect": fire, sparks, water (composition)
    start = 0.0                        seconds, optional
    duration = 2.75

A folder is read by its `manifest.toml`; without one every video in it is a concept, and a text file
beside each (`cat.txt`) holds lines such as `subject: a cat`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from dcgrid.errors import DcgridError, InputVideoError, RecipeError, WeightsError
from dcgrid.io.schema import Document, Rule, Text, read_toml, show
from dcgrid.io.text import read_text
from dcgrid.models.weights import read_weights
from dcgrid.prompts.parser import nearest
from dcgrid.video.clip import ClipRules
from dcgrid.video.folder import name_some, split_folder
from dcgrid.video.probe import probe
from dcgrid.video.read import plan_clip

Role = Literal["subject", "effect"]
"""subject: a concept with an identity. effect: something that surrounds or meets a subject."""
MANIFEST_NAME = "manifest.toml"
MOST_TOLD = 20
"""Problems that one error lists; the rest are counted."""
_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def _check_token(token: str) -> str:
    rule = "must be letters, digits and _, a letter first, at most 64"
    return "" if _TOKEN.fullmatch(token) else f"{rule}, not {show(token)}"


_Token = Annotated[str, Rule(_check_token)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """A dynamic concept: a clip and the words for it.

    Paper: sec. 3.1
    """

    clip: Annotated[Path, Rule(lambda path: "" if path.name else "must not be blank")]
    """The video."""
    subject: Annotated[str, Text(500)]
    """What is in it, such as "a cat"."""
    motion: Annotated[str, Text(500)]
    """What it does, such as "leisurely stroll"."""
    scene: Annotated[str, Text(500, blank=True)] = ""
    """Where, such as "on a blue playground surface"; may be empty."""
    identity: _Token
    """Unique token of the look, without brackets."""
    motion_token: _Token
    """Unique token of the motion, without brackets."""
    role: Role = "subject"
    """Part that it plays in a composition."""
    start: Annotated[float, Ge(0), Lt(1e9)] = 0.0
    """Seconds after the first frame."""
    duration: Annotated[float, Gt(0), Lt(1e9)] | None = None
    """Seconds to use; None: the model's default."""

    @property
    def static_prompt(self) -> str:
        """Subject and look alone, for the frames as a set of pictures."""
        return _joined(self.subject, f"[{self.identity}]", self.scene)

    @property
    def dynamic_prompt(self) -> str:
        """The whole, for the clip as a sequence."""
        return _joined(
            self.subject, f"[{self.identity}]", "performing", self.motion,
            f"[{self.motion_token}]", self.scene,
        )  # fmt: skip

    def plain_prompt(self, *, moving: bool) -> str:
        """Return the dynamic or the static prompt without its tokens, as the bare base knows it."""
        does = ("performing", self.motion) if moving else ()
        return _joined(self.subject, *does, self.scene)


def read_concepts(path: Path, rules: ClipRules) -> list[Concept]:
    """Read a manifest or a folder and check every clip and text.

    Args:
        path: TOML file or folder.
        rules: What the model needs of a clip.

    Raises:
        RecipeError: With every problem found, one a line.
    """
    problems: list[str] = []
    concepts: list[Concept] = []
    for place, folder, table in _tables(path):
        found, concept = _concept(place, folder, table)
        problems += found
        if concept is not None:
            problems += _clip_problems(place, concept, rules)
            concepts.append(concept)
    problems += _shared_tokens(concepts)
    if problems:
        raise _all_of_them(path, problems)
    if not concepts:
        others = unused_files(path)
        there = f": {name_some(others)} is no video" if others else ""
        raise RecipeError(f"{path} names no clips{there}", hint="see docs/training.md for the form")
    return concepts


def unused_files(path: Path) -> list[str]:
    """Return what a folder of concepts holds that `read_concepts` does not use, by name.

    Args:
        path: As for `read_concepts`, which has found nothing wrong.
    """
    if not path.is_dir():
        return []
    if not (path / MANIFEST_NAME).exists():
        return split_folder(path)[1]
    named = {Path(str(table.get("clip", ""))).name for _, _, table in _tables(path)}
    return [clip.name for clip in split_folder(path)[0] if clip.name not in named]


def _tables(path: Path) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Yield each concept's place for errors, the folder that its paths start from, and its keys."""
    if path.is_dir() and not (path / MANIFEST_NAME).exists():
        for clip in split_folder(path)[0]:
            yield clip.name, path, {"clip": clip.name, **_sidecar(clip.with_suffix(".txt"))}
        return
    manifest = path / MANIFEST_NAME if path.is_dir() else path
    tables = read_toml(manifest, hint="see docs/training.md for the form").values
    concepts = tables.get("concepts")
    extra = sorted(set(tables) - {"concepts"})
    if extra or not isinstance(concepts, list):
        odd = f"has {extra[0]!r} at its top" if extra else "has no [[concepts]]"
        raise RecipeError(f"{manifest} {odd}", hint="a manifest is a list of [[concepts]] tables")
    for number, table in enumerate(concepts, start=1):
        yield f"concept {number}", manifest.parent, table


def _sidecar(path: Path) -> dict[str, Any]:
    """Read `key: value` lines; numbers become numbers. No file: no keys."""
    values: dict[str, Any] = {}
    for line in read_text(path, RecipeError).splitlines() if path.exists() else []:
        key, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon:
            raise RecipeError(f"{path}: {line[:60]!r} is not of the form `key: value`")
        text = value.strip()
        values[key.strip()] = _number(text) if key.strip() in ("start", "duration") else text
    return values


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _concept(place: str, folder: Path, table: object) -> tuple[list[str], Concept | None]:
    """Return the problems of one table, and the concept if there are none."""
    if not isinstance(table, Mapping):
        return [f"{place} is not a table"], None
    stem = (
        re.sub(r"\W+", "_", Path(str(table.get("clip"))).stem, flags=re.ASCII).strip("_") or "clip"
    )
    stem = stem if stem[0].isalpha() else f"clip_{stem}"
    # A token as long as a file name may be would not fit its own rule.
    made = {"identity": f"{stem[:40]}_identity", "motion_token": f"motion_{stem[:40]}"}
    try:
        concept = Document(file=place, values={**made, **table}).build(Concept)
    except RecipeError as error:
        return error.message.split("\n"), None
    return [], replace(concept, clip=folder / concept.clip)


def _clip_problems(place: str, concept: Concept, rules: ClipRules) -> list[str]:
    """Look at the clip without decoding it: there, a video, and long enough."""
    try:
        info = probe(concept.clip)
        plan = plan_clip(info, rules, concept.start, concept.duration)
    except InputVideoError as error:
        return [f"{place}: {error.message}"]
    except DcgridError as error:
        return [f"{place}: {concept.clip}: {error.message}"]
    if round(plan.duration_s * rules.fps) < rules.least_frames:
        seconds = rules.least_frames / rules.fps
        return [f"{place}: {concept.clip} is too short: {seconds:.2f} s are needed at least"]
    return []


def _shared_tokens(concepts: list[Concept]) -> list[str]:
    """Name tokens that stand for two things: one identity may have many motions, but one text."""
    problems = []
    uses: dict[str, set[tuple[str, str]]] = {}
    for concept in concepts:
        uses.setdefault(concept.identity, set()).add(("identity", concept.subject))
        uses.setdefault(concept.motion_token, set()).add(("motion", concept.motion))
    for token, meanings in uses.items():
        if len(meanings) > 1:
            meant = " and ".join(f"the {kind} {text!r}" for kind, text in sorted(meanings)[:2])
            problems.append(f"token {token} stands for {meant}")
    clips = Counter((concept.clip, concept.start) for concept in concepts)
    problems += [f"{clip} is named {n} times" for (clip, _), n in clips.items() if n > 1]
    return problems


def _all_of_them(path: Path, problems: list[str]) -> RecipeError:
    shown = problems[:MOST_TOLD]
    more = [f"and {len(problems) - MOST_TOLD} more"] if len(problems) > MOST_TOLD else []
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    listed = "".join(f"\n  {line}" for line in [*shown, *more])
    return RecipeError(f"{path}: {count}{listed}", hint="nothing was started; mend all of it first")


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


RECORD = "concepts"
"""Name of the record among the facts."""
_WORDS = ("subject", "motion", "scene", "identity", "motion_token", "role")


def write_record(concepts: Iterable[Concept]) -> str:
    """Return the words of concepts as JSON; of a clip its name without its folder."""
    return json.dumps(
        [{"clip": c.clip.name, **{word: getattr(c, word) for word in _WORDS}} for c in concepts]
    )


def read_record(path: Path, hint: str) -> list[Concept]:
    """Read the concepts of a file of tokens.

    Args:
        path: The file.
        hint: The command that writes it.

    Raises:
        WeightsError: The file is missing or damaged, or says no words of its concepts.
    """
    _, facts = read_weights(path)
    try:
        listed = json.loads(facts[RECORD])
        concepts = [_recorded(one) for one in listed]
    except (KeyError, TypeError, ValueError, AttributeError):
        concepts = []
    if not concepts:
        raise WeightsError(f"{path} says no words of its concepts, only their tags", hint=hint)
    return concepts


def _recorded(words: dict[str, str]) -> Concept:
    values = {word: words[word] for word in _WORDS}
    needed = [word for word in _WORDS if word != "scene"]
    if not all(isinstance(value, str) for value in values.values()) or not all(
        values[word].strip() for word in needed
    ):
        raise ValueError("a concept without words")
    return Concept(clip=Path(str(words["clip"])), **values)  # type: ignore[arg-type]


def chosen_concepts(concepts: list[Concept], names: Iterable[str]) -> list[Concept]:
    """Return the concepts with these tags of identity, or all for no names.

    Raises:
        RecipeError: Multi-DC knows no concept of a name.
    """
    known, chosen = {concept.identity for concept in concepts}, list(names)
    for name in chosen:
        if name not in known:
            raise RecipeError(
                f"concepts: Multi-DC does not know {name[:80]!r}{nearest(name, known)}",
                hint=f"it knows {', '.join(sorted(known))}",
            )
    return [concept for concept in concepts if not chosen or concept.identity in chosen]
