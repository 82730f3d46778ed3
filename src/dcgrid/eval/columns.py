"""The metrics there are, as columns; what each needs. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from dcgrid.eval.results import Better

Slot = Literal["clip", "dino", "arcface", "sface", "faces", "flow", "lpips"]
"""What a metric measures with; "faces": ArcFace, or SFace where that is not here."""
Need = Literal["prompt", "truth", "subject", "other", "scenes"]
"""What a case may lack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric."""

    key: str
    """Short name, e.g. "id"."""
    label: str
    """Head of the column."""
    title: str
    """What it measures, in a sentence."""
    better: Better
    """Which way is better."""
    digits: int
    """Digits behind the point in tables."""
    slot: Slot | None = None
    """What it measures with; None: nothing but arithmetic."""
    needs: tuple[Need, ...] = ()
    """What a case must have, beside source and result."""
    least: float | None = None
    """Its smallest value, of a share; None: it has none that matters."""
    most: float | None = None
    """Its largest value; None: it has none."""
    of_source: float | None = None
    """Its value where the result is the source; None: it has no such value."""

    @property
    def ranks(self) -> bool:
        """True: tries at an edit can be ranked by it, with nothing but clip, try and text."""
        return self.better != "neither" and set(self.needs) <= {"prompt"}


_ALL = (
    Metric(
        key="id",
        label="ID",
        title="Is it the same person? Cosine of ArcFace embeddings of source and result.",
        better="higher",
        digits=4,
        slot="arcface",
        most=1.0,
        of_source=1.0,
    ),
    Metric(
        key="id_sface",
        label="face (SFace)",
        title="Is it the same person? Cosine of SFace embeddings; not the paper's ID.",
        better="higher",
        digits=4,
        slot="sface",
        most=1.0,
        of_source=1.0,
    ),
    Metric(
        key="id_scenes",
        label="ID, scenes",
        title="Is it the same person in every scene? Mean ArcFace cosine with the other scenes.",
        better="higher",
        digits=4,
        slot="arcface",
        needs=("scenes",),
        most=1.0,
    ),
    Metric(
        key="id_sface_scenes",
        label="face (SFace), scenes",
        title="The same with SFace; not the paper's ID.",
        better="higher",
        digits=4,
        slot="sface",
        needs=("scenes",),
        most=1.0,
    ),
    Metric(
        key="face_kept",
        label="face kept",
        title="Part of the frames with a face in which the result has one, too.",
        better="higher",
        digits=3,
        slot="faces",
        least=0.0,
        most=1.0,
        of_source=1.0,
    ),
    Metric(
        key="subject",
        label="subject",
        title="Is it the same subject? Cosine of DINO embeddings of source and result.",
        better="higher",
        digits=4,
        slot="dino",
        most=1.0,
        of_source=1.0,
    ),
    Metric(
        key="ct",
        label="C-T",
        title="Does it show what the prompt says? Cosine of CLIP's embeddings.",
        better="higher",
        digits=4,
        slot="clip",
        needs=("prompt",),
        most=1.0,
    ),
    Metric(
        key="tc",
        label="TC",
        title="Are consecutive frames alike? Cosine of DINO embeddings.",
        better="higher",
        digits=4,
        slot="dino",
        most=1.0,
    ),
    Metric(
        key="motion",
        label="motion",
        title="Does it move as the source does? Agreement of optical flow, 0 to 1.",
        better="higher",
        digits=3,
        slot="flow",
        least=0.0,
        most=1.0,
        of_source=1.0,
    ),
    Metric(
        key="flicker",
        label="flicker",
        title="Change of colours along the motion, in grey levels of 255.",
        better="lower",
        digits=2,
        slot="flow",
    ),
    Metric(
        key="change",
        label="change",
        title="How far colours are from the source's, Delta E of 1976.",
        better="neither",
        digits=2,
    ),
    Metric(
        key="change_subject",
        label="change of subject",
        title="How far the subject's colours are from the source's, Delta E of 1976.",
        better="neither",
        digits=2,
        needs=("subject",),
    ),
    Metric(
        key="change_background",
        label="change of background",
        title="How far colours beside the subject are from the source's, Delta E of 1976.",
        better="neither",
        digits=2,
        needs=("subject",),
    ),
    Metric(
        key="psnr",
        label="PSNR",
        title="Distance from the known truth in dB.",
        better="higher",
        digits=2,
        needs=("truth",),
    ),
    Metric(
        key="ssim",
        label="SSIM",
        title="Likeness of structure to the known truth, up to 1.",
        better="higher",
        digits=4,
        needs=("truth",),
        most=1.0,
    ),
    Metric(
        key="lpips",
        label="LPIPS",
        title="Learned distance from the known truth (VGG).",
        better="lower",
        digits=4,
        slot="lpips",
        needs=("truth",),
    ),
    Metric(
        key="leak",
        label="leak",
        title="How far the result went from the truth towards the other clip; 1: all the way.",
        better="lower",
        digits=3,
        needs=("truth", "other"),
    ),
)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.key: metric for metric in _ALL})
"""All metrics by key, in the order of columns."""
