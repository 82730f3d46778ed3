"""Options that more than one command has, each declared once.

A command takes several together as one dataclass, which `with_options` spreads for Typer:

    @with_options
    def edit(input_: Input, options: EditOptions) -> None: ...
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial, update_wrapper
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from dcgrid import hub
from dcgrid.cli import complete
from dcgrid.cli.help import HOW, MACHINE, MAIN, WHAT, WHERE
from dcgrid.cli.output import Format
from dcgrid.pipelines.job import MAX_CANDIDATES, Upsample

# An option of each panel of `--help`.
main = partial(typer.Option, rich_help_panel=MAIN)
what = partial(typer.Option, rich_help_panel=WHAT)
how = partial(typer.Option, rich_help_panel=HOW)
where = partial(typer.Option, rich_help_panel=WHERE)
machine = partial(typer.Option, rich_help_panel=MACHINE)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose parameter `options`, a dataclass, comes as options of its own.

    Typer reads the parameters of one function; a field's `Annotated` declares its option.
    """
    own = inspect.signature(command, eval_str=True).parameters
    kind = own["options"].annotation
    hints = get_type_hints(kind, include_extras=True)
    spread = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default,
            annotation=hints[one.name],
        )
        for one in fields(kind)
        if one.name != "origins"
    ]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    ]
    for name, one in own.items():
        keyword = one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += spread if name == "options" else [keyword]

    def run(context: typer.Context, **values: Any) -> None:  # noqa: ANN401 - of any option
        shared = {one.name: values.pop(one.name) for one in spread}
        origins = context.obj.origins(context)
        command(**values, options=kind(**shared, origins=origins))

    update_wrapper(run, command)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What all classes of options have."""

    origins: Mapping[str, str]
    """Where options that are not as built in have their values from, by long name; no option."""


def _checked_size(text: str) -> str:
    from dcgrid.options import parse_size

    parse_size(text)
    return text


FormatOption = Annotated[
    Format,
    where("--format", help="text for people, json for programs (on stdout)."),
]
QuietOption = Annotated[
    bool,
    where("--quiet", "-q", help="Print errors and warnings only."),
]
DryRunOption = Annotated[
    bool,
    where("--dry-run", help="Print the plan and stop: nothing is loaded or written."),
]
ForceOption = Annotated[
    bool,
    where("--force", "-f", help="Replace existing results."),
]
OutOption = Annotated[
    Path | None,
    main(
        "--out",
        "-o",
        metavar="PATH",
        help="Folder for the results, or a .mp4 name for a single one.",
        show_default="beside the input",
    ),
]
OfflineOption = Annotated[
    bool,
    machine("--offline", help="Download nothing; HF_HUB_OFFLINE=1 does the same."),
]
DeviceOption = Annotated[
    str,
    machine(
        "--device",
        autocompletion=complete.devices,
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(Options):
    """What every command that loads a model to edit with takes."""

    model: Annotated[
        str,
        main(
            "--model",
            "-m",
            autocompletion=complete.models,
            metavar="MODEL",
            help="Name of a model, see `dcgrid models list`, its repository, or folder of a Wan "
            "checkout.",
            callback=hub.model_name,
        ),
    ] = "mini"
    adapter: Annotated[
        str,
        how(
            "--adapter",
            autocompletion=complete.adapters,
            metavar="ADAPTER",
            help="Grid-Fill adapter: a file, hf:OWNER/REPO@REVISION/FILE, hf:OWNER/REPO, or none: "
            "the bare base fills the grid, which keeps the subject less well.",
            show_default="the model's own",
        ),
    ] = "default"
    device: DeviceOption = "auto"
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        machine("--dtype", help="Number format; auto is bf16 where it is fast."),
    ] = "auto"
    offload: Annotated[
        Literal["auto", "none", "model", "block", "disk"],
        machine(
            "--offload",
            help="Weights of a large model on the device: all, a network or two blocks at a time, "
            "or read from disk; auto takes the fastest that fits.",
        ),
    ] = "auto"
    quantize: Annotated[
        Literal["none", "fp8", "int8"],
        machine("--quantize", help="Store a large model's weights in half the bytes; not exact."),
    ] = "none"
    offline: OfflineOption = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GridOptions(ModelOptions):
    """What `edit`, `compose` and `story` take."""

    out: OutOption = None
    start: Annotated[
        float | None,
        what(
            "--start",
            min=0,
            metavar="SECONDS",
            help="Seconds into the (first) video to begin at.",
            show_default="0",
        ),
    ] = None
    duration: Annotated[
        float | None,
        what(
            "--duration",
            min=0,
            metavar="SECONDS",
            help="Seconds to use; what is longer than the model takes is generated in windows.",
            show_default="to the end",
        ),
    ] = None
    lora: Annotated[
        list[str] | None,
        how(
            "--lora",
            metavar="FILE[:STRENGTH]",
            help="LoRA for the base model, of this or another program, e.g. one for fewer steps: a "
            "file or hf:OWNER/REPO@REVISION/FILE; strength -4 to 4, else 1. May be repeated.",
        ),
    ] = None
    concepts: Annotated[
        str,
        how(
            "--concepts",
            metavar="FILE",
            help="Tags of a trained Multi-DC LoRA, such as dc-tokens.safetensors, that prompts may "
            "name as in a cat [Cat_identity]. Looked for beside --lora and --adapter if prompts "
            "do.",
        ),
    ] = ""
    num_inference_steps: Annotated[
        int | None,
        how(
            "--num-inference-steps",
            min=1,
            max=1000,
            metavar="N",
            help="Sampling steps.",
            show_default="the model's",
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        how(
            "--guidance-scale",
            min=0,
            max=30,
            metavar="SCALE",
            help="Weight of the text; 1 is no guidance.",
            show_default="the model's",
        ),
    ] = None
    size: Annotated[
        str,
        how(
            "--size",
            metavar="WxH",
            help="Pixels of a cell, such as 640x352, and not of the result: what the model works "
            "at; larger ones need more memory and time.",
            show_default="the model's",
            callback=_checked_size,
        ),
    ] = ""
    fps: Annotated[
        Literal["model", "source"],
        how(
            "--fps",
            help="Frames of the result: each of the input's at its own time, or the model's rate.",
        ),
    ] = "source"
    upsample: Annotated[
        Upsample,
        how(
            "--upsample",
            help="How results get the size of the input: guided takes fine detail from it, plain "
            "enlarges what the model makes, none leaves that at the size of a cell.",
        ),
    ] = "guided"
    contact_sheet: Annotated[
        bool,
        where(help="Write a picture of the clip and its edits (PNG)."),
    ] = True
    force: ForceOption = False
    attention: Annotated[
        Literal["auto", "sdpa", "cudnn", "flash", "sage"],
        machine(
            "--attention",
            help="Attention kernel of a large model; auto tries those that are there, sage is not "
            "exact and never chosen by auto.",
        ),
    ] = "auto"
    compile: Annotated[
        bool,
        machine("--compile", help="Run a large model's blocks through torch's compiler."),
    ] = False

    def job_fields(self) -> dict[str, Any]:
        """Return the values as a job (`GridJob`) names them."""
        from dcgrid.options import parse_size

        values = asdict(self)
        start, duration, size = (values.pop(name) for name in ("start", "duration", "size"))
        loras = tuple(values.pop("lora") or ())
        return {
            **values,
            "start_s": start,
            "duration_s": duration,
            "cell_size": parse_size(size),
            "loras": loras,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOptions(GridOptions):
    """What `edit` and `compose` take."""

    seed: Annotated[
        int,
        how(
            "--seed",
            min=0,
            max=2**63 - 1,
            metavar="N",
            help="Seed of the noise: same seed, same pixels.",
        ),
    ] = 0
    candidates: Annotated[
        int,
        how(
            "--candidates",
            min=1,
            max=MAX_CANDIDATES,
            metavar="N",
            help="Generate so many seeds, from --seed on, and take the best.",
        ),
    ] = 1
    rank: Annotated[
        str,
        how(
            "--rank",
            autocompletion=complete.ranks,
            metavar="METRICS",
            help="What is best, e.g. id,ct,tc: see `dcgrid eval metrics`.",
            show_default="edges and flicker",
        ),
    ] = ""
    save_grid: Annotated[
        bool,
        where("--save-grid", help="Write the whole grid as a video too."),
    ] = False

    def job_fields(self) -> dict[str, Any]:
        """Return the values as a job names them."""
        rank = tuple(part.strip() for part in self.rank.split(",")) if self.rank else ()
        return {**GridOptions.job_fields(self), "rank": rank}
