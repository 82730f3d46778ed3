"""Who is compared with whom."""

import pytest
import torch
import torch.nn.functional as F

from dcgrid.eval.metrics import FrameFaces, face_kept, identity
from dcgrid.eval.metrics.identity import find_subject

ANNA, BERT, CARL = torch.eye(8)[:3]
LEFT, RIGHT, MIDDLE = 0.25, 0.75, 0.5


def frame(*faces):
    """Faces as (embedding, centre x) or (embedding, centre x, size)."""
    rows = [(one[1], one[2] if len(one) > 2 else 0.2) for one in faces]
    boxes = torch.tensor([[x - s / 2, 0.5 - s / 2, x + s / 2, 0.5 + s / 2] for x, s in rows])
    embeddings = torch.stack([one[0] for one in faces]) if faces else torch.zeros(0, 8)
    return FrameFaces(embeddings_NE=embeddings, boxes_N4=boxes.reshape(-1, 4))


def like(person, cosine):
    """An embedding at a cosine from a person's, of another length."""
    return 3 * (cosine * person + (1 - cosine**2) ** 0.5 * torch.eye(8)[7])


def test_it_is_the_mean_cosine_over_frames():
    reference = [frame((ANNA, LEFT))] * 3
    result = [frame((like(ANNA, c), LEFT)) for c in (1.0, 0.5, 0.0)]
    score = identity(reference, result)
    assert score.value == pytest.approx(0.5)
    assert score.series == pytest.approx((1.0, 0.5, 0.0), abs=1e-6)
    assert identity(reference, reference).value == pytest.approx(1.0)


def test_another_person_scores_less():
    reference = [frame((ANNA, LEFT))] * 4
    same = identity(reference, [frame((like(ANNA, 0.8), LEFT))] * 4).value
    assert identity(reference, [frame((BERT, LEFT))] * 4).value < same - 0.5


def test_the_subject_is_seen_most_and_then_largest():
    often = [frame((ANNA, LEFT), (BERT, RIGHT, 0.4))] * 2 + [frame((ANNA, LEFT))]
    assert find_subject(often) == {0: 0, 1: 0, 2: 0}
    large = [frame((ANNA, LEFT), (BERT, RIGHT, 0.4))] * 3
    assert find_subject(large) == {0: 1, 1: 1, 2: 1}


def test_a_person_is_followed_when_the_detector_changes_the_order():
    frames = [frame((ANNA, 0.30), (BERT, 0.70)), frame((BERT, 0.68, 0.1), (ANNA, 0.33, 0.3))]
    frames += [frame((ANNA, 0.36))]
    assert find_subject(frames) == {0: 0, 1: 1, 2: 0}


def test_who_comes_from_afar_after_a_cut_is_someone_else():
    frames = [frame((ANNA, LEFT, 0.1))] * 2 + [frame((CARL, RIGHT, 0.1))] * 3
    assert set(find_subject(frames)) == {2, 3, 4}


def test_a_person_is_known_again_after_a_cut_by_the_embedding():
    near = [frame((ANNA, LEFT), (BERT, RIGHT))] * 2
    cut = [frame((like(ANNA, 0.9), 0.95, 0.1), (CARL, LEFT, 0.3))] * 5
    # Carl stands where Anna stood, and both go on for five frames: Anna has seven.
    subject = find_subject([*near, *[frame()] * 20, *cut])
    assert set(subject) == {0, 1, *range(22, 27)}
    assert subject[0] == 0
    assert subject[25] == 0


def test_a_stranger_who_is_like_the_subject_gains_nothing():
    reference = [frame((ANNA, LEFT), (BERT, RIGHT))] * 3
    # The result has Anna's place taken by Carl, and someone just like her at Bert's.
    result = [frame((ANNA, RIGHT), (CARL, LEFT))] * 3
    assert identity(reference, result).value == pytest.approx(0.0, abs=1e-6)


def test_other_people_claim_their_own_faces():
    # Anna is the subject, nearer to the only face of the result is Bert: it is his.
    reference = [frame((ANNA, LEFT), (BERT, MIDDLE))] * 2 + [frame((ANNA, LEFT))]
    result = [frame((BERT, MIDDLE))] * 2 + [frame((like(ANNA, 0.6), LEFT))]
    score = identity(reference, result)
    assert score.value == pytest.approx(0.6)
    assert score.series[:2] == (None, None)
    gone = identity(reference, [frame((BERT, MIDDLE))] * 2 + [frame()])
    assert (gone.value, gone.reason) == (None, "no face of the result stands for the subject")


def test_a_single_face_is_the_subject_wherever_it_is():
    score = identity([frame((ANNA, LEFT))] * 2, [frame((ANNA, RIGHT, 0.1))] * 2)
    assert score.value == pytest.approx(1.0)


def test_lengths_may_differ():
    reference = [frame((ANNA, LEFT))] * 4 + [frame((BERT, LEFT))] * 3
    result = [frame((ANNA, LEFT))] * 8 + [frame((BERT, LEFT))] * 6
    assert identity(reference, result).value == pytest.approx(1.0)
    assert len(identity(reference, result).series) == 14


def test_clips_without_a_face_say_so():
    faces, none = [frame((ANNA, LEFT))] * 2, [frame()] * 2
    assert identity(none, faces).reason == "no face in the clip"
    assert identity(faces, none).reason == "no face found in the result"
    assert identity([], faces).reason == "no frames"
    assert identity(faces, []).reason == "no frames"
    assert face_kept(none, faces).reason == "no face in the clip"
    assert face_kept(faces, []).reason == "no frames"
    assert face_kept(faces, none).value == 0.0


def test_faces_that_were_lost_are_counted():
    reference = [frame((ANNA, LEFT))] * 4 + [frame()] * 2
    result = [frame((ANNA, LEFT)), frame(), frame(), frame(), frame((BERT, LEFT)), frame()]
    assert identity(reference, result).value == pytest.approx(1.0)
    score = face_kept(reference, result)
    assert score.value == pytest.approx(0.25)
    assert score.series == (1.0, 0.0, 0.0, 0.0, None, None)


def test_nan_gives_a_reason():
    broken = [frame((torch.full((8,), float("nan")), LEFT))] * 2
    good = [frame((ANNA, LEFT))] * 2
    for score in (identity(broken, good), identity(good, broken)):
        assert score.value is None
        assert "not a number" in score.reason


def test_many_people_take_no_time():
    crowd = F.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    frames = [frame(*((crowd[i], (i + 1) / 32, 0.02) for i in range(30)))] * 20
    assert identity(frames, frames).value == pytest.approx(1.0)


def test_boxes_must_fit():
    with pytest.raises(ValueError, match="faces"):
        FrameFaces(embeddings_NE=torch.zeros(2, 8), boxes_N4=torch.zeros(1, 4))
