from pathlib import Path

import pytest

from dcgrid.errors import InputVideoError, RecipeError, UsageError
from dcgrid.pipelines.job import EditJob, check_input
from dcgrid.pipelines.resolve import resolve_edits, slug


def job(**values: object) -> EditJob:
    return EditJob(input=Path("input.mp4"), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        (("rain",), (None, 0, 0, 0)),
        (("rain", "night"), (None, 0, 1, 0)),
        (("rain", "night", "smoke"), (None, 0, 1, 2)),
    ],
)
def test_effects_are_dealt_to_the_free_cells(
    effects: tuple[str, ...], expected: tuple[int | None, ...]
) -> None:
    grid = resolve_edits(job(effects=effects))
    assert grid.edit_of_cell == expected
    assert [edit.name for edit in grid.edits] == list(effects)
    assert sorted(cell for cells in grid.tries for cell in cells) == [1, 2, 3]


def test_each_cell_has_the_words_of_its_edit() -> None:
    grid = resolve_edits(job(effects=("rain", "night"), prompt="under  the sea"))
    words = {one.cell: grid.prompt.segment_text(one) for one in grid.prompt.segments}
    clauses = [edit.clause for edit in grid.edits]
    assert clauses[2] == "under the sea"
    for cell, index in enumerate(grid.edit_of_cell):
        if index is not None:
            assert clauses[index] in words[cell]
            assert not any(other in words[cell] for other in clauses if other != clauses[index])


def test_subject_and_motion_reach_every_cell() -> None:
    grid = resolve_edits(job(effects=("rain",), subject="an orange cat", motion="jump"))
    cells = [grid.prompt.segment_text(one) for one in grid.prompt.segments if one.cell is not None]
    assert len(cells) == 4
    assert all("orange cat" in text and "jump" in text for text in cells)


def test_the_users_numbers_win_over_the_recipe() -> None:
    plain = resolve_edits(job(effects=("rain",)))
    asked = resolve_edits(job(effects=("rain",), num_inference_steps=3, guidance_scale=1.0))
    assert asked.num_inference_steps == 3
    assert asked.edits[0].guidance_scale == 1.0
    assert plain.num_inference_steps != 3


def test_negative_text_belongs_to_the_edits_that_have_one() -> None:
    grid = resolve_edits(job(effects=("rain",), prompt="made of paper"))
    negative = grid.negative_prompt
    assert grid.negative_owners == (0,)
    assert negative.segment_text(negative.segments[0]) == grid.edits[0].negative


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "nothing to do"),
        ({"prompt": "   "}, "nothing to do"),
        ({"effects": ("rain", "night", "smoke", "fog")}, "4 edits"),
        ({"effects": ("rain", "night", "smoke"), "prompt": "x"}, "4 edits"),
        ({"effects": ("rain", "rain")}, "'rain' is asked for twice"),
        ({"effects": ("rain",), "seed": -1}, "seed -1"),
        ({"effects": ("rain",), "num_inference_steps": 0}, "0 sampling steps"),
        ({"effects": ("rain",), "guidance_scale": float("nan")}, "guidance scale nan"),
        ({"effects": ("rain",), "layout": "composition-2x2"}, "not for editing one clip"),
        ({"effects": ("rain", "fog", "night"), "layout": "edit-1x3"}, "2 free cells"),
    ],
)
def test_impossible_jobs_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve_edits(job(**values))
    assert caught.value.hint


def test_unknown_effect_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'rain'"):
        resolve_edits(job(effects=("rian",)))


def test_input_is_looked_at_first(tmp_path: Path) -> None:
    with pytest.raises(InputVideoError, match="does not exist"):
        check_input(tmp_path / "none.mp4")
    with pytest.raises(InputVideoError, match="is a folder"):
        check_input(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("?!", "prompt"),
        ("word " * 40, "word-word-word-word-word-word-word-word"),
        ("x" * 100, "x" * 40),
        ("Im Regen, b\u00f6se", "im-regen-b-se"),
    ],
)
def test_slugs_are_safe_file_names(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_free_text_is_sampled_as_the_shipped_effects_are() -> None:
    effect, free = resolve_edits(job(effects=("rain",), prompt="in the rain")).edits
    assert (free.guidance_scale, free.num_inference_steps) == (
        effect.guidance_scale,
        effect.num_inference_steps,
    )
