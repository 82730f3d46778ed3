"""The clips of an evaluation: which files, what they show, masks of their subjects. No torch.

Beside the clips, or named with --masks, may stand a folder masks/ with a video or picture for some
of them, white where the subject is. captions.toml, there or named with --captions, says what they
show:

    ["asl_book.mkv"]
    subject = "a woman in a yellow hoodie"
    motion = "signing"
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcgrid import hub
from dcgrid.errors import InputVideoError, UsageError
from dcgrid.io.schema import Text, read_toml
from dcgrid.pipelines.job import check_input
from dcgrid.video.folder import name_some, split_folder

CAPTIONS, MASKS = "captions.toml", "masks"
"""What is looked for beside clips."""
_NO_CLIPS = (CAPTIONS, MASKS)
DEFAULT_SUBJECT = "a person"
"""What prompts of scores say where nobody said who a clip shows; the paper's clips show people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a clip shows, in words."""

    subject: Annotated[str, Text(200, blank=True)] = ""
    """Who or what; empty: not said."""
    motion: Annotated[str, Text(200, blank=True)] = ""
    """What the subject does; empty: not said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalClip:
    """A clip that will be edited."""

    key: str
    """Name that is unique in the run."""
    path: Path
    """The file."""
    sha256: str
    """Hash of the file."""
    words: Words
    """What it shows."""
    mask: Path | None = None
    """Video or picture, white where the subject is; None: not known."""
    is_named: bool = True
    """False: it was found in a folder."""

    @property
    def subject(self) -> str:
        """Who or what it shows, for prompts of scores."""
        return self.words.subject or DEFAULT_SUBJECT


def find_clips(
    names: Sequence[Path],
    *,
    limit: int | None = None,
    captions: Path | None = None,
    masks: Path | None = None,
) -> tuple[EvalClip, ...]:
    """Find clips and what is said of them.

    Args:
        names: Video files, and folders whose video files are taken in the order of their names.
        limit: At most so many, from the front.
        captions: File of words; None: captions.toml beside each clip, where there is one.
        masks: Folder with a mask for some of the clips, of the same name but for the suffix; None:
            masks/ beside each clip.

    Raises:
        InputVideoError: There is no such file, none at all, or one cannot be read.
        RecipeError: The captions are wrong.
        UsageError: `limit` is below 1, or captions or masks are not there.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves no clip", hint="use --limit 1 or more")
    if masks is not None and not masks.is_dir():
        raise UsageError(f"--masks {masks} is no folder", hint="name the folder with the masks")
    paths = _paths(names)[:limit]
    known: dict[Path, Mapping[str, Words]] = {}
    clips: list[EvalClip] = []
    for path in paths:
        check_input(path)
        source = captions or path.parent / CAPTIONS
        if source not in known:
            known[source] = _read_captions(source) if captions or source.is_file() else {}
        clips.append(
            EvalClip(
                key=_unique(path.stem, {clip.key for clip in clips}),
                path=path.resolve(),
                sha256=hub.file_sha256(path),
                words=known[source].get(path.name, Words()),
                mask=_mask(path, masks or path.parent / MASKS),
                is_named=path in names,
            )
        )
    return tuple(clips)


def _paths(names: Sequence[Path]) -> list[Path]:
    paths: list[Path] = []
    for name in names:
        if not name.is_dir():
            paths.append(name)
            continue
        found, others = split_folder(name, _NO_CLIPS)
        if not found:
            there = f", only {name_some(others)}" if others else ""
            raise InputVideoError(
                f"no video in the folder {name}{there}",
                hint="name video files, or another folder",
            )
        paths += found
    if not paths:
        raise InputVideoError(
            "no clip is named", hint="name video files or a folder: dcgrid eval CLIPS --suite paper"
        )
    # A file that is named twice, perhaps once through its folder, is one clip.
    return list({path.resolve(): path for path in paths}.values())


def unused_files(names: Sequence[Path]) -> tuple[str, ...]:
    """Return what folders of clips hold that is no video, each with a few words on it."""
    return tuple(
        f"{folder / other}: no video"
        for folder in dict.fromkeys(name for name in names if name.is_dir())
        for other in split_folder(folder, _NO_CLIPS)[1]
    )


def _unique(stem: str, taken: set[str]) -> str:
    """Return a name that goes into file names: two folders may have a clip of one name."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in stem).strip(".") or "clip"
    turn, name = 1, safe
    while name in taken:
        turn += 1
        name = f"{safe}-{turn}"
    return name


def _mask(path: Path, masks: Path) -> Path | None:
    if not masks.is_dir():
        return None
    found = sorted(one for one in masks.iterdir() if one.stem == path.stem)
    return found[0] if found else None


def _read_captions(path: Path) -> Mapping[str, Words]:
    if not path.is_file():
        raise UsageError(f"--captions {path} does not exist", hint="see docs/evaluation.md")
    return read_toml(path, hint="see docs/evaluation.md").build(dict[str, Words])
