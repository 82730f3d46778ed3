"""Scores of one result, `score_case`: what of a case each metric is given; tries ranked by them.

`make_ranker` makes what `dcgrid edit --candidates N --rank id,ct,tc` ranks with.

Letters: T frames, P pairs of consecutive frames, H W height/width, C the 3 colours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.errors import UsageError, WeightsError
from dcgrid.eval import metrics
from dcgrid.eval.columns import METRICS, Metric, Slot
from dcgrid.eval.encoders.encoders import Encoders
from dcgrid.eval.encoders.flow import SMALLEST as SMALLEST_FLOW
from dcgrid.eval.encoders.flow import flow_size
from dcgrid.eval.encoders.lpips import SMALLEST as SMALLEST_LPIPS
from dcgrid.eval.encoders.preprocess import chunks, resize
from dcgrid.eval.results import Score
from dcgrid.pipelines.ranking import Measure

__all__ = ["METRICS", "Case", "Encoders", "Metric", "score_case"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A result and what it is compared with; all frames uint8, RGB.

    Sizes and lengths may differ. Where pixels are compared, all is brought to the size of the
    result (a frame of another shape is stretched) and to its frames, each with the one at the same
    relative time; faces and embeddings are of the frames as they are.
    """

    source_THWC: Tensor
    """What was edited."""
    result_THWC: Tensor
    """What came of it."""
    prompt: str
    """What it should show; empty: nothing was said."""
    fps: float
    """Frames per second of the result; no metric depends on it."""
    truth_THWC: Tensor | None = None
    """What the result should be; None: not known."""
    subject_THW: Tensor | None = None
    """True where the source shows its subject, as long and large as it; None: not known."""
    other_THWC: Tensor | None = None
    """Of a composition, the clip that should not be seen beyond what the truth has of it."""
    scenes: tuple[Tensor, ...] = ()
    """The other scenes of the result's story."""

    def __post_init__(self) -> None:
        """Refuse what are no frames.

        Raises:
            ValueError: A caller's bug.
        """
        for name in ("source_THWC", "result_THWC", "truth_THWC", "other_THWC"):
            frames = getattr(self, name)
            if frames is None:
                continue
            if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
                raise ValueError(f"{name} is {frames.dtype} {tuple(frames.shape)}")
        mask, size = self.subject_THW, self.source_THWC.shape[:3]
        if mask is not None and (mask.dtype != torch.bool or mask.shape != size):
            raise ValueError(f"subject_THW is {mask.dtype} {tuple(mask.shape)}, not {tuple(size)}")


def score_case(case: Case, keys: Sequence[str], encoders: Encoders) -> dict[str, Score]:
    """Return the scores of a case by key, in the order of the keys.

    A score that cannot be measured has no value and says why; the others are not kept from it.

    Args:
        case: The result and what it is compared with.
        keys: Keys of METRICS.
        encoders: The networks; what they know of the source is used again for its next result.

    Raises:
        KeyError: There is no such metric: a caller's bug.
    """
    views = _Views(case, encoders)
    scores = {}
    for key in keys:
        metric = METRICS[key]
        reason = _missing(case, metric) or encoders.unavailable(metric.slot)
        scores[key] = Score(value=None, reason=reason) if reason else _MEASURES[key](views)
    return scores


def fit(frames_THWC: Tensor, count: int, height: int, width: int) -> Tensor:
    """Return frames at the times and the size of another clip, uint8.

    Args:
        frames_THWC: Frames, uint8, at least one.
        count: Frames of the other clip; each gets the frame at the same relative time.
        height: Its height in pixels.
        width: Its width in pixels.
    """
    at = list(metrics.matched_frames(len(frames_THWC), count))
    if at == list(range(len(frames_THWC))) and frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    pieces = [resize(some, height, width, "bilinear") for some in chunks(frames_THWC[at])]
    return torch.cat(pieces)


