"""The autoencoder: generated cells against the whole canvas, and number formats: c6 and g6."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from benchmarks.wan import timing
from benchmarks.wan.shapes import Place

Foreign: TypeAlias = Any
"""A module of diffusers."""


def c6(place: Place) -> None:
    """Decode the generated cells of four, and the whole canvas; then bfloat16, channels last."""
    _decode(place, base=8 if place.small else 16, frames=2 if place.small else 5, side=(6, 8))


def g6(place: Place) -> None:
    """As c6 with the real autoencoder and 832x480x81; with the peak of memory."""
    if place.small:
        _decode(place, base=8, frames=2, side=(6, 8))
    else:
        _decode(place, base=96, frames=21, side=(30, 52))


def _decode(place: Place, *, base: int, frames: int, side: tuple[int, int]) -> None:
    vae, light = _vae(base, place.device), _vae(base, place.device)
    light = light.to(torch.bfloat16)
    for parameter in light.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(4, 1, 16, frames, *side, generator=generator).to(place.device)
    canvas = torch.cat(
        [torch.cat([cells[0], cells[1]], -1), torch.cat([cells[2], cells[3]], -1)], -2
    )
    _same_alone(vae, cells)
    ways: dict[str, Callable[[], object]] = {"canvas": partial(_decoded, vae, [canvas])}
    for generated in (4, 3, 2, 1):
        ways[f"{generated} of 4 cells"] = partial(_decoded, vae, list(cells[4 - generated :]))
    ways["canvas, bf16 channels last"] = partial(_decoded, light, [canvas])
    times = timing.in_turn(ways, place.device, 3)
    error = _error(_decoded(light, [cells[0]]), _decoded(vae, [cells[0]]))
    title = f"autoencoder of {base} channels, {frames} latent frames; bf16 error {error:.1e}"
    timing.tell(title, times, "canvas")
    for name, way in ways.items() if place.device.type == "cuda" else ():
        torch.cuda.reset_peak_memory_stats(place.device)
        way()
        peak = torch.cuda.max_memory_allocated(place.device) / 2**30
        print(f"  {name}: peak {peak:.1f} GiB")


def _vae(base: int, device: torch.device) -> Foreign:
    import diffusers

    torch.manual_seed(0)
    with torch.device(device):
        vae: Foreign = diffusers.AutoencoderKLWan(base_dim=base, z_dim=16)
    return vae.eval().requires_grad_(False)


def _decoded(vae: Foreign, latents: list[Tensor]) -> Tensor:
    """Decode each latent alone; return the last."""
    dtype = next(vae.parameters()).dtype
    with torch.no_grad():
        videos = [vae.decode(one.to(dtype), return_dict=False)[0] for one in latents]
    return videos[-1]


def _same_alone(vae: Foreign, cells: Tensor) -> None:
    """Check that a cell decoded after another is as if decoded alone: nothing is carried over."""
    timing.same(_decoded(vae, [cells[0], cells[1]]), _decoded(vae, [cells[1]]), 1e-6)


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())
