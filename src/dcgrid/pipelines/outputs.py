"""Where results go: names, checks before any work, and writing all of them together or none.

    input.mp4 + rain           input.rain.mp4   input.rain.png   input.rain.json
    input.mp4 + rain, night    input.rain.mp4 input.night.mp4   input.rain-night.{png,json}
    --keep all                 input.rain.mp4 (best)  input.rain.2.mp4  input.rain.3.mp4
    --save-grid                input.rain.grid.mp4
    --method sdedit            input.rain.sdedit.mp4  input.rain.sdedit.{png,json}
    a.mp4 b.mp4 (compose)      a.b.fusion.mp4  a.b.fusion-2.mp4  a.b.fusion.{png,json}
    a story                    name.1-rain.mp4  name.2-night.mp4  name.story.{mp4,png,json}
    names taken                input.rain-2.mp4  input.rain-2.{png,json}  a.b-2.fusion.mp4

No torch here. Whether results are there already: earlier.py.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dcgrid.errors import OutputError, UsageError
from dcgrid.io.atomic import refused
from dcgrid.io.locks import run_lock
from dcgrid.pipelines.job import GridJob

VIDEO_SUFFIX = ".mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPaths:
    """The files of one run."""

    videos: tuple[tuple[Path, ...], ...]
    """For each edit its videos, the best first."""
    manifest: Path
    """The run manifest (JSON)."""
    sheet: Path | None
    """The contact sheet (PNG)."""
    grid: Path | None
    """The whole grid as a video."""
    reel: Path | None = None
    """All videos one after another as one."""

    def all(self) -> tuple[Path, ...]:
        """Return every path."""
        videos = [path for group in self.videos for path in group]
        pictures = (path for path in (self.reel, self.sheet, self.grid) if path)
        return (*videos, *pictures, self.manifest)

    def existing(self) -> tuple[Path, ...]:
        """Return those that are there already."""
        return tuple(path for path in self.all() if path.exists())


def name_outputs(
    job: GridJob, names: Sequence[str], tries: Sequence[int], tag: str = "", number: int = 1
) -> OutputPaths:
    """Name the files of a run and check that they can be written.

    Args:
        job: Says where (`out`) and what (`keep`, `contact_sheet`, `save_grid`).
        names: Name of each edit.
        tries: How many cells show each edit.
        tag: Goes behind the edit's name, e.g. ".rerun"; not used where --out names a file.
        number: From 2 on it goes into all names, which are taken without it.

    Raises:
        OutputError: The folder cannot be made or is read-only, or a result would replace the
            input. Whether files exist already, `claimed` looks.
        UsageError: One file name is given for several results.
    """
    folder, file_name = _place(job, len(names))
    again = "" if number == 1 else f"-{number}"
    stem = f"{job.stem}{again}" if job.numbers_results else job.stem
    end = tag if job.numbers_results else f"{tag}{again}"
    whole = f"{file_name}{again}" if file_name else ""
    # Joined and not formatted: a file name may hold braces.
    stems = [whole or f"{stem}.{name}{end}" for name in names]
    counts = [count if job.keep == "all" else 1 for count in tries]
    videos = tuple(
        tuple(_numbered(folder / stem, index) for index in range(count))
        for stem, count in zip(stems, counts, strict=True)
    )
    joined = folder / (whole or f"{stem}.{job.joined(tuple(names))}{end}")
    paths = OutputPaths(
        videos=videos,
        manifest=_with_suffix(joined, ".json"),
        sheet=_with_suffix(joined, ".png") if job.contact_sheet else None,
        grid=_with_suffix(joined, f".grid{VIDEO_SUFFIX}") if job.save_grid else None,
        reel=_with_suffix(joined, VIDEO_SUFFIX) if job.has_reel else None,
    )
    _check_free(job, paths)
    _check_writable(folder)
    return paths


@contextmanager
def claimed(job: GridJob, paths: OutputPaths) -> Iterator[None]:
    """Hold the names of a run's files, so that no other run can take them meanwhile.

    Their folder is made where it is not there; it goes again if nothing is written.

    Raises:
        OutputError: Another run holds one, one has appeared since the plan (and `force` is not
            set), or the folder cannot be made.
    """
    folder = paths.manifest.parent
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        with ExitStack() as locks:
            for path in paths.all():
                held = f"{path} is being written by another run"
                locks.enter_context(run_lock(folder, _lock_name(path), held))
            existing = paths.existing()
            if existing and not job.force:
                raise OutputError(
                    f"{existing[0]} exists already: it has appeared since the plan was made",
                    hint="run the command again, it finds names that are free",
                )
            yield
    finally:
        for one in missing:
            with suppress(OSError):  # something lies in it
                one.rmdir()


def _lock_name(path: Path) -> str:
    """Return a name of at most 255 bytes for the lock of a file."""
    return f".{os.fsencode(path.name)[:200].decode(errors='ignore')}.lock"


def _place(job: GridJob, edits: int) -> tuple[Path, str]:
    """Return the folder, and the stem if --out names a file."""
    if job.out is None:
        return job.home, ""
    if job.out.is_dir():
        return job.out, ""
    if not job.out.suffix:
        return job.out, ""
    if job.out.suffix.lower() != VIDEO_SUFFIX:
        raise OutputError(
            f"--out {job.out}: results are {VIDEO_SUFFIX} files",
            hint=f"use --out {job.out.with_suffix(VIDEO_SUFFIX)}, or name a folder that exists",
        )
    if edits > 1:
        raise UsageError(
            f"--out {job.out} names one file for {edits} results", hint="name a folder instead"
        )
    return job.out.parent, job.out.stem


def _numbered(path: Path, index: int) -> Path:
    return _with_suffix(path, VIDEO_SUFFIX if index == 0 else f".{index + 1}{VIDEO_SUFFIX}")


def _with_suffix(path: Path, suffix: str) -> Path:
    """Append, where Path.with_suffix would cut at the dot of `input.rain`."""
    return path.with_name(path.name + suffix)


def _check_free(job: GridJob, paths: OutputPaths) -> None:
    every = paths.all()
    twice = next((path for path in every if every.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"two results would be called {twice.name}", hint="run them one by one")
    for path in every:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # such as a name that is too long
            raise refused(path, error) from error
        if any(path.exists() and one.exists() and path.samefile(one) for one in job.inputs):
            raise OutputError(
                f"{path} is an input and would be overwritten", hint="choose another --out"
            )
        if path.is_dir():
            raise OutputError(f"{path} is a folder", hint="move it away or choose another --out")


def _check_writable(folder: Path) -> None:
    """Try to make a file: permission bits lie for root and on network disks.

    A folder that is not there yet is made when results are written.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".dcgrid.{secrets.token_hex(4)}.part"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise OutputError(
            f"cannot write into {folder} ({reason})", hint="choose another folder with --out"
        ) from error
