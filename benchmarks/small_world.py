"""A world of a few small pictures and recipes for it, with which `tiny` trains in seconds."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import save_file

from dcgrid.recipes import shipped_dir
from dcgrid.train.settings import load_train_recipe

LOSSES = {
    "autoencoder": {"effect_share": 0.3, "fit_batches": 4.0},
    "base": {"fresh": 0.3},
    "upsampler": {"fresh": 0.3},
    "dc": {"rank": 4.0},
    "grid": {"fresh": 0.3, "rank": 4.0, "dropout": 0.0, "dc_strength": 0.0},
    "fill": {
        "fresh": 0.3,
        "edit_share": 0.75,
        "window_share": 0.25,
        "dc_strength": 0.0,
        "rank": 4.0,
        "dropout": 0.5,
    },
}
"""What a small run changes of the shipped recipe's losses."""


def write_small_world(folder: Path) -> Path:
    """Write a store with two photos, two sprites and a clip, small and large; return its folder."""
    generator = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randint(256, shape, generator=generator).to(torch.uint8)

    sprites = {name: noise(6, 4, 24, 24) for name in ("dog face", "hot-air balloon")}
    for sprite_TCHW in sprites.values():
        sprite_TCHW[:, 3] = 255
    save_file(
        {"beach": noise(3, 64, 96), "street": noise(3, 80, 64)}, folder / "photos.safetensors"
    )
    save_file(sprites, folder / "sprites.safetensors")
    save_file({"walk.mp4": noise(3, 11, 48, 64)}, folder / "footage.safetensors")
    save_file({"walk.mp4-0": noise(3, 5, 96, 128)}, folder / "details.safetensors")
    return folder


def write_small_recipe(
    folder: Path,
    name: str,
    *,
    steps: int = 4,
    precision: str = "fp32",
    rate: str = "2e-3",
    log: str = "eval_every = 0\ntensorboard = false\n",
    loss: Mapping[str, float] = MappingProxyType({}),
    keys: str = "",
) -> Path:
    """Write a small recipe of a stage (or "fill-composition") and return its path."""
    recipe = load_train_recipe(shipped_dir() / "train" / f"{name}.toml", "mini")
    stage, shipped = recipe.stage, asdict(recipe.loss)
    knobs = "\n".join(f"{key} = {n}" for key, n in {**shipped, **LOSSES[stage], **loss}.items())
    path = folder / f"{name}.toml"
    path.write_text(
        f'stage = "{stage}"\nmode = "{recipe.mode}"\nprecision = "{precision}"\nseed = 3\n{keys}'
        f"[optim]\nlearning_rate = {rate}\nsteps = {steps}\nwarmup_steps = 2\n"
        "cooldown = 0.5\nema_decay = 0.9\n"
        f"[log]\n{log}"
        f"[loss]\n{knobs}\n"
        "[[phases]]\nuntil = 0.5\nframes = 1\nsizes = [[32, 32]]\nbatch = 2\n"
        f"[[phases]]\nuntil = 1.0\nframes = 5\nsizes = [[32, 32], [32, 48]]\nbatch = 2\n"
    )
    return path


def write_small_sample(folder: Path, **knobs: object) -> Path:
    """Write a small recipe of stage `sample` and return its path."""
    return _write_generating(folder, "sample", {"dc_strength": 0.0, "concept_share": 0.0, **knobs})


def write_small_cells(folder: Path, **knobs: object) -> Path:
    """Write a small recipe of stage `cells` and return its path."""
    keys = {"dc_strength": 1.0, "concepts": [], "places": ["in the sea"], "shared_noise": True}
    return _write_generating(folder, "cells", {**keys, **knobs})


def _write_generating(folder: Path, stage: str, knobs: Mapping[str, object]) -> Path:
    keys: dict[str, object] = {
        "grids": 3,
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "frames": 5,
        "sizes": [[32, 32], [32, 48]],
        "noise_scale": 1.0,
        "time_shift": 1.0,
        "seed": 3,
    }
    path = folder / f"{stage}.toml"
    # JSON's numbers, texts, truths and lists are TOML's as well.
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**keys, **knobs}.items()]
    path.write_text("\n".join([f'stage = "{stage}"', *lines, ""]))
    return path
