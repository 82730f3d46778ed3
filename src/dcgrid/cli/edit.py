"""`dcgrid edit`: up to three edits of a video in one pass."""

from pathlib import Path
from typing import Annotated

import typer

from dcgrid.cli.options import (
    AdapterOption,
    Attention,
    AttentionOption,
    CandidatesOption,
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
    Keep,
    LoraOption,
    ModelOption,
    OfflineOption,
    Offload,
    OffloadOption,
    OutOption,
    Quantize,
    QuantizeOption,
    QuietOption,
    RankOption,
    Rate,
    SaveGridOption,
    SeedOption,
    SizeOption,
    StartOption,
    StepsOption,
    Upsample,
    UpsampleOption,
    parse_rank,
    parse_size,
)
from dcgrid.cli.output import Format, Output
from dcgrid.cli.run_job import check_and_run
from dcgrid.pipelines.job import EditJob

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
_Keep = Annotated[
    Keep, typer.Option("--keep", help="Spare cells repeat an edit: write the best, or all.")
]
_Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="What generates: grid, or a baseline for comparisons: inpaint, sdedit, flowedit; "
        "dreambooth, dreammix, set-and-sequence (train on the clip first); unedited, codec.",
    ),
]


def edit(
    input_: _Input,
    effect: _Effects = None,
    prompt: _Prompt = "",
    subject: _Subject = "",
    motion: _Motion = "",
    layout: _Layout = "edit-2x2",
    method: _Method = "grid",
    model: ModelOption = "mini",
    adapter: AdapterOption = "default",
    lora: LoraOption = None,
    concepts: ConceptsOption = "",
    seed: SeedOption = 0,
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
    keep: _Keep = Keep.BEST,
    candidates: CandidatesOption = 1,
    rank: RankOption = "",
    save_grid: SaveGridOption = False,
    contact_sheet: ContactSheetOption = True,
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
        method=method,
        model=model,
        adapter=adapter,
        loras=tuple(lora or ()),
        concepts=concepts,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        cell_size=parse_size(size),
        start_s=start,
        duration_s=duration,
        fps=fps.value,
        upsample=upsample.value,
        device=device,
        dtype=dtype.value,
        offload=offload.value,
        quantize=quantize.value,
        attention=attention.value,
        compile=compile_,
        out=out,
        keep=keep.value,
        candidates=candidates,
        rank=parse_rank(rank),
        save_grid=save_grid,
        contact_sheet=contact_sheet,
        offline=offline,
        force=force,
    )
    check_and_run(job, Output(format_=format_, quiet=quiet), dry_run=dry_run)