class _Views:
    """A case as metrics take it; what several of them take is made once."""

    def __init__(self, case: Case, encoders: Encoders) -> None:
        self.case, self.encoders = case, encoders
        self._fitted: dict[str, Tensor] = {}

    def fitted(self, name: str) -> Tensor:
        """Return the frames of a field of the case at the result's times and size."""
        if name not in self._fitted:
            count, height, width = self.case.result_THWC.shape[:3]
            self._fitted[name] = fit(getattr(self.case, name), count, height, width)
        return self._fitted[name]

    def small(self, name: str) -> Tensor:
        """Return the same frames at the size at which flow is measured."""
        key = f"small {name}"
        if key not in self._fitted:
            count, *size = self.case.result_THWC.shape[:3]
            self._fitted[key] = fit(getattr(self.case, name), count, *flow_size(*size))
        return self._fitted[key]

    def subject(self) -> Tensor:
        """Return the subject's mask at the result's times and size.

        Raises:
            ValueError: The case has none: a caller's bug.
        """
        if self.case.subject_THW is None:
            raise ValueError("no mask")
        count, *size = self.case.result_THWC.shape[:3]
        at = list(metrics.matched_frames(len(self.case.subject_THW), count))
        floats_TCHW = self.case.subject_THW[at].float()[:, None]
        return F.interpolate(floats_TCHW, size=size, mode="nearest-exact")[:, 0] > 0.5

    def flow(self, name: str, way: str) -> Tensor:
        """Return the flow PHW2 of a field of the case, "forward" or "backward"."""
        read: Callable[[Tensor], Tensor] = getattr(self.encoders.get("flow"), way)
        return self.encoders.remembered(way, self.small(name), read)

    def dino(self, frames_THWC: Tensor) -> Tensor:
        """Return the embeddings TE of frames as they are."""
        encode: Callable[[Tensor], Tensor] = self.encoders.get("dino").frames
        return self.encoders.remembered("dino", frames_THWC, encode)

    def faces(self, slot: Slot, frames_THWC: Tensor) -> tuple[metrics.FrameFaces, ...]:
        """Return the faces of frames as they are."""
        reader = self.encoders.get(slot)
        # By its label: "faces" is one of the other two.
        read: Callable[[Tensor], tuple[metrics.FrameFaces, ...]] = reader.read
        return self.encoders.remembered(self.encoders.label(slot), frames_THWC, read)


def _missing(case: Case, metric: Metric) -> str:
    """Return what a metric lacks in a case; empty: nothing."""
    lacking = {
        "prompt": ("no prompt", not case.prompt.strip()),
        "truth": ("no known truth", case.truth_THWC is None),
        "subject": ("no subject mask", case.subject_THW is None),
        "other": ("no other clip", case.other_THWC is None),
        "scenes": ("no other scene", not case.scenes),
    }
    for need in metric.needs:
        reason, is_missing = lacking[need]
        if is_missing:
            return reason
    given = (case.source_THWC, case.result_THWC, case.truth_THWC, case.other_THWC)
    if any(frames is not None and not frames.numel() for frames in given):
        return "no frames"
    return ""


def _identity(views: _Views, slot: Slot) -> Score:
    case = views.case
    return metrics.identity(
        views.faces(slot, case.source_THWC), views.faces(slot, case.result_THWC)
    )


def _identity_in_scenes(views: _Views, slot: Slot) -> Score:
    """Return the mean identity of a scene with each of the others that show a face."""
    own = views.faces(slot, views.case.result_THWC)
    found = [metrics.identity(own, views.faces(slot, scene)) for scene in views.case.scenes]
    values = [score.value for score in found if score.value is not None]
    if not values:
        return Score(value=None, reason=found[0].reason)
    return Score(value=sum(values) / len(values))


def _face_kept(views: _Views) -> Score:
    case = views.case
    return metrics.face_kept(
        views.faces("faces", case.source_THWC), views.faces("faces", case.result_THWC)
    )


def _subject(views: _Views) -> Score:
    case = views.case
    return metrics.subject_similarity(views.dino(case.source_THWC), views.dino(case.result_THWC))


def _clip_text(views: _Views) -> Score:
    encoder = views.encoders.get("clip")
    frames_TE = views.encoders.remembered("clip", views.case.result_THWC, encoder.frames)
    return metrics.clip_text(encoder.text(views.case.prompt), frames_TE)


def _motion(views: _Views) -> Score:
    if reason := _too_small_for_flow(views):
        return Score(value=None, reason=reason)
    source_PHW2, result_PHW2 = (views.flow(f"{name}_THWC", "forward") for name in _BOTH)
    return metrics.motion_agreement(source_PHW2, result_PHW2)


def _flicker(views: _Views) -> Score:
    if reason := _too_small_for_flow(views):
        return Score(value=None, reason=reason)
    forward, backward = (views.flow("result_THWC", way) for way in ("forward", "backward"))
    return metrics.flicker(views.small("result_THWC"), forward, backward)


def _too_small_for_flow(views: _Views) -> str:
    height, width = views.case.result_THWC.shape[1:3]
    small = min(flow_size(height, width)) < SMALLEST_FLOW
    return f"frames of {width}x{height} are too small for optical flow" if small else ""


