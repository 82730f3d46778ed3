"""`compose` with `tiny`: two clips reconciled, two fusions, the inputs untouched."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcgrid.errors import InputVideoError, RecipeError, UsageError
from dcgrid.pipelines import generate
from dcgrid.pipelines.job import ComposeJob
from dcgrid.pipelines.manifest import read_manifest
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from dcgrid.pipelines.resolve import resolve_fusions
from dcgrid.pipelines.sampling import GridRequest, to_model_range, visible_rows
from tests.pipelines.runs import decoded, moving_square, run


@pytest.fixture
def pair(clip: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A clip of a second, and a shorter, taller one at another rate."""
    return clip, moving_square(tmp_path / "fire.mp4", 12, size=(96, 64), fps=24)


def compose_job(pair: tuple[Path, Path], **values: object) -> ComposeJob:
    settings = {
        "num_inference_steps": 2,
        "model": "tiny",
        "dtype": "fp32",
        "duration_s": 0.4,
        **values,
    }
    return ComposeJob(first=pair[0], second=pair[1], **settings)  # type: ignore[arg-type]


def test_two_clips_make_two_fusions(pair: tuple[Path, Path]) -> None:
    result = run(compose_job(pair))
    assert [path.name for path in result.files] == [
        "input.fire.fusion.mp4",
        "input.fire.fusion-2.mp4",
        "input.fire.fusion.png",
        "input.fire.fusion.json",
    ]
    assert [one.cell for one in result.manifest.outputs] == [2, 3]
    first, second = (decoded(path) for path in result.files[:2])
    assert first.shape == second.shape == (5, 64, 96, 3)
    assert not torch.equal(first, second)


def test_the_first_clip_decides_shape_and_length(pair: tuple[Path, Path]) -> None:
    short = moving_square(pair[0].parent / "short.mp4", 7)
    for inputs, cell, frames in (
        ((pair[0], short), (32, 48), [9, 5]),
        ((short, pair[0]), (32, 48), [9, 9]),
        ((pair[1], pair[0]), (48, 32), [9, 9]),
        ((pair[0], pair[0]), (32, 48), [9, 9]),
    ):
        plan = plan_run(prepare_run(compose_job(inputs, duration_s=0.75)))
        assert [one.cell_size for one in plan.clips] == [cell] * 2
        assert [one.num_frames for one in plan.clips] == frames
        text = "\n".join(plan.lines())
        assert "A: Source" in text
        assert "B: Source" in text
        assert ("B is shorter: its 5 frames" in text) == (frames == [9, 5])


def test_sources_reach_the_model_as_they_are_and_stay(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[GridRequest] = []
    real = generate.fill_grid

    def spy(backbone, request, progress):  # type: ignore[no-untyped-def]
        seen.append(request)
        return real(backbone, request, progress)

    monkeypatch.setattr(generate, "fill_grid", spy)
    result = run(compose_job(pair, save_grid=True))
    (request,) = seen
    assert request.grid.mode == "composition"
    assert sorted(request.given) == [0, 1]
    # The cells of a source read their own clause and the global one; a fusion reads all.
    spec = plan_run(prepare_run(compose_job(pair, force=True))).spec
    rows = visible_rows(request.grid, replace(spec, own_clause_only=False))
    assert [sum(row) for row in rows] == [2, 2, 5, 5]
    assert to_model_range(request.given[1]).abs().max() <= 1
    grid_THWC = decoded(result.files[-2])
    assert grid_THWC.shape[1:] == (64, 96, 3)


def test_words_reach_the_cells_that_they_are_for(pair: tuple[Path, Path]) -> None:
    grid = resolve_fusions(
        compose_job(pair, subject="a man", concept="a shower of sparks", prompts=("in a ring",))
    )
    text = {one.cell: grid.prompt.segment_text(one) for one in grid.prompt.segments}
    assert "a man" in text[None]
    assert "shower of sparks" in text[None]
    assert "man" not in text[1].lower()
    assert "in a ring" in text[2]
    assert "in a ring" not in text[3]
    assert text[2] != text[3]
    assert grid.labels == ("A", "B", "fusion", "fusion-2")


def test_a_row_of_three_has_one_fusion(pair: tuple[Path, Path]) -> None:
    result = run(compose_job(pair, layout="composition-1x3"))
    assert [path.suffix for path in result.files] == [".mp4", ".png", ".json"]
    assert result.manifest.grid.edit_of_cell == (None, None, 0)


def test_a_composition_can_be_made_again(pair: tuple[Path, Path]) -> None:
    first = run(compose_job(pair, concept="a fire"))
    manifest = read_manifest(first.files[-1])
    assert manifest.command == "compose"
    assert manifest.grid == first.manifest.grid
    prepared, _ = prepare_rerun(RerunJob(manifest=first.files[-1]))
    assert run(prepared).same_pixels is True
    moved = pair[1].rename(pair[1].parent / "else.mp4")
    with pytest.raises(InputVideoError, match="does not exist"):
        prepare_rerun(RerunJob(manifest=first.files[-1], force=True))
    with pytest.raises(UsageError, match="1 time, the run had 2"):
        prepare_rerun(RerunJob(manifest=first.files[-1], inputs=(moved,)))
    again = RerunJob(manifest=first.files[-1], inputs=(pair[0], moved), force=True)
    assert prepare_rerun(again)[0].job.inputs == (pair[0], moved)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"layout": "edit-2x2"}, UsageError, "not for composing"),
        ({"layout": "no-such"}, RecipeError, "no-such"),
        ({"prompts": ("a", "b", "c")}, UsageError, "3 prompts for 2 fusions"),
        ({"layout": "composition-1x3", "prompts": ("a", "b")}, UsageError, "2 prompts for 1"),
        ({"seed": -1}, UsageError, "seed -1"),
        ({"concept_start_s": 99.0}, InputVideoError, "past the end"),
        ({"second": Path("none.mp4")}, InputVideoError, "none.mp4 does not exist"),
    ],
)
def test_impossible_jobs_are_refused(
    pair: tuple[Path, Path], values: dict[str, object], error: type[Exception], message: str
) -> None:
    asked = replace(compose_job(pair), **values)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        plan_run(prepare_run(asked))
    assert sorted(path.name for path in pair[0].parent.iterdir()) == ["fire.mp4", "input.mp4"]


def test_an_input_is_never_overwritten(pair: tuple[Path, Path]) -> None:
    with pytest.raises(Exception, match="one file for 2 results"):
        prepare_run(compose_job(pair, out=pair[1], force=True))
    with pytest.raises(Exception, match="is an input"):
        prepare_run(compose_job(pair, out=pair[1], force=True, layout="composition-1x3"))
