"""A small Wan checkout with random weights, in the layout of diffusers, and pixels from it.

Letters: see models/base.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.small_wan import small_tokenizer
from dcgrid.flow.sampler import SampleSettings, combine_guidance, sample
from dcgrid.flow.schedule import Schedule
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.models.base import TokenPlaces

CORPUS = [
    "a dog runs over the grass in heavy rain while smoke drifts across the scene",
    "this grid of videos illustrates the creative fusion of a cat and a burning flame",
    "top left top right bottom left bottom right performing the exact same motion",
    "moonlit night golden hour fog snow sparks water light streaks falling",
]


def write_checkout(folder: Path) -> None:
    """Write a whole pipeline with `save_pretrained`, so that the layout is diffusers' own."""
    import diffusers
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        transformer = diffusers.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            out_channels=4,
            text_dim=32,
            freq_dim=16,
            ffn_dim=40,
            num_layers=2,
            rope_max_seq_len=128,
        )
        vae = diffusers.AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 1.0, 2.0],
        )
        tokenizer = small_tokenizer(folder.parent / "spiece", CORPUS, 120)
        encoder = transformers.UMT5EncoderModel(
            transformers.UMT5Config(
                vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4
            )
        )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder.eval(),
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=transformer.eval(),
    ).save_pretrained(folder)


def start_noise() -> Tensor:
    """Return the noise that both runs below start from: 5 frames of 32x48."""
    return torch.randn(1, 4, 2, 4, 6, generator=torch.Generator().manual_seed(4))


def pipeline_frames(pipeline: Any, *, steps: int, guidance: float) -> Tensor:
    """Return frames BTCHW in [0, 1] that the pipeline of diffusers makes, at our times."""
    import diffusers

    class OurTimes(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
        def set_timesteps(self, count: int, device: Any = None, **_: Any) -> None:
            super().set_timesteps(sigmas=np.linspace(1, 0, count + 1)[:-1], device=device)

    pipeline.scheduler = OurTimes(shift=3.0)
    pipeline.set_progress_bar_config(disable=True)
    frames: Tensor = pipeline(
        prompt="a dog in rain",
        negative_prompt="fog",
        height=32,
        width=48,
        num_frames=5,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=start_noise(),
        output_type="pt",
    ).frames
    return frames


def our_frames(backbone: Any, *, steps: int, guidance: float) -> Tensor:
    """Return the same frames from our sampler: text to video, one cell."""
    layout, shape = GridLayout(rows=1, cols=1), TokenShape(frames=2, rows=2, cols=3)
    places = TokenPlaces(
        coordinates_S3=token_coordinates(layout, shape, None),
        position_S=grid_positions(layout, shape),
    )

    texts = [
        backbone.parts.segments.encode_rows([[words]], cells=1)
        for words in ("a dog in rain", "fog")
    ]

    def velocity(cells: Tensor, time: Tensor) -> Tensor:
        found = [backbone.velocity(cells, time, text, places) for text in texts]
        return combine_guidance(found[0], found[1], guidance, fill_K)

    fill_K = torch.ones(1, dtype=torch.bool)
    latents = sample(
        velocity,
        torch.zeros(1, 1, 4, 2, 4, 6),
        start_noise()[:, None],
        fill_K,
        SampleSettings(
            schedule=Schedule(num_inference_steps=steps, shift=backbone.spec.time_shift),
            solver="euler",
            given="replace",
        ),
    )
    frames: Tensor = ((backbone.decode(latents[:, 0]) + 1) / 2).movedim(1, 2)
    return frames
