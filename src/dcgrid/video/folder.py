"""Which files of a folder are videos: those that `edit` would read, whatever their names end in."""

import mimetypes
from collections.abc import Collection
from pathlib import Path

from dcgrid.errors import InputVideoError


def is_video(path: Path) -> bool:
    """Return True if a file holds a video; stills and files that hold sound alone do not.

    A file that cannot be opened is one if its name says so: reading it tells what is wrong.
    """
    # Libraries are loaded when files are: the command line imports this module.
    from dcgrid.video.source import open_container, video_stream

    try:
        with open_container(path) as container:
            video_stream(container, path)
            # Demuxers of single pictures: "image2", "png_pipe", "jpeg_pipe" ...
            return container.format.name != "image2" and not container.format.name.endswith("_pipe")
    except InputVideoError:
        kind = mimetypes.guess_type(path.name)[0] or ""
        return kind.startswith("video/") and not path.is_dir()


def split_folder(folder: Path, used: Collection[str] = ()) -> tuple[list[Path], list[str]]:
    """Look through a folder, each in the order of names; hidden files are not looked at.

    Args:
        folder: Where to look.
        used: Names of files and folders in it that have another use.

    Returns:
        The videos, and the names of what else is there: files, and folders with a slash behind,
        without texts (.txt) beside a video of the same name.
    """
    videos, others = [], []
    for path in sorted(folder.iterdir()):
        if path.name in used or path.name.startswith("."):
            continue
        if is_video(path):
            videos.append(path)
        else:
            others.append(path)
    stems = {path.stem for path in videos}
    names = [
        f"{path.name}{'/' if path.is_dir() else ''}"
        for path in others
        if not (path.suffix == ".txt" and path.stem in stems)
    ]
    return videos, names


def name_some(names: Collection[str], most: int = 8) -> str:
    """Return names as one line, the first so many of them and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more
