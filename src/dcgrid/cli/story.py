"""`dcgrid story`: the same character through several scenes."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dcgrid import hub
from dcgrid.cli.options import (
    AdapterOption,
    Attention,
    AttentionOption,
    CompileOption,
    ConceptsOption,
    ContactSheetOption,
    DeviceOption,
    DryRunOption,
    Dtype,
    DtypeOption,
    DurationOption,
    ForceOption,
    FormatOption,
    FpsOption,
    GuidanceOption,
    LoraOption,
    ModelOption,
    OfflineOption,
    Offload,
    OffloadOption,
    OutOption,
    Quantize,
    QuantizeOption,
    QuietOption,
    Rate,
    SizeOption,
    StartOption,
    StepsOption,
    Upsample,
    UpsampleOption,
    parse_size,
)
from dcgrid.cli.output import Format, Output
from dcgrid.cli.run_job import check_and_run
from dcgrid.errors import UsageError
from dcgrid.pipelines.script import StoryJob, read_story, scene_of

_Story = Annotated[
    Path | None,
    typer.Argument(metavar="[STORY]", help="A story file (.toml); or name scenes with --scene."),
]
_From = Annotated[
    Path | None,
    typer.Option(
        "--from", help="The character's clip.", show_default="the story's, else text alone"
    ),
]
_Scenes = Annotated[
    list[str] | None,
    typer.Option("--scene", "-s", help="A scene: an effect's name, or your own words; repeat it."),
]
_Subject = Annotated[str, typer.Option("--subject", help='Who it is about, e.g. "a man".')]
_Motion = Annotated[str, typer.Option("--motion", help='What the subject does, e.g. "walk".')]
_Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of the noise.", show_default="the story's, else 0"),
]
_Titles = Annotated[
    bool | None,
    typer.Option("--titles/--no-titles", help="Show the scenes' titles in the reel."),
]
_Fade = Annotated[
    float | None,
    typer.Option("--fade", help="Seconds of cross-fade in the reel.", show_default="the story's"),
]


def story(
    story_file: _Story = None,
    source: _From = None,
    scene: _Scenes = None,
    subject: _Subject = "",
    motion: _Motion = "",
    titles: _Titles = None,
    fade: _Fade = None,
    model: ModelOption = "mini",
    adapter: AdapterOption = "default",
    lora: LoraOption = None,
    concepts: ConceptsOption = "",
    seed: _Seed = None,
    num_inference_steps: StepsOption = None,
    guidance_scale: GuidanceOption = None,
    size: SizeOption = "",
    start: StartOption = None,
    duration: DurationOption = None,
    fps: FpsOption = Rate.SOURCE,
    upsample: UpsampleOption = Upsample.GUIDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.AUTO,
    offload: OffloadOption = Offload.AUTO,
    quantize: QuantizeOption = Quantize.NONE,
    attention: AttentionOption = Attention.AUTO,
    compile_: CompileOption = False,
    out: OutOption = None,
    contact_sheet: ContactSheetOption = True,
    dry_run: DryRunOption = False,
    offline: OfflineOption = False,
    force: ForceOption = False,
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
        "subject": subject,
        "motion": motion,
        "titles": titles,
        "fade_s": fade,
        "seed": seed,
        "out": out,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "cell_size": parse_size(size),
        "start_s": start,
        "duration_s": duration,
    }
    job = replace(
        job,
        # What the command line leaves out is the story file's.
        **{name: value for name, value in asked.items() if value not in (None, "")},
        model=model,
        adapter=adapter,
        loras=tuple(lora or ()),
        concepts=concepts,
        device=device,
        dtype=dtype.value,
        offload=offload.value,
        quantize=quantize.value,
        attention=attention.value,
        compile=compile_,
        fps=fps.value,
        upsample=upsample.value,
        contact_sheet=contact_sheet,
        offline=offline,
        force=force,
    )
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
