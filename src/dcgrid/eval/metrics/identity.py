"""Whether a person is still the same person: faces of frames become people, and these are compared.

Letters: N faces, E embedding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.eval.metrics.series import NO_FRAMES, assign, matched_frames, mean_score, no_score
from dcgrid.eval.results import Score

REACH = 1.0
"""How far a face may move between frames and be the same person's, in sizes of the face."""
PATIENCE = 12
"""Frames for which a face may be hidden and still be looked for at its place."""
SAME_PERSON = 0.5
"""Cosine from which two stretches of faces are one person's. On ../shared/clips ArcFace gave the
same person 0.75 or more and different people 0.35 or less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFaces:
    """The faces of a frame."""

    embeddings_NE: Tensor
    """Who they are, of any length; N is 0 for a frame without a face."""
    boxes_N4: Tensor
    """Left, top, right, bottom, as parts of the frame's width and height."""

    def __post_init__(self) -> None:
        """Refuse faces without a box.

        Raises:
            ValueError: A caller's bug.
        """
        if self.boxes_N4.shape != (len(self.embeddings_NE), 4):
            raise ValueError(f"{len(self.embeddings_NE)} faces, boxes {tuple(self.boxes_N4.shape)}")

    def __len__(self) -> int:
        """Return how many faces there are."""
        return len(self.embeddings_NE)


@dataclass(slots=True, kw_only=True)
class _Person:
    """Faces of one person, a frame has one or none."""

    faces: dict[int, int] = field(default_factory=dict)
    """Which face of the frame, by frame."""
    last: int
    """The last of these frames."""
    place_4: Tensor
    """Box in it."""
    sum_E: Tensor
    """Sum of their embeddings, each at length 1."""

    def like(self, other: "_Person") -> float:
        """Return the cosine of what two people look like on average."""
        return float(F.cosine_similarity(self.sum_E, other.sum_E, dim=0))


def find_subject(frames: Sequence[FrameFaces]) -> Mapping[int, int]:
    """Return which face is the subject's, by frame; frames in which it is not seen are left out.

    Faces are followed from frame to frame by their place: `REACH` sizes of the face at most. What
    one person's stretches are, after a cut or a turn, is told by their embeddings (`SAME_PERSON`);
    nobody is twice in a frame. The subject is who is seen in most frames, of several the largest.

    Args:
        frames: Faces of each frame, at least one of them with a face.

    Raises:
        ValueError: No frame has a face: a caller's bug.
    """
    people = _joined(_followed(frames))
    if not people:
        raise ValueError("no frame has a face")

    def weight(person: _Person) -> tuple[int, float]:
        sizes = [_size(frames[at].boxes_N4[face]) for at, face in person.faces.items()]
        return len(sizes), sum(sizes) / len(sizes)

    return max(people, key=weight).faces


def _followed(frames: Sequence[FrameFaces]) -> list[_Person]:
    """Return stretches of faces that stay or move a little from frame to frame."""
    people: list[_Person] = []
    for at, frame in enumerate(frames):
        near = [person for person in people if at - person.last <= PATIENCE]
        moves = [[_move(person.place_4, box_4) for box_4 in frame.boxes_N4] for person in near]
        # A move out of reach costs as much as any other, so that it is never taken for a near one.
        pairs = assign([[min(move, 2 * REACH) for move in row] for row in moves])
        owner = {face: near[row] for row, face in pairs.items() if moves[row][face] <= REACH}
        units_NE = F.normalize(frame.embeddings_NE.float(), dim=-1)
        for face, (box_4, unit_E) in enumerate(zip(frame.boxes_N4, units_NE, strict=True)):
            person = owner.get(face)
            if person is None:
                person = _Person(last=at, place_4=box_4, sum_E=torch.zeros_like(unit_E))
                people.append(person)
            person.faces[at], person.last, person.place_4 = face, at, box_4
            person.sum_E = person.sum_E + unit_E
    return people


def _joined(people: Sequence[_Person]) -> list[_Person]:
    """Return people made of stretches, the longest first, each joined to whom it is most like."""
    joined: list[_Person] = []
    for person in sorted(people, key=lambda one: -len(one.faces)):
        alike = [
            (one.like(person), index)
            for index, one in enumerate(joined)
            if not one.faces.keys() & person.faces.keys()
        ]
        cosine, index = max(alike, default=(-1.0, -1))
        if cosine >= SAME_PERSON:
            joined[index].faces.update(person.faces)
            joined[index].sum_E = joined[index].sum_E + person.sum_E
        else:
            joined.append(person)
    return joined


def _move(before_4: Tensor, after_4: Tensor) -> float:
    """Return the distance of two boxes' centres in sizes of the first."""
    apart = (after_4[:2] + after_4[2:] - before_4[:2] - before_4[2:]) / 2
    return float(apart.norm()) / max(math.sqrt(_size(before_4)), 1e-6)


def _size(box_4: Tensor) -> float:
    """Return the area of a box."""
    return float((box_4[2:] - box_4[:2]).clamp_min(0).prod())


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
