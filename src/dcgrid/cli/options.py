"""Options that more than one command has, and the names that values may take."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dcgrid import hub
from dcgrid.cli.output import Format
from dcgrid.errors import UsageError


class Keep(StrEnum):
    """Which tries at an edit are written."""

    BEST = "best"
    ALL = "all"


class Rate(StrEnum):
    """Frame rate of a result."""

    MODEL = "model"
    SOURCE = "source"


class Upsample(StrEnum):
    """How results get the size of the input."""

    GUIDED = "guided"
    PLAIN = "plain"
    NONE = "none"


class Offload(StrEnum):
    """Where a checkout's weights are while they are not needed."""

    AUTO = "auto"
    NONE = "none"
    MODEL = "model"
    BLOCK = "block"
    DISK = "disk"


class Quantize(StrEnum):
    """How the weights of a checkout's blocks are stored."""

    NONE = "none"
    FP8 = "fp8"
    INT8 = "int8"


class Attention(StrEnum):
    """Which kernel attends in a large model."""

    AUTO = "auto"
    SDPA = "sdpa"
    CUDNN = "cudnn"
    FLASH = "flash"
    SAGE = "sage"


class Dtype(StrEnum):
    """Number format of a model."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def parse_size(text: str) -> tuple[int, int] | None:
    """Return the height and width of WIDTHxHEIGHT; None for no text.

    Raises:
        UsageError: The text has another form.
    """
    if not text:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text.strip().lower())
    if found is None:
        raise UsageError(
            f"size {text!r} is not of the form WIDTHxHEIGHT",
            hint="write for example --size 640x352",
        )
    return int(found[2]), int(found[1])


def parse_rank(text: str) -> tuple[str, ...]:
    """Return the metrics of a list with commas; none for no text."""
    return tuple(part.strip() for part in text.split(",")) if text else ()


FormatOption = Annotated[
    Format, typer.Option("--format", help="text for people, json for programs (on stdout).")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings only.")]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Download nothing; HF_HUB_OFFLINE=1 does the same.")
]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace existing results.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for the results, or a .mp4 name for a single one."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan and stop: nothing is loaded or written.")
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Name of a model, see `dcgrid models list`, its repository, or folder of a Wan "
        "checkout.",
        callback=hub.model_name,
    ),
]
AdapterOption = Annotated[
    str,
    typer.Option(
        "--adapter",
        help="Grid-Fill adapter: a file, hf:OWNER/REPO@REVISION/FILE, hf:OWNER/REPO, default, or "
        "none (the bare base fills the grid, which keeps the subject less well).",
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:STRENGTH]",
        help="LoRA for the base model, of this or another program, e.g. one for fewer steps: a "
        "file or hf:OWNER/REPO@REVISION/FILE; strength -4 to 4, else 1. May be repeated.",
    ),
]
ConceptsOption = Annotated[
    str,
    typer.Option(
        "--concepts",
        metavar="FILE",
        help="Tags of a trained Multi-DC LoRA, such as dc-tokens.safetensors, that prompts may "
        "name as in a cat [Cat_identity]. Looked for beside --lora and --adapter if prompts do.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", help="Seed of the noise: same seed, same pixels.")
]
StepsOption = Annotated[
    int | None,
    typer.Option("--num-inference-steps", help="Sampling steps.", show_default="the model's"),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        help="Weight of the text; 1 is no guidance.",
        show_default="the model's",
    ),
]
SizeOption = Annotated[
    str,
    typer.Option(
        "--size",
        metavar="WxH",
        help="Pixels of a cell, such as 640x352, and not of the result: what the model works at; "
        "larger ones need more memory and time.",
        show_default="the model's",
    ),
]
StartOption = Annotated[
    float | None,
    typer.Option("--start", help="Seconds into the (first) video to begin at.", show_default="0"),
]
DurationOption = Annotated[
    float | None,
    typer.Option(
        "--duration",
        help="Seconds to use; what is longer than the model takes is generated in windows.",
        show_default="to the end",
    ),
]
FpsOption = Annotated[
    Rate,
    typer.Option(
        "--fps",
        help="Frames of the result: each of the input's at its own time, or the model's rate.",
    ),
]
UpsampleOption = Annotated[
    Upsample,
    typer.Option(
        "--upsample",
        help="How results get the size of the input: guided takes fine detail from it, plain "
        "enlarges what the model makes, none leaves that at the size of a cell.",
    ),
]
DtypeOption = Annotated[
    Dtype, typer.Option("--dtype", help="Number format; auto is bf16 where it is fast.")
]
OffloadOption = Annotated[
    Offload,
    typer.Option(
        "--offload",
        help="Weights of a large model on the device: all, a network or two blocks at a time, or "
        "read from disk; auto takes the fastest that fits.",
    ),
]
QuantizeOption = Annotated[
    Quantize,
    typer.Option("--quantize", help="Store a large model's weights in half the bytes; not exact."),
]
AttentionOption = Annotated[
    Attention,
    typer.Option(
        "--attention",
        help="Attention kernel of a large model; auto tries those that are there, sage is not "
        "exact and never chosen by auto.",
    ),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Run a large model's blocks through torch's compiler.")
]
CandidatesOption = Annotated[
    int,
    typer.Option("--candidates", help="Generate so many seeds, from --seed on, and take the best."),
]
RankOption = Annotated[
    str,
    typer.Option(
        "--rank",
        metavar="METRICS",
        help="What is best, e.g. id,ct,tc: see `dcgrid eval metrics`.",
        show_default="edges and flicker",
    ),
]
SaveGridOption = Annotated[
    bool, typer.Option("--save-grid", help="Write the whole grid as a video too.")
]
ContactSheetOption = Annotated[
    bool, typer.Option(help="Write a picture of the clip and its edits (PNG).")
]
