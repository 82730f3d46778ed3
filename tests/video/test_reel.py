"""A reel of scenes: lengths, fades to the exact value, titles in their place and nowhere else."""

import itertools
from fractions import Fraction

import pytest
import torch

from dcgrid.video.reel import draw_title, reel_length, reel_pieces
from dcgrid.video.text import text_pixels


def scene(seed: int, frames: int, height: int = 48, width: int = 80) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


SCENES = [scene(1, 20), scene(2, 13), scene(3, 17)]
TITLES = ["one", "two", "three"]


def test_scenes_without_titles_and_fades_are_unchanged() -> None:
    pieces = list(reel_pieces(SCENES, TITLES, 10))
    assert torch.cat(pieces).equal(torch.cat(SCENES))
    assert reel_length([20, 13, 17], 10) == 50


@pytest.mark.parametrize("fade", [1, 2, 5, 6])
def test_fades_are_the_exact_mix(fade: int) -> None:
    reel_THWC = torch.cat(list(reel_pieces(SCENES, TITLES, 10, fade_s=fade / 10)))
    assert len(reel_THWC) == reel_length([20, 13, 17], 10, fade / 10) == 50 - 2 * fade
    starts = (0, 20 - fade, 33 - 2 * fade)
    expected: list[dict[int, torch.Tensor]] = [{} for _ in reel_THWC]
    for number, (start, part_THWC) in enumerate(zip(starts, SCENES, strict=True)):
        for i, frame_HWC in enumerate(part_THWC):
            expected[start + i][number] = frame_HWC
    mixed = 0
    for at, (frame_HWC, there) in enumerate(zip(reel_THWC, expected, strict=True)):
        if len(there) == 1:
            assert frame_HWC.equal(*there.values())
            continue
        (old, new), mixed = sorted(there), mixed + 1
        share = Fraction(at - starts[new] + 1, fade + 1)
        exact = (1 - float(share)) * there[old].double() + float(share) * there[new].double()
        assert (frame_HWC.double() - exact).abs().max() <= 0.5 + 1e-9
    assert mixed == 2 * fade


def test_a_fade_of_equal_scenes_changes_nothing() -> None:
    still_THWC = scene(4, 1).expand(12, -1, -1, -1)
    reel_THWC = torch.cat(list(reel_pieces([still_THWC] * 2, ["", ""], 12, fade_s=0.5)))
    assert reel_THWC.equal(still_THWC[:1].expand(18, -1, -1, -1))


@pytest.mark.parametrize("fade", [0, 4])
def test_titles_change_only_their_frames_and_rows(fade: int) -> None:
    options = {"fade_s": fade / 10}
    plain_THWC = torch.cat(list(reel_pieces(SCENES, TITLES, 10, **options)))
    titled_THWC = torch.cat(list(reel_pieces(SCENES, TITLES, 10, title_s=0.6, **options)))
    assert titled_THWC.shape == plain_THWC.shape
    changed_THW = (titled_THWC != plain_THWC).any(-1)
    starts = itertools.accumulate((0, 20 - fade, 13 - fade))
    allowed = {start + i for start in starts for i in range(6)}
    assert {int(t) for t in changed_THW.any(-1).any(-1).nonzero()} == allowed
    rows = changed_THW.any(0).any(-1).nonzero().flatten().tolist()
    # One line, whose letters and edges stay above the margin.
    assert rows == list(range(rows[0], rows[-1] + 1))
    assert 48 - 20 < rows[0] < rows[-1] < 48 - 2
    names = list(reel_pieces(SCENES, ["", "x", ""], 10, title_s=0.6))
    assert torch.cat(names)[:20].equal(SCENES[0])


def test_a_title_is_its_letters_with_an_edge_around() -> None:
    frames_THWC = torch.full((2, 240, 400, 3), 130, dtype=torch.uint8)
    drawn_THWC = draw_title(frames_THWC, "rain at 7")
    assert (frames_THWC == 130).all()  # the caller's frames are left alone
    assert drawn_THWC[0].equal(drawn_THWC[1])
    full_HW = text_pixels("rain at 7", 20) == 255
    ink_HW = (drawn_THWC[0] == 240).all(-1)
    assert ink_HW.sum() == full_HW.sum() > 100
    ys, xs = ink_HW.nonzero().unbind(-1)
    assert ys.min() > 200
    assert abs(int(xs.min() + xs.max()) - 400) <= 4
    for dy, dx in itertools.product((-2, 0, 2), repeat=2):  # nowhere beside the grey of the frame
        assert not (drawn_THWC[0] == 130).all(-1)[ys + dy, xs + dx].any()


