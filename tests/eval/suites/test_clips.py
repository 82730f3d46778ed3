"""Which clips are found, in which order, with which words and masks."""

import pytest
import torch

from dcgrid.errors import InputVideoError, RecipeError, UsageError
from dcgrid.eval.suites.eval_clips import find_clips, unused_files
from dcgrid.video.write import write_video


@pytest.fixture
def folder(tmp_path):
    for name, level in (("b", 10), ("a", 20), ("c d", 30)):
        write_video(
            tmp_path / f"{name}.mp4", torch.full((3, 32, 32, 3), level, dtype=torch.uint8), 12
        )
    (tmp_path / "notes.txt").write_text("no video")
    return tmp_path


def test_a_folder_gives_its_videos_in_order(folder):
    assert [clip.key for clip in find_clips([folder])] == ["a", "b", "c-d"]


def test_any_video_of_a_folder_is_taken_and_the_rest_is_named(folder):
    (folder / "b.mp4").rename(folder / "b.m2ts")
    (folder / "masks").mkdir()
    (folder / "captions.toml").write_text('["a.mp4"]\nsubject = "a cat"\n')
    assert [clip.key for clip in find_clips([folder])] == ["a", "b", "c-d"]
    assert unused_files([folder, folder]) == (f"{folder / 'notes.txt'}: no video",)
    assert unused_files([folder / "a.mp4"]) == ()


def test_named_files_keep_their_order_and_come_once(folder):
    found = find_clips([folder / "b.mp4", folder, folder / "b.mp4"])
    assert [clip.key for clip in found] == ["b", "a", "c-d"]


def test_limit_takes_from_the_front(folder):
    assert [clip.key for clip in find_clips([folder], limit=2)] == ["a", "b"]
    with pytest.raises(UsageError, match="leaves no clip"):
        find_clips([folder], limit=0)


def test_clips_of_one_name_in_two_folders_get_names_of_their_own(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.mp4").write_bytes((folder / "b.mp4").read_bytes())
    first, second = find_clips([folder / "a.mp4", other / "a.mp4"])
    assert (first.key, second.key) == ("a", "a-2")
    assert first.sha256 != second.sha256


def test_captions_beside_the_clips_are_read(folder):
    (folder / "captions.toml").write_text('["a.mp4"]\nsubject = "a cat"\nmotion = "jump"\n')
    a, b, _ = find_clips([folder])
    assert (a.words.subject, a.words.motion, a.subject) == ("a cat", "jump", "a cat")
    assert (b.words.subject, b.subject) == ("", "a person")


def test_wrong_captions_are_told_with_their_place(folder):
    (folder / "captions.toml").write_text('["a.mp4"]\nsubjct = "a cat"\n')
    with pytest.raises(RecipeError, match=r"captions.toml:2:1.*did you mean 'subject'"):
        find_clips([folder])


def test_masks_are_found_by_name(folder, tmp_path):
    masks = folder / "masks"
    masks.mkdir()
    (masks / "a.png").write_bytes(b"")
    a, b, _ = find_clips([folder])
    assert (a.mask, b.mask) == (masks / "a.png", None)
    with pytest.raises(UsageError, match="is no folder"):
        find_clips([folder], masks=tmp_path / "nowhere")


def test_nothing_to_edit_is_told(tmp_path):
    with pytest.raises(InputVideoError, match="no clip is named"):
        find_clips([])
    with pytest.raises(InputVideoError, match="no video in the folder"):
        find_clips([tmp_path])
    with pytest.raises(InputVideoError, match="does not exist"):
        find_clips([tmp_path / "gone.mp4"])
