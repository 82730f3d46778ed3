"""Metrics as pure functions: embeddings, faces, flows or pictures in, a `Score` out.

No network is loaded here and no file is read; `dcgrid.eval.encoders` makes what these take and
`dcgrid.eval.scoring` brings both together. Definitions, sources and ranges are in
docs/evaluation.md.
"""

from dcgrid.eval.metrics.cosines import clip_text, subject_similarity, temporal_coherence
from dcgrid.eval.metrics.identity import FrameFaces, face_kept, identity
from dcgrid.eval.metrics.motion import flicker, motion_agreement
from dcgrid.eval.metrics.pictures import change, leak, lpips, lpips_distances, psnr, ssim
from dcgrid.eval.metrics.series import matched_frames

__all__ = [
    "FrameFaces",
    "change",
    "clip_text",
    "face_kept",
    "flicker",
    "identity",
    "leak",
    "lpips",
    "lpips_distances",
    "matched_frames",
    "motion_agreement",
    "psnr",
    "ssim",
    "subject_similarity",
    "temporal_coherence",
]
