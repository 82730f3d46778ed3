"""Generates latents from texts and noise, no cell given: what stages `cells` and `sample` share.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns, A adapters.

Paper: sec. 3.2 (Sampling Grids)
"""

import json
from typing import Any

import torch

from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import SampleSettings, VelocityFn, sample, with_guidance
from dcgrid.flow.schedule import Schedule
from dcgrid.flow.self_conditioning import self_conditioned, unconditioned
from dcgrid.grid.layout import GridLayout
from dcgrid.models.trunk import GridTransformer, TextReader
from dcgrid.runtime.device import autocast, choose_dtype
from dcgrid.train.facts import train_facts
from dcgrid.train.grids import GRID, token_places
from dcgrid.train.sampling import GenerateJob, SamplerNumbers


def generate_facts(job: GenerateJob, number: int, numbers: SamplerNumbers) -> dict[str, Any]:
    """Return what a generated grid says of itself: how it was sampled, not with which weights."""
    recipe = job.recipe
    return {
        "number": number,
        "stage": job.stage,
        "mode": job.mode,
        "model": job.model,
        "frames": recipe.frames,
        "size": recipe.size_of(number),
        "seed": recipe.seed,
        "num_inference_steps": recipe.num_inference_steps,
        "guidance_scale": recipe.guidance_scale,
        "noise_scale": numbers.noise_scale,
        "time_shift": numbers.time_shift,
        # Grids of networks that take no estimate say nothing of it: they stay what they are.
        **({"self_conditioning": True} if numbers.self_conditioning else {}),
        "dc_strength": recipe.dc_strength,
    }


def as_read_back(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts as they come out of a file: tuples are lists there."""
    read_back: dict[str, Any] = json.loads(json.dumps(facts))
    return read_back


def draw_grid_noise(job: GenerateJob, number: int) -> torch.Tensor:
    """Draw the noise of a grid, BKCFYX with B = 1."""
    recipe = job.recipe
    size_THW = (recipe.frames, *recipe.size_of(number))
    return grid_noise(job.model, size_THW, recipe.seed_of(number), job.device)


def grid_noise(
    model: str, size_THW: tuple[int, int, int], seed: int, device: torch.device
) -> torch.Tensor:
    """Draw the noise of a grid whose cells have a size in pixels, BKCFYX with B = 1."""
    facts, (frames, height, width) = train_facts(model), size_THW
    stride_T, stride_HW = facts.geometry.stride_T, facts.geometry.stride_HW
    shape = (
        1,
        GRID.count,
        facts.latent_channels,
        (frames - 1) // stride_T + 1,
        height // stride_HW,
        width // stride_HW,
    )
    return draw_noise(shape, seed, device=device, motion=facts.noise_motion)


@torch.no_grad()
def generate_cells(
    networks: tuple[GridTransformer, TextReader],
    rows: list[list[str]],
    noise_BKCFYX: torch.Tensor,
    numbers: SamplerNumbers,
    layout: GridLayout,
    route_KA: torch.Tensor | None = None,
) -> torch.Tensor:
    """Generate all cells of grids from noise, guided against the empty text.

    Args:
        networks: Transformer with its adapters, and text encoder.
        rows: Texts that each cell reads, B * K lists.
        noise_BKCFYX: Where sampling starts.
        numbers: Steps, guidance, noise scale and time shift.
        layout: How the K cells of a grid lie.
        route_KA: Which adapter acts on which cell, where any is routed.

    Returns:
        Normalised latents, float32, BKCFYX.
    """
    dit, encoder = networks
    device, cells = noise_BKCFYX.device, layout.count
    places = token_places(noise_BKCFYX, layout, dit)
    precision = choose_dtype("auto", device)

    def reading(rows: list[list[str]]) -> VelocityFn:
        with autocast(device, precision):
            text = encoder.read_rows(rows, cells)

        def velocity(
            cells_BKCFYX: torch.Tensor,
            time_BKF: torch.Tensor,
            estimate_BKCFYX: torch.Tensor | None,
        ) -> torch.Tensor:
            with autocast(device, precision):
                predicted: torch.Tensor = dit(
                    cells_BKCFYX, time_BKF, text, places, route_KA, estimate_BKCFYX
                )
            return predicted.float()

        feeds_back = numbers.self_conditioning
        return self_conditioned(velocity) if feeds_back else unconditioned(velocity)

    fill_K = torch.ones(cells, dtype=torch.bool)
    empty = reading([[""]] * len(rows))
    return sample(
        with_guidance(reading(rows), empty, numbers.guidance_scale, fill_K),
        torch.zeros_like(noise_BKCFYX),
        noise_BKCFYX,
        fill_K,
        SampleSettings(
            schedule=Schedule(
                num_inference_steps=numbers.num_inference_steps, shift=numbers.time_shift
            ),
            noise_scale=numbers.noise_scale,
        ),
    )
