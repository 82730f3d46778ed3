"""What edits, compositions and stories can be asked for, by the names that users know.

    job = edit_job({"input": "a.mp4", "effects": ["rain"], "size": "640x352"}, "edit()")

Calls of the Python API and rows of `dcgrid batch` are checked here, by the same schema; a name is
that of the command line's option, with underscores. An option that is left out has the value that
it has on the command line. No torch here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from typing_extensions import TypedDict  # pydantic refuses that of `typing` before Python 3.12

from dcgrid.errors import DcgridError, UsageError
from dcgrid.io.schema import Document, Problem, Rule, Text, control_characters
from dcgrid.pipelines.elements import element_clip
from dcgrid.pipelines.job import (
    MAX_CANDIDATES,
    ComposeJob,
    EditJob,
    GridJob,
    Keep,
    Seconds,
    Upsample,
)
from dcgrid.pipelines.script import Scene, StoryJob, scene_of

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


def _not_a_size(text: str) -> str:
    fits = not text or _SIZE.fullmatch(text.strip().lower())
    return "" if fits else f"must be of the form WIDTHxHEIGHT, not {text!r}"


Words = Annotated[str, Text(500, blank=True)]
Names = Annotated[Sequence[str], "a list of strings"]
Size = Annotated[str, Rule(_not_a_size)]


class ModelOptions(TypedDict, total=False):
    """What decides which model is loaded, and where: the options of a `Session`."""

    adapter: str
    """Grid-Fill adapter: a path, OWNER/NAME, "default" or "none"."""
    loras: Names
    """LoRAs that are folded into the base, each FILE or FILE:STRENGTH."""
    concepts: str
    """File of tags that prompts may name."""
    device: str
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"]
    """Number format."""
    offload: Literal["auto", "none", "model", "block", "disk"]
    """Where a large model's weights are meanwhile."""
    quantize: Literal["none", "fp8", "int8"]
    """How a large model's weights are stored."""
    attention: Literal["auto", "sdpa", "cudnn", "flash", "sage"]
    """Which kernel attends."""
    compile: bool
    """Compile a large model's blocks."""
    offline: bool
    """Download nothing."""


class _GridOptions(TypedDict, total=False):
    """Options of every command that fills grids."""

    layout: str
    """Layout recipe: name or path."""
    subject: Words
    """Who or what the video shows, e.g. "a cat"."""
    motion: Words
    """What the subject does, e.g. "jump"."""
    seed: Annotated[int, Ge(0), Lt(2**63)]
    """Seed of the noise; 0 unless given."""
    num_inference_steps: Annotated[int, Ge(1), Le(1000)]
    """Sampling steps."""
    guidance_scale: Annotated[float, Ge(0), Le(30)]
    """Weight of the text; 1 is none."""
    size: Size
    """Size of a cell, WIDTHxHEIGHT."""
    start: Seconds
    """Seconds into the (first) clip to begin at."""
    duration: Annotated[float, Gt(0), Lt(1e9)]
    """Seconds to use."""
    fps: Literal["source", "model"]
    """Frames of results: the input's, or the model's rate."""
    upsample: Upsample
    """How results become the size of the input."""
    contact_sheet: bool
    """Write a picture with frames of all cells; True unless given."""
    force: bool
    """Replace existing results."""


class EditOptions(_GridOptions, total=False):
    """Options of an edit."""

    method: str
    """What generates: "grid", or a baseline."""
    keep: Keep
    """Which tries are written when spare cells repeat an edit."""
    candidates: Annotated[int, Ge(1), Le(MAX_CANDIDATES)]
    """How many seeds are generated; the best tries are written."""
    rank: Names
    """Metrics that rank tries."""
    save_grid: bool
    """Write the whole grid as a video, too."""


class ComposeOptions(_GridOptions, total=False):
    """Options of a composition."""

    concept: Words
    """What the second clip shows; without one, which of the program's own clips it is."""
    concept_motion: Words
    """What that does."""
    concept_start: Seconds
    """Seconds into the second clip to begin at."""
    candidates: Annotated[int, Ge(1), Le(MAX_CANDIDATES)]
    """How many seeds are generated; the best tries are written."""
    rank: Names
    """Metrics that rank tries."""
    save_grid: bool
    """Write the whole grid as a video, too."""


class StoryOptions(_GridOptions, total=False):
    """Options of a story."""

    name: str
    """What results are called; the clip's name unless given."""
    titles: bool
    """Show the scenes' titles in the reel."""
    fade: Annotated[float, Ge(0), Le(10)]
    """Seconds of cross-fade in the reel."""


class EditCall(EditOptions, ModelOptions, total=False):
    """Options of an edit and of its model."""


class ComposeCall(ComposeOptions, ModelOptions, total=False):
    """Options of a composition and of its model."""


