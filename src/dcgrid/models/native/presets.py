"""Facts of the program's own models: what plans, readers and samplers need to know of each.

Sizes of their networks are in config.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from dcgrid.models.base import ModelSpec, SamplerDefaults
from dcgrid.models.native.config import MINI, PAPER, PAPER_SMALL, TINY, NativeConfig

MINI_SPEC = ModelSpec(
    name="mini",
    stride_T=4,
    stride_HW=8,
    latent_channels=MINI.dit.latent_channels,
    patch=(1, 2, 2),
    fps=12.0,
    default_frames=33,
    max_frames=33,
    cell_sizes=((96, 160), (160, 96), (128, 128)),
    noise_scale=1.0,
    time_shift=3.0,
    text_limit=48,
    per_cell_time=True,
    given_first=MINI.dit.given_first,
    own_clause_only=True,
    negative_text=False,
    cell_pitch=(16, 16),
    noise_motion=MINI.dit.noise_motion,
    offset_tokens=True,
    carried_frames=5,
    blended_frames=8,
    generates_from_text=False,
    # One step: it learnt to see the result at once (docs/decisions/0003).
    filling=SamplerDefaults(guidance_scale=1.0, num_inference_steps=1),
    # From noise alone one step makes no picture; the weight of the text is that of sec. 8.
    from_text=SamplerDefaults(guidance_scale=4.0, num_inference_steps=24),
    license="Apache-2.0",
)
TINY_SPEC = replace(
    MINI_SPEC,
    name="tiny",
    latent_channels=TINY.dit.latent_channels,
    text_limit=64,
    cell_pitch=None,
    noise_motion=TINY.dit.noise_motion,
    offset_tokens=False,
    blended_frames=0,
    default_frames=5,
    max_frames=9,
    cell_sizes=((32, 48), (48, 32), (32, 32)),
    # It makes noise of everything; tests tell stories with it.
    generates_from_text=True,
)
PAPER_SPEC = ModelSpec(
    name="paper",
    stride_T=8,
    stride_HW=16,
    latent_channels=PAPER.dit.latent_channels,
    patch=PAPER.dit.patch,
    fps=24.0,
    default_frames=121,
    max_frames=121,
    # Four of them are 1024x576 or 576x1024 with 9,216 tokens, what the base is trained on.
    cell_sizes=((288, 512), (512, 288), (512, 512)),
    noise_scale=1.0,
    time_shift=1.0,
    text_limit=256,
    per_cell_time=False,
    given_first=PAPER.dit.given_first,
    own_clause_only=False,
    negative_text=False,
    cell_pitch=None,
    noise_motion=PAPER.dit.noise_motion,
    offset_tokens=False,
    carried_frames=9,
    blended_frames=8,
    generates_from_text=True,
    # Guidance of sec. 8 (4 to 5); the steps are ours.
    filling=SamplerDefaults(guidance_scale=4.5, num_inference_steps=40),
    from_text=SamplerDefaults(guidance_scale=4.5, num_inference_steps=40),
    license="LicenseRef-of-whoever-trained-it",
)
PAPER_SMALL_SPEC = replace(
    PAPER_SPEC,
    name="paper-small",
    default_frames=17,
    max_frames=33,
    cell_sizes=((96, 160), (160, 96), (128, 128)),
    generates_from_text=False,
)
NATIVE: Mapping[str, tuple[ModelSpec, NativeConfig]] = MappingProxyType(
    {
        "mini": (MINI_SPEC, MINI),
        "tiny": (TINY_SPEC, TINY),
        "paper": (PAPER_SPEC, PAPER),
        "paper-small": (PAPER_SMALL_SPEC, PAPER_SMALL),
    }
)
"""Facts and sizes by name."""
