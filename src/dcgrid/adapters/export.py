"""Write an adapter for other programs: PEFT, diffusers, ComfyUI, kohya's trainers.

A structured adapter becomes a plain one of the same rank, for A1 B1 + A1 B2 = A1 (B1 + B2).

    peft        FOLDER/adapter_model.safetensors and FOLDER/adapter_config.json
    diffusers   one file, transformer.<layer>.lora_A.weight ..., LoraConfig in its metadata
    comfyui     one file, diffusion_model.<Wan's own layer>.lora_A.weight ..., .alpha; Wan only
    kohya       one file, lora_unet_<Wan's own layer>.lora_down.weight ..., .alpha; Wan only

Letters: D width, R rank.
"""

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from dcgrid.adapters.reading import (
    KEY_PREFIX,
    OUTPUT_SIDE,
    check_finite,
    layer_names,
    product_sides,
    read_adapter,
    side_key,
)
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.adapters.wan_names import original_name
from dcgrid.errors import AdapterError, OutputError
from dcgrid.io.atomic import write_whole

Target = Literal["peft", "diffusers", "comfyui", "kohya"]
"""For which program."""
_DIFFUSERS_PREFIX = "transformer."


def export_adapter(source: Path, target: Target, out: Path, *, force: bool = False) -> list[Path]:
    """Write a plain copy of an adapter file.

    Args:
        source: A file of this program.
        target: For which program.
        out: Folder for peft, file for the others.
        force: True: write over what is there.

    Returns:
        The files written.

    Raises:
        AdapterError: The file is damaged, or the program knows no such model.
        OutputError: Something is in the way, or cannot be written.
    """
    spec, tensors = read_adapter(source)
    check_finite(tensors, source)
    plain = _plain_tensors(spec, tensors)
    # PEFT's LoraConfig; the layers by their full names.
    config = {
        "peft_type": "LORA",
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(layer_names("plain", plain)),
        "base_model_name_or_path": spec.base,
    }
    files: dict[Path, bytes] = {}
    if target == "peft":
        files[out / "adapter_model.safetensors"] = save(plain, metadata={"format": "pt"})
        files[out / "adapter_config.json"] = json.dumps(config, indent=2, sort_keys=True).encode()
    elif target == "diffusers":
        renamed = {
            _DIFFUSERS_PREFIX + key.removeprefix(KEY_PREFIX): tensor
            for key, tensor in plain.items()
        }
        # diffusers looks for each value under the name of the part that it is for.
        prefixed = {f"{_DIFFUSERS_PREFIX}{key}": value for key, value in config.items()}
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(prefixed, sort_keys=True)}
        files[out] = save(renamed, metadata=metadata)
    else:
        written = _wan_tensors(spec, plain, _original_names(source, spec, plain), target)
        files[out] = save(written, metadata={"format": "pt"})
    _write_all(files, force=force)
    return list(files)


def _plain_tensors(spec: AdapterSpec, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return A and B of every layer under PEFT's keys, in the dtype of the file."""
    plain: dict[str, Tensor] = {}
    for place in layer_names(spec.form, tensors):
        down_RD, up_DR = product_sides(spec.form, tensors, place)
        dtype = tensors[side_key(place, OUTPUT_SIDE[spec.form])].dtype
        plain[side_key(place, "lora_A")] = down_RD.to(dtype).contiguous()
        plain[side_key(place, "lora_B")] = up_DR.to(dtype).contiguous()
    return plain


def _original_names(path: Path, spec: AdapterSpec, plain: dict[str, Tensor]) -> dict[str, str]:
    """Return the name in Wan's own code of each layer.

    Raises:
        AdapterError: A layer is none of Wan's.
    """
    names = {place: original_name(place) for place in layer_names("plain", plain)}
    odd = [place for place, name in names.items() if name is None]
    if odd:
        raise AdapterError(
            f"{path} is an adapter for {spec.base or 'another model'}, whose layer {odd[0]} Wan "
            "lacks; of the models of dcgrid, ComfyUI and kohya's trainers know only Wan",
            hint="--for peft and --for diffusers go for every model",
        )
    return {place: name for place, name in names.items() if name is not None}


def _wan_tensors(
    spec: AdapterSpec, plain: dict[str, Tensor], names: dict[str, str], target: Target
) -> dict[str, Tensor]:
    """Return A, B and alpha of every layer under the keys of ComfyUI or of kohya's trainers."""
    kohya = target == "kohya"
    down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    tensors: dict[str, Tensor] = {}
    for place, name in names.items():
        start = f"lora_unet_{name.replace('.', '_')}" if kohya else f"diffusion_model.{name}"
        up_DR = plain[side_key(place, "lora_B")]
        if kohya or (spec.scale != 1 and place.startswith("blocks.")):
            tensors[f"{start}.alpha"] = torch.tensor(spec.alpha, dtype=torch.float32)
        elif spec.scale != 1:
            # diffusers, which loads these files too, knows an alpha inside the blocks alone.
            up_DR = (up_DR.float() * spec.scale).to(up_DR.dtype)
        tensors[f"{start}.{down}.weight"] = plain[side_key(place, "lora_A")]
        tensors[f"{start}.{up}.weight"] = up_DR
    return tensors


def _write_all(files: dict[Path, bytes], *, force: bool) -> None:
    """Write each file whole, or none where one is in the way."""
    for path in files:
        if path.exists() and not force:
            raise OutputError(f"{path} is there already", hint="write over it with --force")
        if path.parent.is_file():
            raise OutputError(f"{path.parent} is a file, not a folder")
    for path, content in files.items():
        write_whole(path, content)
