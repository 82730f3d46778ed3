"""Who is who in a clip: faces of frames become people.

Letters: N faces, E embedding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.eval.metrics.series import assign

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