class StoryCall(StoryOptions, ModelOptions, total=False):
    """Options of a story and of its model."""


class EditRequest(EditCall, total=False):
    """An edit, whole."""

    model: str
    input: str
    effects: Names
    prompt: Words
    out: str


class ComposeRequest(ComposeCall, total=False):
    """A composition, whole."""

    model: str
    first: str
    second: str
    prompts: Names
    out: str


class StoryRequest(StoryCall, total=False):
    """A story, whole."""

    model: str
    source: str
    scenes: Names
    out: str


REQUESTS: Mapping[str, type[Any]] = {
    "edit": EditRequest,
    "compose": ComposeRequest,
    "story": StoryRequest,
}
"""The schema of each command's options."""

_JOB_FIELDS = {
    "start": "start_s",
    "duration": "duration_s",
    "concept_start": "concept_start_s",
    "fade": "fade_s",
}
"""Fields of jobs that have another name than the option."""


def edit_job(
    values: Mapping[str, Any], place: str, error: type[DcgridError] = UsageError
) -> EditJob:
    """Return the edit that options ask for.

    Args:
        values: The options by name, see `EditRequest`.
        place: What errors call the place that they stand in.
        error: What is raised.

    Raises:
        DcgridError: An option is unknown, missing or wrong; all of them in one message.
    """
    fields = _checked("edit", values, place, error, ("input",))
    return EditJob(**fields, input=Path(values["input"]))


def compose_job(
    values: Mapping[str, Any], place: str, error: type[DcgridError] = UsageError
) -> ComposeJob:
    """Return the composition that options ask for; arguments and errors as `edit_job`.

    Without `second`, `concept` names a clip that comes with the program.
    """
    fields = _checked("compose", values, place, error, ("first",))
    second = fields.pop("second", "")
    if not second:
        try:
            element = element_clip(fields.get("concept", ""))
        except UsageError as cause:
            raise error(f"{place}: {cause.message}", hint=cause.hint) from cause
        second, fields["concept"] = element.path, element.phrase
        fields["concept_motion"] = fields.get("concept_motion") or element.motion
    return ComposeJob(**fields, first=Path(values["first"]), second=Path(second))


def story_job(
    values: Mapping[str, Any],
    place: str,
    error: type[DcgridError] = UsageError,
    recipe_dir: Path | None = None,
) -> StoryJob:
    """Return the story that options ask for; arguments and errors as `edit_job`.

    A scene is an effect's name, else free text.
    """
    fields = _checked("story", values, place, error, ("scenes",))
    source = Path(values["source"]) if values.get("source") else None
    scenes: tuple[Scene, ...] = tuple(scene_of(text, recipe_dir) for text in fields.pop("scenes"))
    fields.setdefault("name", source.stem if source else "story")
    folder = source.parent if source else Path()
    return StoryJob(**fields, source=source, folder=folder, scenes=scenes)


JOBS: Mapping[str, Callable[[Mapping[str, Any], str, type[DcgridError]], GridJob]] = {
    "edit": edit_job,
    "compose": compose_job,
    "story": story_job,
}
"""What makes each command's job."""


def _checked(
    command: str,
    values: Mapping[str, Any],
    place: str,
    error: type[DcgridError],
    required: tuple[str, ...],
) -> dict[str, Any]:
    """Return checked options under the names of the job's fields, without its inputs.

    Raises:
        DcgridError: See `edit_job`.
    """
    plain = {name: _plain(value) for name, value in values.items() if value is not None}
    document = Document(file=place, values=plain, error=error)
    missing: list[Problem] = [((one,), "is missing") for one in required if not plain.get(one)]
    try:
        document.build(REQUESTS[command])
        document.refuse([*control_characters(plain), *missing])
    except error as found:
        lines = found.message.split("\n")
        more = [f"{place}: key '{one[0][0]}' {one[1]}" for one in missing]
        raise error("\n".join(dict.fromkeys([*lines, *more]))) from None
    fields: dict[str, Any] = {_JOB_FIELDS.get(name, name): value for name, value in plain.items()}
    for name in ("input", "first", "source"):
        fields.pop(name, None)
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = tuple(value)
    if "out" in fields:
        fields["out"] = Path(fields["out"])
    if size := fields.pop("size", ""):
        fields["cell_size"] = parse_size(size)
    return fields


def parse_size(text: str) -> tuple[int, int] | None:
    """Return the height and width of WIDTHxHEIGHT; None for no text.

    Raises:
        UsageError: The text has another form.
    """
    if not text:
        return None
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(
            f"size {text!r} is not of the form WIDTHxHEIGHT",
            hint="write for example --size 640x352",
        )
    return int(found[2]), int(found[1])


def _plain(value: object) -> object:
    """Return a value as JSON would hold it: paths are texts, sequences lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value
