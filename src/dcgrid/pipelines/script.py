"""What a story is: its scenes in order, from a story file or from the command line.

    from = "walk.mp4"                 the clip of the character; leave it out for text alone
    subject = "a man"
    motion = "walk"
    seconds = 8                       how long each scene is; more than a window is no matter

    [[scenes]]
    title = "Morning"
    effect = "golden-hour"            an effect recipe, or
    prompt = "in a snowy street"      your own words

No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

from annotated_types import Ge, Le, Len, Lt

from dcgrid.errors import UsageError
from dcgrid.io.schema import FileName, Text, read_toml, show
from dcgrid.pipelines.job import GridJob, check_numbers
from dcgrid.pipelines.resolve import (
    Edit,
    ResolvedGrid,
    effect_edit,
    free_edit,
    layout_slots,
    place,
    resolve,
)
from dcgrid.recipes import LayoutRecipe, effect_names, load_effect, load_layout

MAX_SCENES = 60
"""Most scenes of a story."""
LONGEST_S = 3600
"""Most seconds of a scene that a story file may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One scene of a story."""

    effect: Annotated[str, Text(200, blank=True)] = ""
    """Effect recipe that it shows, or its path; empty: `prompt` says it."""
    prompt: Annotated[str, Text(500, blank=True)] = ""
    """The scene in free text; empty: `effect` says it."""
    title: Annotated[str, Text(120, blank=True)] = ""
    """What the reel and the storyboard call it; empty: the effect's name, or the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoryFile:
    """The keys of a story file, beside `from`."""

    subject: Annotated[str, Text(200, blank=True)] = ""
    motion: Annotated[str, Text(200, blank=True)] = ""
    seconds: Annotated[float, Ge(0.1), Le(LONGEST_S)] | None = None
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    titles: bool = False
    fade: Annotated[float, Ge(0), Le(10)] = 0.0
    scenes: Annotated[tuple[Scene, ...], Len(1, MAX_SCENES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryJob(GridJob):
    """One run of `dcgrid story`.

    Paper: sec. 5.2.1 (story generation), Fig. 8
    """

    command: ClassVar[str] = "story"
    shows: ClassVar[str] = "edit"
    has_reel: ClassVar[bool] = True

    layout: str = "edit-2x2"
    scenes: Annotated[tuple[Scene, ...], Len(1, MAX_SCENES)]
    """The scenes in their order."""
    name: FileName
    """What results are called."""
    folder: Path = Path()
    """Where they go if `out` says nothing."""
    source: Path | None = None
    """The character's clip; None: the character comes from the text alone."""
    subject: str = ""
    """Who or what the story is about; empty: the layout's wording."""
    motion: str = ""
    """What the subject does; empty: the layout's wording."""
    titles: bool = False
    """True: the reel shows the title of each scene."""
    fade_s: Annotated[float, Ge(0), Le(10)] = 0.0
    """Seconds that neighbouring scenes of the reel are on screen together; 0: hard cuts."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The character's clip, if there is one."""
        return (self.source,) if self.source else ()

    def with_inputs(self, inputs: Sequence[Path]) -> Self:
        """Return the job for another clip; none if the character comes from the text alone."""
        return replace(self, source=inputs[0] if inputs else None)

    @property
    def words(self) -> str:
        """All free text of the user."""
        return " ".join([self.subject, self.motion, *(scene.prompt for scene in self.scenes)])

    @property
    def typed(self) -> tuple[tuple[str, str], ...]:
        """Scenes, subject and motion."""
        scenes = ((f"scene {n}", one.prompt) for n, one in enumerate(self.scenes, start=1))
        return (*scenes, ("--subject", self.subject), ("--motion", self.motion))

    @property
    def slots(self) -> dict[str, str]:
        """Subject and motion."""
        return {"subject": self.subject, "motion": self.motion}

    @property
    def stem(self) -> str:
        """What names of results begin with."""
        return self.name

    @property
    def home(self) -> Path:
        """Folder of the results where none is asked for."""
        return self.folder

    def joined(self, names: tuple[str, ...]) -> str:
        """Return what reel, storyboard and manifest are called."""
        return "story"


def read_story(path: Path) -> StoryJob:
    """Read a story file; options of the command line go over what it says.

    Raises:
        RecipeError: The file cannot be read, or a key is unknown, missing or wrong; all at once.
    """
    document = read_toml(path, hint="docs/story.md shows a story file")
    source = document.values.pop("from", "")  # no name that a field can have
    if not isinstance(source, str):
        document.refuse([(("from",), f"must be a string, not {show(source)}")])
    read = document.build(_StoryFile)
    document.refuse(
        (("scenes", number, "prompt"), "or `effect`: a scene has exactly one of both")
        for number, scene in enumerate(read.scenes)
        if bool(scene.effect.strip()) == bool(scene.prompt.strip())
    )
    return StoryJob(
        name=path.stem,
        folder=path.parent,
        source=path.parent / source if source else None,
        subject=read.subject,
        motion=read.motion,
        seed=read.seed,
        titles=read.titles,
        fade_s=read.fade,
        duration_s=read.seconds,
        scenes=tuple(
            Scene(effect=one.effect.strip(), prompt=one.prompt.strip(), title=one.title.strip())
            for one in read.scenes
        ),
    )


def scene_of(text: str, recipe_dir: Path | None) -> Scene:
    """Return the scene that one --scene means: an effect of that name, else free text."""
    if text.strip() in effect_names(recipe_dir):
        return Scene(effect=text.strip())
    return Scene(prompt=text.strip())


def resolve_story(job: StoryJob, recipe_dir: Path | None = None) -> tuple[ResolvedGrid, ...]:
    """Deal the scenes to grids and render their text.

    The character's clip stands in the first cell of every grid. Without one, the first grid is all
    scenes, and the first cell of each later grid is the last scene before it.

    Args:
        job: The story.
        recipe_dir: The user's own recipes; None: shipped ones only.

    Raises:
        UsageError: No scene, too many, or numbers out of range.
        RecipeError: An effect or the layout is unknown or wrong.
        PromptError: The text cannot be rendered.
    """
    check_numbers(job)
    if not 1 <= len(job.scenes) <= MAX_SCENES or not all(s.effect or s.prompt for s in job.scenes):
        raise UsageError(
            f"a story has 1 to {MAX_SCENES} scenes with a text each, not {len(job.scenes)}",
            hint='add --scene "in the rain", or name a story file',
        )
    if not 0 <= job.fade_s <= 10:
        raise UsageError(f"a fade of {job.fade_s} s is out of range", hint="use --fade 0 to 10")
    layout = load_layout(job.layout, recipe_dir)
    if layout.mode != job.shows or len(layout.given) != 1:
        raise UsageError(
            f"layout {layout.name!r} is not for one character", hint="use --layout edit-2x2"
        )
    edits = list(_edits(job, layout, recipe_dir))
    cells, grids = layout.rows * layout.cols, list[ResolvedGrid]()
    while edits:
        alone = job.source is None and not grids
        count = cells if alone else cells - len(layout.given)
        chosen, edits = edits[:count], edits[count:]
        given = () if alone else layout.given
        slots = layout_slots(job, layout)
        grids.append(place("consistent", layout, slots, chosen, given=given))
    return tuple(grids)


def resolve_grids(job: GridJob, recipe_dir: Path | None = None) -> tuple[ResolvedGrid, ...]:
    """Return the grids of any job: those of a story, else the one of an edit or composition.

    Raises:
        DcgridError: See `resolve_story` and `resolve`.
    """
    if isinstance(job, StoryJob):
        return resolve_story(job, recipe_dir)
    return (resolve(job, recipe_dir),)


def titles_of(job: StoryJob) -> tuple[str, ...]:
    """Return the title of each scene."""
    return tuple(
        scene.title.strip() or scene.effect.replace("-", " ") or scene.prompt
        for scene in job.scenes
    )


def _edits(job: StoryJob, layout: LayoutRecipe, recipe_dir: Path | None) -> list[Edit]:
    """Return the scenes as edits; their names are numbered, so that a look may come twice."""
    slots = layout_slots(job, layout)
    width = len(str(len(job.scenes)))
    edits = []
    for number, scene in enumerate(job.scenes, start=1):
        edit = (
            effect_edit(job, load_effect(scene.effect, recipe_dir), slots)
            if scene.effect
            else free_edit(job, scene.prompt)
        )
        edits.append(replace(edit, name=f"{number:0{width}d}-{edit.name}"))
    return edits
