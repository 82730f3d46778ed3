"""Make an adapter file of this program from a LoRA file of another one. Read `import_lora`.

Letters: D width, R rank.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dcgrid.adapters.files import write_adapter
from dcgrid.adapters.foreign import Factors, ForeignLora, check_foreign_fit, read_foreign
from dcgrid.adapters.reading import LoadReport, mean_update, side_key
from dcgrid.adapters.spec import AdapterSpec, Stage
from dcgrid.errors import AdapterError, OutputError
from dcgrid.grid.routing import Mode
from dcgrid.models.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportChoice:
    """What the file itself does not say."""

    base: Model
    """Model that it is for."""
    stage: Stage = "fill"
    """What it is to be used for."""
    mode: Mode = "consistent"
    """What its grids show."""
    name: str = ""
    """Its name; empty: the file's, without what names may not hold."""


def import_lora(
    source: Path, choice: ImportChoice, out: Path, *, force: bool = False
) -> LoadReport:
    """Write an adapter file with the updates of another program's LoRA, the products unchanged.

    Where layers differ in rank, all are padded with zeros to the largest; where they differ in
    alpha / R, each one's goes into its B. The hash of the base stays open, for the file does not
    tell on which weights it was trained.

    Args:
        source: The LoRA.
        choice: What it does not say of itself.
        out: The adapter file.
        force: True: a file that is there is replaced.

    Raises:
        AdapterError: The LoRA is damaged, cannot be applied whole, or does not fit the base; or it
            changes biases or norms, which an adapter file cannot hold.
        WeightsError: The base is missing or damaged.
        OutputError: A file is there, or cannot be written.
    """
    if out.exists() and not force:
        raise OutputError(f"{out} is there already", hint="write over it with --force")
    lora = read_foreign(source)
    if lora.deltas:
        many = len(lora.deltas) > 1
        places = "biases, norms or whole weights" if many else "bias, norm or whole weight"
        raise AdapterError(
            f"{source} changes {len(lora.deltas)} {places} "
            f"({next(iter(lora.deltas))[:120]}), which an adapter file cannot hold",
            hint=f"use it as it is: dcgrid edit ... --lora {source}",
        )
    model = choice.base.spec
    check_foreign_fit(lora, choice.base.parameter_shapes())
    tensors, rank, alpha = _even(lora)
    spec = AdapterSpec(
        name=choice.name
        or re.sub(r"[^A-Za-z0-9_-]+", "-", source.stem).strip("-")[:100]
        or "imported",
        stage=choice.stage,
        mode=choice.mode,
        rank=rank,
        alpha=alpha,
        targets=tuple(lora.layers),
        given="clean" if model.per_cell_time else "replace",
        given_first=model.given_first,
        base=model.name,
        recipe=f"imported from {source.name}, {lora.scale_line}",
    )
    write_adapter(spec, tensors, out)
    count = len(lora.layers)
    return LoadReport(spec=spec, matched=count, total=count, mean_delta=mean_update(spec, tensors))


def _even(lora: ForeignLora) -> tuple[dict[str, Tensor], int, float]:
    """Return tensors of one rank and one alpha, the rank, the alpha."""
    factors = list(lora.layers.values())
    rank, scale = lora.ranks[-1], factors[0].scale
    # One alpha for all may stay one, unless it turns the update around, which ours cannot.
    alike = scale > 0 and all(one.scale == scale for one in factors)
    tensors: dict[str, Tensor] = {}
    for place, one in lora.layers.items():
        down_RD, up_DR = _padded(one, rank, 1.0 if alike else one.scale)
        tensors[side_key(place, "lora_A")] = down_RD
        tensors[side_key(place, "lora_B")] = up_DR
    return tensors, rank, scale * rank if alike else float(rank)


def _padded(one: Factors, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return A and B of a larger rank, the scale in B, with the same product."""
    lacking = rank - len(one.down_RD)
    down_RD, up_DR = _plain(one.down_RD), _plain(one.up_DR)
    if scale != 1.0:
        up_DR = up_DR.float() * scale
    return functional.pad(down_RD, (0, 0, 0, lacking)), functional.pad(up_DR, (0, lacking))


def _plain(side: Tensor) -> Tensor:
    """Return a side in a dtype of adapter files; 8-bit floats are none."""
    kept = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return side if side.dtype in kept else side.float()