LONG_TITLE = "a small white dog walks through the deep snow at night and meets a cat " * 3


@pytest.mark.parametrize("size", [(48, 80), (192, 320), (96, 40), (20, 300), (704, 1280)])
@pytest.mark.parametrize("title", [LONG_TITLE, "Donaudampfschifffahrtsgesellschaft" * 4, "x\ny\tz"])
def test_long_titles_stay_inside(size: tuple[int, int], title: str) -> None:
    frames_THWC = torch.full((1, *size, 3), 130, dtype=torch.uint8)
    drawn_HWC = draw_title(frames_THWC, title)[0]
    changed_HW = (drawn_HWC != 130).any(-1)
    assert changed_HW.any()
    border_HW = torch.ones_like(changed_HW)
    border_HW[2:-2, 2:-2] = False
    assert not changed_HW[border_HW].any()
    if title is LONG_TITLE:  # three lines at most, and dots for the rest
        ink_H = (drawn_HWC > 150).all(-1).any(-1).int()
        assert 1 <= int((ink_H.diff() == 1).sum()) <= 3


def test_long_titles_are_cut_at_a_word_and_dots_say_so() -> None:
    frames_THWC = torch.zeros(1, 60, 80, 3, dtype=torch.uint8)
    cut_THWC = draw_title(frames_THWC, "the brown dog meets another white cat at night and sleeps")
    words = ["the", "brown", "dog", "meets", "another", "white", "cat", "at", "night"]
    shorter = [draw_title(frames_THWC, " ".join(words[:n]) + "...") for n in range(3, 9)]
    assert any(cut_THWC.equal(one_THWC) for one_THWC in shorter)


def test_letters_grow_with_the_frame_and_accents_are_read() -> None:
    small_THWC = torch.zeros(1, 240, 400, 3, dtype=torch.uint8)
    large_THWC = torch.zeros(1, 480, 800, 3, dtype=torch.uint8)
    small_HW = (draw_title(small_THWC, "dog")[0] > 120).all(-1)
    large_HW = (draw_title(large_THWC, "dog")[0] > 120).all(-1)
    assert large_HW.sum() / small_HW.sum() == pytest.approx(4, rel=0.15)
    assert draw_title(small_THWC, "Zo\u00eb").equal(draw_title(small_THWC, "Zoe"))
    assert draw_title(small_THWC, " ").equal(small_THWC)
    tiny_THWC = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    assert draw_title(tiny_THWC, "dog").equal(tiny_THWC)


def test_what_cannot_be_is_refused_at_once() -> None:
    good = (SCENES, TITLES, 10)
    with pytest.raises(ValueError, match="one size"):
        reel_pieces([scene(1, 9), scene(2, 9, 48, 82)], ["", ""], 10)
    with pytest.raises(ValueError, match="longer than half"):
        reel_pieces(*good, fade_s=0.7)  # 7 of 13 frames
    with pytest.raises(ValueError, match="longer than half"):
        reel_length([20, 13, 17], 10, 0.7)
    with pytest.raises(ValueError, match="3 scenes and 2 titles"):
        reel_pieces(SCENES, TITLES[:2], 10)
    with pytest.raises(ValueError, match="at least one scene"):
        reel_pieces([], [], 10)
    with pytest.raises(ValueError, match="uint8"):
        reel_pieces([SCENES[0].float()], ["a"], 10)
    for name in ("title_s", "fade_s"):
        for bad in (-0.1, float("inf"), float("nan")):
            with pytest.raises(ValueError, match=name):
                reel_pieces(*good, **{name: bad})


def test_a_title_longer_than_its_scene_ends_with_it() -> None:
    reel_THWC = torch.cat(list(reel_pieces(SCENES, ["a", "", ""], 10, title_s=99)))
    changed_T = (reel_THWC != torch.cat(SCENES)).flatten(1).any(1)
    assert changed_T.nonzero().flatten().tolist() == list(range(20))
