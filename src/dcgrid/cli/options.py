"""Options that more than one command has, and the names that values may take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dcgrid.cli.output import Format


class Keep(StrEnum):
    """Which tries at an edit are written."""

    BEST = "best"
    ALL = "all"


class Rate(StrEnum):
    """Frame rate of a result."""

    MODEL = "model"
    SOURCE = "source"


class Dtype(StrEnum):
    """Number format of a model."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


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