def _change(views: _Views, mask_THW: Tensor | None = None) -> Score:
    return metrics.change(views.fitted("source_THWC"), views.case.result_THWC, mask_THW)


def _lpips(views: _Views) -> Score:
    if min(views.case.result_THWC.shape[1:3]) < SMALLEST_LPIPS:
        return Score(value=None, reason=f"frames of less than {SMALLEST_LPIPS} pixels")
    network = views.encoders.get("lpips")
    return metrics.lpips(network.distances(views.case.result_THWC, views.fitted("truth_THWC")))


def _leak(views: _Views) -> Score:
    own, other = views.fitted("truth_THWC"), views.fitted("other_THWC")
    return metrics.leak(views.case.result_THWC, own, other)


_BOTH = ("source", "result")
_MEASURES: Mapping[str, Callable[[_Views], Score]] = MappingProxyType(
    {
        "id": lambda views: _identity(views, "arcface"),
        "id_sface": lambda views: _identity(views, "sface"),
        "id_scenes": lambda views: _identity_in_scenes(views, "arcface"),
        "id_sface_scenes": lambda views: _identity_in_scenes(views, "sface"),
        "face_kept": _face_kept,
        "subject": _subject,
        "ct": _clip_text,
        "tc": lambda v: metrics.temporal_coherence(v.dino(v.case.result_THWC)),
        "motion": _motion,
        "flicker": _flicker,
        "change": _change,
        "change_subject": lambda views: _change(views, views.subject()),
        "change_background": lambda views: _change(views, ~views.subject()),
        "psnr": lambda v: metrics.psnr(v.case.result_THWC, v.fitted("truth_THWC")),
        "ssim": lambda v: metrics.ssim(v.case.result_THWC, v.fitted("truth_THWC")),
        "lpips": _lpips,
        "leak": _leak,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRanker:
    """Measures tries with the metrics of evaluations."""

    keys: tuple[str, ...]
    """Metrics, the one that decides ties first; none: nothing asked for can be measured."""
    encoders: Encoders
    """The networks they need."""
    notes: tuple[str, ...] = ()
    """What was asked for and is left out, since it cannot be measured here."""

    def measure(
        self, given_THWC: Tensor, made_THWC: Tensor, text: str, fps: float
    ) -> Mapping[str, Measure]:
        """Measure a try; see `dcgrid.pipelines.ranking.Ranker`."""
        case = Case(source_THWC=given_THWC, result_THWC=made_THWC, prompt=text, fps=fps)
        scores = score_case(case, self.keys, self.encoders)
        return {
            key: Measure(
                label=METRICS[key].label,
                value=score.value,
                higher_is_better=METRICS[key].better == "higher",
                reason=score.reason,
            )
            for key, score in scores.items()
        }


def make_ranker(
    keys: Sequence[str], device: str, *, weights_dir: Path | None = None
) -> MetricRanker:
    """Return a ranker, its weights checked to be here before anything is generated.

    Args:
        keys: Metrics; each must have a better side and need nothing but clip, try and text.
        device: Where networks run.
        weights_dir: Folder with weights, looked in first.

    Raises:
        UsageError: There is no such metric, or it cannot rank.
        WeightsError: Weights of one are not here. A package of an extra that is not installed is
            no error: what needs it is left out, with a note.
    """
    can = [key for key, metric in METRICS.items() if metric.ranks]
    for key in keys:
        if key not in can:
            what = "needs more than a clip and a try" if key in METRICS else "is no metric"
            raise UsageError(f"--rank: {key!r} {what}", hint=f"metrics that rank: {', '.join(can)}")
    encoders = Encoders(weights_dir=weights_dir, device=device)
    columns = encoders.columns(tuple(keys))
    lacking = {column.key: column.unavailable for column in columns if column.unavailable}
    measured = tuple(key for key in keys if key not in lacking)
    for key, why in lacking.items():
        if not encoders.lacks_package(METRICS[key].slot):
            raise WeightsError(
                f"--rank {key} cannot be measured: {why}",
                hint="see `dcgrid eval metrics`; DCGRID_WEIGHTS names a folder of weights",
            )
    ranked_by = ", ".join(measured) or "edges and brightness, as without --rank"
    notes = tuple(
        f"Ranked by {ranked_by}: {key} cannot be measured here, {why}"
        for key, why in lacking.items()
    )
    return MetricRanker(keys=measured, encoders=encoders, notes=notes)
