"""`dcgrid compose`: put the subject of one video together with what another one shows."""

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
from dcgrid.pipelines.elements import ELEMENT_CLIPS, element_clip
from dcgrid.pipelines.job import ComposeJob

_First = Annotated[Path, typer.Argument(metavar="A", help="The video of the subject.")]
_Second = Annotated[
    Path | None,
    typer.Argument(
        metavar="B",
        help="The video of what is put with it: fire, water, sparks.",
        show_default="the program's own clip of --concept",
    ),
]
_Subject = Annotated[str, typer.Option("--subject", help='Who or what A shows, e.g. "a man".')]
_Motion = Annotated[str, typer.Option("--motion", help='What the subject does, e.g. "dance".')]
_Concept = Annotated[
    str,
    typer.Option(
        "--concept",
        help='What B shows, e.g. "a shower of sparks". Without B one of '
        f"{', '.join(ELEMENT_CLIPS)}.",
    ),
]
_ConceptMotion = Annotated[
    str, typer.Option("--concept-motion", help='What that does, e.g. "spark motion".')
]
_Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", help="How a fusion is to look, in your words; up to twice."),
]
_ConceptStart = Annotated[
    float | None,
    typer.Option("--concept-start", help="Seconds into B to begin at.", show_default="0"),
]
_Layout = Annotated[
    str, typer.Option("--layout", help="composition-2x2, composition-1x3, or a recipe of yours.")
]


def compose(
    first: _First,
    second: _Second = None,
    subject: _Subject = "",
    motion: _Motion = "",
    concept: _Concept = "",
    concept_motion: _ConceptMotion = "",
    prompt: _Prompts = None,
    layout: _Layout = "composition-2x2",
    model: ModelOption = "mini",
    adapter: AdapterOption = "default",
    lora: LoraOption = None,
    concepts: ConceptsOption = "",
    seed: SeedOption = 0,
    num_inference_steps: StepsOption = None,
    guidance_scale: GuidanceOption = None,
    size: SizeOption = "",
    start: StartOption = None,
    concept_start: _ConceptStart = None,
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
    """Compose two videos: the subject of A with the fire, the sparks, the light of B.

    B takes the size of A, and both are cut to the shorter. Two fusions go beside A, named after
    both (a.b.fusion.mp4, a.b.fusion-2.mp4), with a contact sheet and a manifest for `dcgrid rerun`.
    Without B, --concept names a clip that comes with the program: --concept sparks.
    """
    if second is None:
        element = element_clip(concept)
        second, concept = element.path, element.phrase
        concept_motion = concept_motion or element.motion
    job = ComposeJob(
        first=first,
        second=second,
        subject=subject,
        motion=motion,
        concept=concept,
        concept_motion=concept_motion,
        prompts=tuple(text for text in prompt or () if text.strip()),
        layout=layout,
        model=model,
        adapter=adapter,
        loras=tuple(lora or ()),
        concepts=concepts,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        cell_size=parse_size(size),
        start_s=start,
        concept_start_s=concept_start,
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
        candidates=candidates,
        rank=parse_rank(rank),
        save_grid=save_grid,
        contact_sheet=contact_sheet,
        offline=offline,
        force=force,
    )
    check_and_run(job, Output(format_=format_, quiet=quiet), dry_run=dry_run)
