"""Of a scene that is composed with, what is bright and moves is used, and the plan says so."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from dcgrid.pipelines.footage import read_footage
from dcgrid.pipelines.job import ComposeJob
from dcgrid.pipelines.plan import GenerationPlan, plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.scene_light import is_dark, scene_light
from dcgrid.video.write import write_pieces
from tests.pipelines.runs import Silence, moving_square

SIZE = (96, 144)
FIRE, LAMP, SKY = slice(40, 80), slice(10, 30), slice(0, 8)


def street(*, flickers: bool = True, ground: int = 110) -> torch.Tensor:
    """Fire on the left and a white lamp on the right that flicker, a bright sky, a grey street."""
    frames = torch.full((30, *SIZE, 3), ground, dtype=torch.uint8)
    frames[:, SKY] = 240
    for number in range(30):
        lit = number % 2 == 0 or not flickers
        frames[number, FIRE, 20:60] = torch.tensor([250, 150, 40] if lit else [120, 60, 20])
        frames[number, LAMP, 100:120] = 250 if lit else 120
    return frames


def test_what_is_bright_and_flickers_is_used() -> None:
    frames_THWC = street()
    light = scene_light(frames_THWC, "a moving light")
    used_THWC = light.of(frames_THWC)
    assert torch.equal(used_THWC[0, 45:75, 25:55], frames_THWC[0, 45:75, 25:55])
    assert torch.equal(used_THWC[0, 15:25, 105:115], frames_THWC[0, 15:25, 105:115])
    assert used_THWC[:, SKY, :80].max() == 0  # bright, but it stands still
    assert used_THWC[0, 85:].max() <= 2


def test_of_fire_what_has_its_colour() -> None:
    frames_THWC = street()
    used_THWC = scene_light(frames_THWC, "A bonfire").of(frames_THWC)
    assert torch.equal(used_THWC[0, 45:75, 25:55], frames_THWC[0, 45:75, 25:55])
    assert used_THWC[:, :, 90:].max() == 0


def test_frames_of_another_size_are_cut_alike() -> None:
    frames_THWC = street()
    light = scene_light(frames_THWC, "fire")
    large_THWC = frames_THWC.repeat_interleave(3, 1).repeat_interleave(3, 2)
    small_THWC = light.of(large_THWC)[:, 1::3, 1::3].float()
    assert (small_THWC - light.of(frames_THWC).float()).abs().max() <= 2


@pytest.mark.parametrize(
    "frames_THWC", [street(flickers=False), street(ground=20)], ids=["still", "dark"]
)
def test_all_is_used_where_nothing_moves_or_the_ground_is_dark(frames_THWC: torch.Tensor) -> None:
    assert scene_light(frames_THWC, "fire") is None


def planned(tmp_path: Path, frames_THWC: torch.Tensor) -> GenerationPlan:
    write_pieces(
        tmp_path / "street.mp4", lambda: [frames_THWC], Fraction(12), num_frames=len(frames_THWC)
    )
    first = moving_square(tmp_path / "a.mp4", 9, SIZE)
    job = ComposeJob(
        first=first,
        second=tmp_path / "street.mp4",
        concept="fire",
        model="mini",
        out=tmp_path / "out",
    )
    return plan_run(prepare_run(job))


@pytest.mark.parametrize(
    ("flickers", "said"), [(True, "what is bright and moves"), (False, "nothing bright moves")]
)
def test_the_plan_says_it_and_the_run_does_it(tmp_path: Path, flickers: bool, said: str) -> None:
    plan = planned(tmp_path, street(flickers=flickers))
    assert any(said in line for line in plan.text_notes)
    plan, (_, scene) = read_footage(plan, Silence())
    shown_THWC = scene.frames(plan.windows[0])
    assert is_dark(shown_THWC) is flickers


def test_of_an_element_the_plan_says_nothing(tmp_path: Path) -> None:
    assert not any("scene" in line for line in planned(tmp_path, street(ground=10)).text_notes)
