"""`dcgrid edit`: up to three edits of a video in one pass."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcgrid import hub
from dcgrid.cli.options import (
    DeviceOption,
    DryRunOption,
    Dtype,
    ForceOption,
    FormatOption,
    Keep,
    OfflineOption,
    OutOption,
    QuietOption,
    Rate,
)
from dcgrid.cli.output import Format, Output
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.plan import prepare_edit

if TYPE_CHECKING:
    from dcgrid.pipelines.edit import EditResult
    from dcgrid.pipelines.plan import PreparedEdit

_Input = Annotated[Path, typer.Argument(metavar="INPUT", help="The video to edit.")]
_Effects = Annotated[
    list[str] | None,
    typer.Option("--effect", "-e", help="Effect, see `dcgrid recipes list`; up to three times."),
]
_Prompt = Annotated[
    str, typer.Option("--prompt", "-p", help="The edit in your own words; counts as one.")
]
_Subject = Annotated[
    str, typer.Option("--subject", help='Who or what the video shows, e.g. "a cat".')
]
_Motion = Annotated[str, typer.Option("--motion", help='What the subject does, e.g. "jump".')]
_Layout = Annotated[str, typer.Option("--layout", help="Grid layout: name or path of a recipe.")]
_Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of the model, see `dcgrid doctor`.")
]
_Adapter = Annotated[
    str,
    typer.Option(
        "--adapter",
        help="Grid-Fill adapter: a file, hf:OWNER/REPO@REVISION/FILE, default, or none.",
    ),
]
_Seed = Annotated[int, typer.Option("--seed", help="Seed of the noise: same seed, same pixels.")]
_Steps = Annotated[
    int | None,
    typer.Option("--num-inference-steps", help="Sampling steps.", show_default="the recipe's"),
]
_Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        help="Weight of the text; 1 is no guidance.",
        show_default="the recipe's",
    ),
]
_Start = Annotated[
    float | None,
    typer.Option("--start", help="Seconds into the video to begin at.", show_default="0"),
]
_Duration = Annotated[
    float | None,
    typer.Option("--duration", help="Seconds to edit.", show_default="the model's"),
]
_Fps = Annotated[
    Rate, typer.Option("--fps", help="Frame rate of the result: the model's or the input's.")
]
_Dtype = Annotated[
    Dtype, typer.Option("--dtype", help="Number format; auto is bf16 where it is fast.")
]
_Keep = Annotated[
    Keep, typer.Option("--keep", help="Spare cells repeat an edit: write the best, or all.")
]
_SaveGrid = Annotated[
    bool, typer.Option("--save-grid", help="Write the whole grid as a video too.")
]
_ContactSheet = Annotated[
    bool, typer.Option(help="Write a picture of the clip and its edits (PNG).")
]


def edit(
    input_: _Input,
    effect: _Effects = None,
    prompt: _Prompt = "",
    subject: _Subject = "",
    motion: _Motion = "",
    layout: _Layout = "edit-2x2",
    model: _Model = "mini",
    adapter: _Adapter = "default",
    seed: _Seed = 0,
    num_inference_steps: _Steps = None,
    guidance_scale: _Guidance = None,
    start: _Start = None,
    duration: _Duration = None,
    fps: _Fps = Rate.MODEL,
    device: DeviceOption = "auto",
    dtype: _Dtype = Dtype.AUTO,
    out: OutOption = None,
    keep: _Keep = Keep.BEST,
    save_grid: _SaveGrid = False,
    contact_sheet: _ContactSheet = True,
    dry_run: DryRunOption = False,
    offline: OfflineOption = False,
    force: ForceOption = False,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Edit a video: the same clip in the rain, at night, in your words.

    Up to three edits are made in one pass. Results go beside the input and are named after it and
    the edit (input.rain.mp4), with a contact sheet (.png) and a manifest (.json) from which
    `dcgrid rerun` makes the same pixels again.
    """
    job = EditJob(
        input=input_,
        effects=tuple(effect or ()),
        prompt=prompt,
        subject=subject,
        motion=motion,
        layout=layout,
        model=model,
        adapter=adapter,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        start_s=start,
        duration_s=duration,
        fps=fps.value,
        device=device,
        dtype=dtype.value,
        out=out,
        keep=keep.value,
        save_grid=save_grid,
        contact_sheet=contact_sheet,
        offline=offline,
        force=force,
    )
    with Output(format_=format_, quiet=quiet) as output:
        carry_out(prepare_edit(job, hub.config_dir() / "recipes"), output, dry_run=dry_run)


def carry_out(prepared: "PreparedEdit", output: Output, *, dry_run: bool) -> None:
    """Plan a checked job, run it unless it is a dry run, and print the result."""
    if prepared.job.offline:
        # The hub's own switch, so that every part that might download knows.
        os.environ["HF_HUB_OFFLINE"] = "1"
    from dcgrid.pipelines.plan import plan_edit

    plan = plan_edit(prepared)
    if dry_run:
        output.result(plan.lines(), {"dry_run": True, **plan.as_json()})
        return
    for line in plan.lines():
        output.note(line)
    from dcgrid.pipelines.edit import run_edit

    result = run_edit(plan, output)
    output.result(_lines(result), result.as_json())


def _lines(result: "EditResult") -> list[str]:
    manifest = result.manifest
    seconds = sum(manifest.timings_s.values())
    lines = [*result.notes, *(f"wrote {path}" for path in result.files)]
    if result.same_pixels:
        lines.append("same pixels as the run it repeats")
    memory = manifest.peak_memory_bytes / 1e9
    return [*lines, f"{seconds:.1f} s, {memory:.1f} GB at most, seed {manifest.job.seed}"]
