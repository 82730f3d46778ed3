"""Moved pairs: the same subject elsewhere, known to the pixel, and asked for in known words."""

import pytest
import torch

from dcgrid.models.native.model import weights_folder
from dcgrid.synthetic.animation import PlacedSprite, SpritePath
from dcgrid.synthetic.moves import (
    ANALOGY_WORDS,
    MOVES,
    STEP,
    STILL,
    Move,
    SubjectScene,
    draw_analogy,
    draw_scene,
    margin_of,
)
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips
from dcgrid.train.networks import load_base

SIZE = (48, 60)
SHORT = 48


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world(tiny_store):
    return WorldClips(WorldStore(tiny_store))


def square_scene(side=12.0):
    """A white opaque square in the middle of a ground whose colour says which column it is."""
    frames, (height, width) = 3, SIZE
    margin = margin_of(SIZE)
    columns = torch.linspace(0, 0.5, width + 2 * margin)
    ground = columns.expand(3, frames, height + 2 * margin, width + 2 * margin).clone()
    nowhere = torch.zeros(frames)
    path = SpritePath(
        x_T=nowhere, y_T=nowhere, height_T=torch.full((frames,), side), angle_T=nowhere
    )
    sprite = PlacedSprite(frames_TCHW=torch.ones(frames, 4, 16, 16), path=path, shadow=0.0)
    return SubjectScene(
        ground_CTHW=ground, sprite=sprite, size=SIZE, subject="square", motion="move"
    )


def middle_and_area(alpha_1THW):
    """Return column and row of the centre of mass of the first frame, and the area."""
    alpha_HW = alpha_1THW[0, 0]
    total = float(alpha_HW.sum())
    rows, columns = torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5
    across = float((alpha_HW.sum(0) * columns).sum()) / total
    return across, float((alpha_HW.sum(1) * rows).sum()) / total, total


@pytest.mark.parametrize(
    ("words", "right", "down", "growth"),
    [
        ("moved to the left", -STEP, 0, 1),
        ("moved to the right", STEP, 0, 1),
        ("moved up", 0, -STEP, 1),
        ("moved down", 0, STEP, 1),
        ("moved near", 0, 0, 1.4),
        ("moved far away", 0, 0, 1 / 1.4),
        ("with the camera moved to the left", STEP, 0, 1),
        ("with the camera moved to the right", -STEP, 0, 1),
        ("with the camera moved up", 0, STEP, 1),
        ("with the camera moved down", 0, -STEP, 1),
    ],
)
def test_the_subject_is_where_the_words_say(words, right, down, growth):
    scene = square_scene()
    x, y, area = middle_and_area(scene.view(STILL)[1])
    now_x, now_y, now_area = middle_and_area(scene.view(MOVES[words])[1])
    assert now_x - x == pytest.approx(right * SHORT, abs=0.3)
    assert now_y - y == pytest.approx(down * SHORT, abs=0.3)
    assert now_area / area == pytest.approx(growth**2, rel=0.12)


def test_only_the_camera_moves_the_ground():
    scene = square_scene()
    corner = (slice(None), slice(None), slice(0, 4), slice(0, SIZE[1]))
    before = scene.view(STILL)[0][corner]
    assert torch.equal(scene.view(MOVES["moved down"])[0][corner], before)
    # The camera goes right, so what stood at column 16 is at the left edge.
    after = scene.view(MOVES["with the camera moved to the right"])[0][corner]
    assert torch.equal(after[..., : SIZE[1] - 16], before[..., 16:])


def test_a_move_that_takes_the_subject_out_of_the_picture_does_not_fit():
    scene = square_scene()
    assert scene.fitting_moves() == list(MOVES)
    assert not scene.fits(Move(right=0.7))
    assert not scene.fits(Move(down=-0.5))


@pytest.mark.parametrize("seed", range(6))
def test_drawn_scenes_keep_the_subject_in_view_after_every_fitting_move(world, seed):
    scene = draw_scene(world, 5, SIZE, seeded(seed))
    words = scene.fitting_moves()
    assert words
    for one in words:
        clip_CTHW, alpha_1THW = scene.view(MOVES[one])
        assert clip_CTHW.shape == (3, 5, *SIZE)
        assert 0 <= float(clip_CTHW.min()) <= float(clip_CTHW.max()) <= 1
        assert (alpha_1THW[0].sum((1, 2)) > 0.4 * 0.3**2 * SHORT**2 / 1.4**2).all()
    again = draw_scene(world, 5, SIZE, seeded(seed))
    assert torch.equal(scene.view(STILL)[0], again.view(STILL)[0])


@pytest.mark.parametrize("seed", range(4))
def test_an_analogy_is_determined(world, seed):
    """Same subject, same places, same move; another pose and another ground."""
    first, second, move = draw_analogy(world, 5, SIZE, seeded(seed))
    assert first.sprite.path == second.sprite.path
    assert first.subject == second.subject
    assert first.fits(move)
    assert move.right**2 + move.down**2 > 0.03
    still_1, still_2 = first.view(STILL), second.view(STILL)
    # Opaque sprites: the places agree, the pictures do not.
    assert torch.allclose(still_1[1], still_2[1])
    assert (still_1[0] - still_2[0]).abs().mean() > 0.02


def test_the_shipped_model_knows_every_word_of_a_move():
    text = load_base("mini", weights_folder("mini"), torch.device("cpu")).text
    for words in (*MOVES, *ANALOGY_WORDS):
        assert text.unknown_words(words) == ()
    assert text.unknown_words("shifted sideways")
