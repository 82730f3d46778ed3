"""What a checkout in diffusers' Wan layout says of itself; reads JSON alone, no torch.

FOLDER/model_index.json                  which pipeline, per-frame time or not
transformer/config.json, *.safetensors (+ index when sharded)
vae/config.json, text_encoder/config.json, tokenizer/, scheduler/scheduler_config.json
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcgrid.errors import WeightsError
from dcgrid.models.base import ModelSpec, SamplerDefaults
from dcgrid.models.wan.known import KNOWN, SCHEDULES

INDEX = "model_index.json"
PARTS = ("transformer", "vae", "text_encoder")
"""Parts that have weights."""
TEXT_TO_VIDEO = "WanPipeline"
_HINT = "name a folder in the layout of diffusers, as Wan-AI/Wan2.2-TI2V-5B-Diffusers has it"
_LICENSE = "Apache-2.0"
# Guidance of Wan's own pipelines. Steps are ours: those have 50, the paper names no number.
_SAMPLER = SamplerDefaults(guidance_scale=5.0, num_inference_steps=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class WanFacts:
    """What is read from the configs of a checkout."""

    folder: Path
    """The checkout."""
    spec: ModelSpec
    """What plans, readers and samplers need."""
    transformer: dict[str, Any]
    """Config of the transformer."""
    files: dict[str, tuple[Path, ...]]
    """Weight files by part."""


def is_checkout(path: Path) -> bool:
    """Return True if a folder looks like a pipeline of diffusers."""
    return (path / INDEX).is_file()


def read_checkout(folder: Path) -> WanFacts:
    """Read the configs of a checkout and check that its weight files are there.

    Raises:
        WeightsError: It is no Wan text-to-video checkout, or a file is missing or damaged.
    """
    index = _read_json(folder / INDEX)
    if index.get("_class_name") != TEXT_TO_VIDEO:
        raise WeightsError(
            f"{folder} holds a {str(index.get('_class_name'))[:60]}, not a {TEXT_TO_VIDEO}",
            hint=_HINT,
        )
    if index.get("transformer_2", [None, None])[0] is not None:
        raise WeightsError(
            f"{folder} has two transformers, for high and low noise; dcgrid takes models with one",
            hint="wan2.2-5b and wan2.1-14b have one",
        )
    transformer, vae = (_read_json(folder / part / "config.json") for part in PARTS[:2])
    if transformer.get("image_dim") is not None:
        raise WeightsError(f"{folder} is an image-to-video model", hint=_HINT)
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    return WanFacts(
        folder=folder,
        spec=spec_of(
            folder.name,
            transformer,
            vae,
            time_shift=float(scheduler.get("flow_shift") or scheduler.get("shift") or 1.0),
            per_cell_time=bool(index.get("expand_timesteps", False)),
        ),
        transformer=transformer,
        files={part: _weight_files(folder / part) for part in PARTS},
    )


def known_spec(name: str) -> ModelSpec:
    """Return the facts of a named model that is not here, from what is known of its configs."""
    transformer, vae = KNOWN[name]
    schedule = SCHEDULES[name]
    return spec_of(
        name,
        transformer,
        vae,
        time_shift=schedule.time_shift,
        per_cell_time=schedule.per_cell_time,
    )


def spec_of(
    name: str,
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    *,
    time_shift: float,
    per_cell_time: bool,
) -> ModelSpec:
    """Return the facts of a model.

    Args:
        name: What it is called.
        transformer: Its config.
        vae: The autoencoder's.
        time_shift: Of the schedule, towards noise; > 0.
        per_cell_time: True: trained with a time for each token.
    """
    stride_HW = int(vae.get("scale_factor_spatial", 8))
    patch = tuple(int(side) for side in transformer.get("patch_size", (1, 2, 2)))
    # The layout does not say the frame rate. The autoencoder with 16 pixels a latent came with
    # models of 24 frames a second and 121 frames, the one with 8 with 16 and 81.
    fine = stride_HW < 16
    short, long = (240, 416) if fine else (352, 640)
    middle = 320 if fine else 480
    return ModelSpec(
        name=name,
        family="wan",
        stride_T=int(vae.get("scale_factor_temporal", 4)),
        stride_HW=stride_HW,
        latent_channels=int(vae.get("z_dim", 16)),
        patch=(patch[0], patch[1], patch[2]),
        fps=16.0 if fine else 24.0,
        default_frames=81 if fine else 121,
        max_frames=81 if fine else 121,
        cell_sizes=((short, long), (long, short), (middle, middle)),
        noise_scale=1.0,
        time_shift=time_shift,
        text_limit=512,
        per_cell_time=per_cell_time,
        given_first=False,
        own_clause_only=False,
        negative_text=True,
        cell_pitch=None,
        most_places=int(transformer.get("rope_max_seq_len", 1024)),
        noise_motion=(),
        offset_tokens=False,
        carried_frames=5,
        blended_frames=8,
        generates_from_text=True,
        filling=_SAMPLER,
        from_text=_SAMPLER,
        leaves_out_blocks=True,
        license=_LICENSE,
    )


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a part; pickles are never taken.

    Raises:
        WeightsError: There is none, or a shard that the index names is missing.
    """
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if indexes:
        shards = sorted(set(_read_json(indexes[0]).get("weight_map", {}).values()))
        missing = [name for name in shards if not (folder / str(name)).is_file()]
        if missing or not shards:
            raise WeightsError(
                f"{folder}: {len(missing)} of {len(shards)} shards are missing, "
                f"{missing[0] if missing else 'the index is empty'}",
                hint="fetch the model again",
            )
        return tuple(folder / str(name) for name in shards)
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        pickled = next(iter(sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))), None)
        told = f"; {pickled.name} is a pickle, which is never loaded" if pickled else ""
        raise WeightsError(f"no safetensors files in {folder}{told}", hint=_HINT)
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}", hint=_HINT) from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {error}", hint="fetch the model again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a table", hint="fetch the model again")
    return content
