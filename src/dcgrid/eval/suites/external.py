"""Videos of other programs, handed in to be scored: `--results NAME=FOLDER`.

    FOLDER/asl_book.rain.mp4          of the clip asl_book.mkv, task rain; or
    FOLDER/asl_book/rain.mp4          in a composition asl_book+fire.around.mp4

They are read at the size and rate of all other results, from their first frame on.
"""

from pathlib import Path

from dcgrid import hub
from dcgrid.errors import DcgridError, UsageError
from dcgrid.eval.suites import compared_frames
from dcgrid.eval.suites.suite import EvalRequest, Unit, UnitOutcome, item_names
from dcgrid.models.base import ModelSpec
from dcgrid.video.folder import is_video
from dcgrid.video.parts import write_part
from dcgrid.video.read import read_clip


def parse_external(pairs: list[str], methods: tuple[str, ...]) -> dict[str, Path]:
    """Read NAME=FOLDER pairs.

    Args:
        pairs: As on the command line.
        methods: Names that are taken.

    Raises:
        UsageError: One has another form, no such folder, or a name that is taken.
    """
    external: dict[str, Path] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        name = name.strip()
        if not equals or not name or not folder:
            raise UsageError(
                f"--results takes NAME=FOLDER, not {pair!r}", hint="--results dreamvideo=videos/"
            )
        if name in methods or name in external or any(c in name for c in "/\\."):
            raise UsageError(
                f"--results: the name {name!r} is taken, or holds a dot or a slash",
                hint="call it otherwise",
            )
        if not Path(folder).is_dir():
            raise UsageError(f"--results {name}: {folder} is no folder", hint="name a folder")
        external[name] = Path(folder)
    return external


def take_external(request: EvalRequest, spec: ModelSpec, unit: Unit) -> UnitOutcome:
    """Read the handed-in videos of a unit; what is not there is left out, what is damaged told."""
    folder, clip = request.external[unit.method], request.clips[unit.clip]
    stem = f"{clip.key}+{unit.tasks[0].key}" if request.suite.kind == "compose" else clip.key
    videos: dict[str, Path] = {}
    errors: dict[str, str] = {}
    for name in item_names(request.suite, unit):
        found = _find(folder, stem, name)
        if found is None:
            continue
        try:
            videos[name] = _kept(request, spec, unit, found)
        except Exception as error:  # counted against whoever handed it in
            errors[name] = reason_of(error)
    return UnitOutcome(unit=unit, videos=videos, errors=errors)


def reason_of(error: Exception) -> str:
    """Return in a line what went wrong."""
    message = error.message if isinstance(error, DcgridError) else f"{error}"
    lines = message.splitlines() or [""]
    named = "" if isinstance(error, DcgridError) else f"{type(error).__name__}: "
    return f"{named}{lines[0][:300]}"


def _find(folder: Path, stem: str, name: str) -> Path | None:
    """Return the one video of a clip and task."""
    beside = [one for one in folder.iterdir() if one.stem == f"{stem}.{name}"]
    inside = list((folder / stem).iterdir()) if (folder / stem).is_dir() else []
    found = [*beside, *(one for one in inside if one.stem == name)]
    return next((one for one in sorted(found) if is_video(one)), None)


def _kept(request: EvalRequest, spec: ModelSpec, unit: Unit, path: Path) -> Path:
    """Return a video in the form of all results."""
    rules = compared_frames.result_rules(request, spec, request.clips[unit.clip])
    size = "x".join(map(str, rules.cell_sizes[0]))
    name = f"{hub.file_sha256(path)[:24]}-{size}-{spec.fps:g}-{request.duration_s or 0:g}.mkv"
    kept = request.out / "cache" / "handed" / name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        frames_THWC = read_clip(path, rules, duration_s=request.duration_s)[0].frames_THWC
        write_part(kept, frames_THWC, overwrite=True)
    return kept
