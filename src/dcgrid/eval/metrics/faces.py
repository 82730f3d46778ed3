"""Whether a person is still the same person.

Letters: N faces, E embedding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.eval.metrics.people import FrameFaces, find_subject
from dcgrid.eval.metrics.series import NO_FRAMES, assign, matched_frames, mean_score, no_score
from dcgrid.eval.results import Score

__all__ = ["FrameFaces", "face_kept", "identity"]

NO_FACE = "no face in the clip"
NO_FACE_LEFT = "no face found in the result"


def identity(reference: Sequence[FrameFaces], result: Sequence[FrameFaces]) -> Score:
    """Return how alike the faces of a reference and a result are (ID).

        mean over t of cos(subject of reference_m(t), the same person of result_t)

    Source: section 4.3 of the paper, after Deng et al., 2022. Range -1..1, higher is better; frames
    in which the result has no such face do not count here but in `face_kept`.

    The paper does not say whose face is compared where there are several. Here the subject is the
    person who is seen in most frames of the reference, of several the largest (`find_subject`).
    All faces of a pair of frames are assigned one to one by the distance of their centres, and what
    falls to the subject is compared. Embeddings have no say in it: a stranger who is like the
    subject gains nothing. Other people take part in the assignment and are not scored.

    Args:
        reference: Faces of each frame of the reference.
        result: Faces of each frame of the result.
    """
    at = matched_frames(len(reference), len(result))
    if reason := _missing(reference, result):
        return no_score(reason)
    if not all(bool(torch.isfinite(one.embeddings_NE).all()) for one in (*reference, *result)):
        return no_score("an embedding of a face is not a number")
    subject = find_subject(reference)
    cosines = [
        _cosine(reference[before], subject.get(before), faces)
        for before, faces in zip(at, result, strict=True)
    ]
    return mean_score(cosines, none="no face of the result stands for the subject")


def face_kept(reference: Sequence[FrameFaces], result: Sequence[FrameFaces]) -> Score:
    """Return in how many frames with a face the result has one, too.

        |{t: faces in reference_m(t) and in result_t}| / |{t: faces in reference_m(t)}|

    Stands beside `identity`, so that a method that destroys faces cannot hide behind the few that
    are left. Our own. Range 0..1, higher is better.

    Args:
        reference: Faces of each frame of the reference.
        result: Faces of each frame of the result.
    """
    if reason := _missing(reference, result):
        return no_score(reason) if reason != NO_FACE_LEFT else Score(value=0.0)
    at = matched_frames(len(reference), len(result))
    kept = [
        float(len(faces) > 0) if len(reference[before]) else None
        for before, faces in zip(at, result, strict=True)
    ]
    return mean_score(kept, none=NO_FACE)


def _missing(reference: Sequence[FrameFaces], result: Sequence[FrameFaces]) -> str:
    """Return why faces cannot be compared; empty: they can."""
    if not (reference and result):
        return NO_FRAMES
    if not any(len(one) for one in reference):
        return NO_FACE
    return "" if any(len(one) for one in result) else NO_FACE_LEFT


def _cosine(reference: FrameFaces, subject: int | None, result: FrameFaces) -> float | None:
    """Return the cosine of the subject's faces; None: one of the frames has none."""
    if subject is None or not len(result):
        return None
    distances_NN = torch.cdist(_centres(reference), _centres(result))
    face = assign(distances_NN.tolist()).get(subject)
    if face is None:
        return None
    one_E, two_E = reference.embeddings_NE[subject].double(), result.embeddings_NE[face].double()
    return float(F.cosine_similarity(one_E, two_E, dim=0))


def _centres(faces: FrameFaces) -> Tensor:
    return (faces.boxes_N4[:, :2] + faces.boxes_N4[:, 2:]).double() / 2
