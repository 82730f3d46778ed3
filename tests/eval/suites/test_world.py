"""Clips of the procedural world: masks show the subject, and the same seed draws the same."""

import pytest
import torch
from safetensors.torch import save_file

from dcgrid.errors import OutputError, UsageError, WeightsError
from dcgrid.eval.suites.eval_clips import find_clips
from dcgrid.eval.suites.world import FRAMES, SIZE, WorldJob, draw_clips
from dcgrid.video.read import decode_all
from dcgrid.video.write import write_video


@pytest.fixture
def store(tmp_path):
    """A store with a black photo and one red square that blinks."""
    folder = tmp_path / "world"
    folder.mkdir()
    save_file({"night": torch.zeros(3, 400, 700, dtype=torch.uint8)}, folder / "photos.safetensors")
    square = torch.zeros(4, 4, 64, 64, dtype=torch.uint8)
    square[:, 0], square[:, 3] = 255, 255
    save_file({"red square!": square}, folder / "sprites.safetensors")
    return folder


def frames_of(path):
    return torch.stack([frame for _, frame in decode_all(path)]).float()


def test_masks_are_white_where_the_subject_is(store, tmp_path):
    paths = draw_clips(WorldJob(store=store, out=tmp_path / "clips", count=2))
    assert [path.name for path in paths] == ["01-red-square.mp4", "02-red-square.mp4"]
    first, second = find_clips([tmp_path / "clips"])
    assert (first.words.subject, first.words.motion) == ("red square", "movement")
    assert first.sha256 != second.sha256
    clip, mask = frames_of(first.path), frames_of(first.mask)
    assert clip.shape == mask.shape == (FRAMES, *SIZE, 3)
    red = clip[..., 0] > 128
    white = mask.mean(-1) > 128
    assert 0.01 < white.float().mean() < 0.9
    assert (red == white).float().mean() > 0.99


def test_the_same_seed_draws_the_same_clips(store, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_clips(WorldJob(store=store, out=tmp_path / name, count=1, seed=seed))
    hashes = [find_clips([tmp_path / name])[0].sha256 for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_subjects_move_over_real_clips_where_they_are_named(store, tmp_path):
    ground = tmp_path / "green.mp4"
    green = torch.zeros(20, 120, 200, 3, dtype=torch.uint8)
    green[..., 1] = 200
    write_video(ground, green, 24)
    (path,) = draw_clips(WorldJob(store=store, out=tmp_path / "out", count=1, grounds=(ground,)))
    shown = frames_of(path)
    mask = frames_of(tmp_path / "out" / "masks" / path.name).mean(-1)
    # Nearly all of what is not masked is the ground, but for the subject's shadow on it.
    assert shown[mask < 10].mean(0)[1] > 100


def test_what_cannot_be_is_told(store, tmp_path):
    with pytest.raises(WeightsError, match="pictures are not in"):
        draw_clips(WorldJob(store=tmp_path, out=tmp_path / "x"))
    with pytest.raises(UsageError, match="out of range"):
        draw_clips(WorldJob(store=store, out=tmp_path / "x", count=0))
    draw_clips(WorldJob(store=store, out=tmp_path / "x", count=1))
    with pytest.raises(OutputError, match="holds clips already"):
        draw_clips(WorldJob(store=store, out=tmp_path / "x", count=1))
