"""Metrics that are cosines between embeddings of frames.

Letters: T frames, E embedding.
"""

from torch import Tensor

from dcgrid.eval.metrics.series import NO_FRAMES, matched_frames, mean_score, no_score
from dcgrid.eval.results import Score


def clip_text(text_E: Tensor, frames_TE: Tensor) -> Score:
    """Return how well a video shows what a text says (C-T).

        cos(text, mean over t of unit(frame_t))

    Source: section 4.3 of the paper, after Radford et al., 2021. Range -1..1, higher is better;
    CLIP's cosines of matching text stay far below 1. The series is the cosine of each frame.

    Args:
        text_E: Embedding of the text, of any length.
        frames_TE: Embeddings of the frames in the same space.
    """
    if not len(frames_TE):
        return no_score(NO_FRAMES)
    text_E, frames_TE = _unit(text_E), _unit(frames_TE)
    each = mean_score((frames_TE @ text_E).tolist(), none=NO_FRAMES)
    whole = mean_score([float(_unit(frames_TE.mean(dim=0)) @ text_E)], none=NO_FRAMES)
    reason = each.reason or whole.reason
    value = None if reason else whole.value
    return Score(value=value, reason=reason, series=each.series, frames=each.frames)


def temporal_coherence(frames_TE: Tensor) -> Score:
    """Return how alike consecutive frames are (TC).

        mean over t of cos(frame_t, frame_t+1)

    Source: section 4.3 of the paper, with embeddings of Caron et al., 2021. Range -1..1, higher is
    better; a video that stands still has 1. The series has a value a pair, at its second frame.

    Args:
        frames_TE: Embeddings of the frames.
    """
    if len(frames_TE) < 2:
        return no_score("a single frame" if len(frames_TE) else NO_FRAMES)
    unit_TE = _unit(frames_TE)
    cosines = (unit_TE[1:] * unit_TE[:-1]).sum(dim=-1)
    return mean_score(cosines.tolist(), none=NO_FRAMES, first=1)


def subject_similarity(reference_TE: Tensor, result_TE: Tensor) -> Score:
    """Return how alike a result and its reference are as a whole picture.

        mean over t of cos(reference_m(t), result_t),  m(t): the frame at the same relative time

    For clips without a face, where `identity` has nothing to compare. The use of DINO for subjects
    is that of Ruiz et al., 2023 (DreamBooth), there between pictures. The background counts as much
    as the subject. Range -1..1, higher is better.

    Args:
        reference_TE: Embeddings of the reference's frames.
        result_TE: Embeddings of the result's frames.
    """
    if not (len(reference_TE) and len(result_TE)):
        return no_score(NO_FRAMES)
    at = list(matched_frames(len(reference_TE), len(result_TE)))
    cosines = (_unit(reference_TE[at]) * _unit(result_TE)).sum(dim=-1)
    return mean_score(cosines.tolist(), none=NO_FRAMES)


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors of length 1; a vector of length 0 becomes NaN, since it has no direction."""
    floats = vectors.float()
    unit: Tensor = floats / floats.norm(dim=-1, keepdim=True)
    return unit
