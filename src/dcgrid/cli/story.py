"""`dcgrid story`: the same character through several scenes."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dcgrid import hub
from dcgrid.cli import complete
from dcgrid.cli.options import (
    DryRunOption,
    FormatOption,
    GridOptions,
    QuietOption,
    how,
    main,
    what,
    where,
    with_options,
)
from dcgrid.cli.output import Format, Output
from dcgrid.cli.run_job import check_and_run
from dcgrid.errors import UsageError
from dcgrid.pipelines.script import StoryJob, read_story, scene_of

_Story = Annotated[
    Path | None,
    typer.Argument(metavar="[STORY]", help="A story file (.toml); or name scenes with --scene."),
]
_Scenes = Annotated[
    list[str] | None,
    main(
        "--scene",
        "-s",
        autocompletion=complete.scenes,
        metavar="SCENE",
        help="An effect's name or your own words; repeat it.",
    ),
]
_From = Annotated[
    Path | None,
    main(
        "--from",
        metavar="VIDEO",
        help="The character's clip.",
        show_default="the story's, else text alone",
    ),
]
_Subject = Annotated[str, main("--subject", metavar="TEXT", help='Who it is about, e.g. "a man".')]
_Motion = Annotated[
    str, what("--motion", metavar="TEXT", help='What the subject does, e.g. "walk".')
]
_Seed = Annotated[
    int | None,
    how(
        "--seed",
        min=0,
        max=2**63 - 1,
        metavar="N",
        help="Seed of the noise.",
        show_default="the story's, else 0",
    ),
]
_Titles = Annotated[
    bool | None, where("--titles/--no-titles", help="Show the scenes' titles in the reel.")
]
_Fade = Annotated[
    float | None,
    where(
        "--fade",
        min=0,
        max=10,
        metavar="SECONDS",
        help="Seconds of cross-fade in the reel.",
        show_default="the story's",
    ),
]


@with_options
def story(
    story_file: _Story = None,
    scene: _Scenes = None,
    source: _From = None,
    subject: _Subject = "",
    motion: _Motion = "",
    titles: _Titles = None,
    fade: _Fade = None,
    seed: _Seed = None,
    *,
    options: GridOptions,
    dry_run: DryRunOption = False,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Tell a story: one character, scene after scene.

    With --from (or `from` in the story file) the character is that of your clip, and every scene is
    the clip in other light, weather or place. Without it the character comes from the text alone.
    Written are the scenes, a reel of all, a storyboard (.png) and a manifest.
    """
    recipe_dir = hub.config_dir() / "recipes"
    job = _job(story_file, source, scene or [], recipe_dir)
    asked: dict[str, Any] = {
        **options.job_fields(),
        "subject": subject,
        "motion": motion,
        "titles": titles,
        "fade_s": fade,
        "seed": seed,
    }
    # What the command line leaves out is the story file's.
    job = replace(job, **{name: value for name, value in asked.items() if value not in (None, "")})
    check_and_run(job, Output(format_=format_, quiet=quiet), dry_run=dry_run)


def _job(
    story_file: Path | None, source: Path | None, scenes: list[str], recipe_dir: Path
) -> StoryJob:
    """Return the story of a file, or of --scene options."""
    if story_file is not None:
        if scenes:
            raise UsageError(
                "a story file and --scene are both given", hint="add the scenes to the file"
            )
        job = read_story(story_file)
        return replace(job, source=source) if source is not None else job
    if not scenes:
        raise UsageError(
            "no scene is given", hint='dcgrid story --from clip.mp4 --scene rain --scene "at night"'
        )
    return StoryJob(
        name=source.stem if source is not None else "story",
        folder=source.parent if source is not None else Path(),
        source=source,
        scenes=tuple(scene_of(text, recipe_dir) for text in scenes),
    )
