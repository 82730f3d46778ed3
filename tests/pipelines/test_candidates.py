"""Best of N: how tries are ranked, and that a run generates, ranks, tells and repeats them."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from dcgrid.errors import UsageError
from dcgrid.io.progress import NullProgress
from dcgrid.pipelines.generate import Generated
from dcgrid.pipelines.job import EditJob, check_numbers
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.ranking import (
    Measure,
    Try,
    TryScore,
    rank_by_measures,
    why_first,
)
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from dcgrid.pipelines.run import run_plan
from dcgrid.video.read import decode_all
from dcgrid.video.write import write_video


def tried(number: int, **values: float | None) -> Try:
    lower = {"flicker"}
    measures = {
        key: Measure(
            label=key.upper(), value=value, higher_is_better=key not in lower, reason="no face"
        )
        for key, value in values.items()
    }
    score = TryScore(structure=0, flicker=0)
    return Try(generated=Generated((), (), None, number), cell=1, score=score, measures=measures)


def test_the_mean_rank_decides_and_wide_values_do_not_outvote():
    tries = [tried(0, id=0.5, tc=0.90), tried(1, id=0.6, tc=0.91), tried(2, id=0.1, tc=0.99)]
    # Ranks: id 1, 0, 2; tc 2, 1, 0: means 1.5, 0.5, 1.
    assert rank_by_measures(tries, ("id", "tc")) == [1, 2, 0]


def test_ties_go_to_the_metric_that_is_named_first():
    tries = [tried(0, id=0.5, tc=0.9), tried(1, id=0.6, tc=0.8)]
    assert rank_by_measures(tries, ("id", "tc")) == [1, 0]
    assert rank_by_measures(tries, ("tc", "id")) == [0, 1]


def test_lower_is_better_where_it_is():
    tries = [tried(0, flicker=2.0), tried(1, flicker=1.0)]
    assert rank_by_measures(tries, ("flicker",)) == [1, 0]


def test_what_cannot_be_measured_is_last_or_left_out():
    tries = [tried(0, id=None, tc=0.9), tried(1, id=0.2, tc=0.8)]
    assert rank_by_measures(tries, ("id",)) == [1, 0]
    nobody = [tried(0, id=None, tc=0.8), tried(1, id=None, tc=0.9)]
    assert rank_by_measures(nobody, ("id", "tc")) == [1, 0]
    assert rank_by_measures(nobody, ("id",)) == [0, 1]


def test_the_reason_names_values_and_the_best():
    tries = [tried(0, id=0.5, tc=0.95), tried(1, id=0.6, tc=0.9), tried(2, id=None, tc=0.1)]
    told = why_first("rain", tries, [0, 1, 2], ("id", "tc"))
    assert told == "rain: seed 0, cell 1 of 3 tries; ID 0.5000 (best 0.6000), TC 0.9500 (the best)"
    assert "ID not measured (no face)" in why_first("rain", tries, [2, 0, 1], ("id",))


@pytest.mark.parametrize(
    ("count", "rank", "seed"),
    [(0, (), 0), (65, (), 0), (2, ("id", "id"), 0), (2, ("",), 0), (3, (), 2**63 - 2)],
)
def test_impossible_candidates_are_refused(count, rank, seed):
    with pytest.raises(UsageError):
        check_numbers(EditJob(input=Path(), candidates=count, rank=rank, seed=seed))


@dataclass
class Darkest:
    """Ranks by darkness, which the seed decides."""

    keys: tuple[str, ...] = ("dark",)
    seen: list[float] = field(default_factory=list)

    def measure(self, given_THWC, made_THWC, text, fps):
        assert given_THWC.shape[0] == made_THWC.shape[0]
        assert "rain" in text
        value = float(made_THWC.float().mean())
        self.seen.append(value)
        return {"dark": Measure(label="dark", value=value, higher_is_better=False)}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    frames = torch.randint(0, 255, (5, 96, 160, 3), dtype=torch.uint8)
    write_video(path, frames, 12)
    return path


def run(job: EditJob, ranker=None):
    return run_plan(plan_run(prepare_run(job)), NullProgress(), ranker=ranker)


def job(clip: Path, **changes) -> EditJob:
    fields = {
        "effects": ("rain",),
        "model": "tiny",
        "num_inference_steps": 2,
        "candidates": 2,
        "seed": 3,
        "duration_s": 0.4,
    }
    return EditJob(input=clip, **{**fields, **changes})


def test_the_best_of_all_seeds_is_written_and_the_run_can_be_repeated(clip: Path) -> None:
    ranker = Darkest()
    result = run(job(clip, rank=("dark",)), ranker)
    assert len(ranker.seen) == 6  # two seeds, three cells each
    (kept,) = result.manifest.outputs
    assert kept.measures["dark"] == round(min(ranker.seen), 6)
    place = ranker.seen.index(min(ranker.seen))
    assert (kept.seed, kept.cell) == (3 + place // 3, 1 + place % 3)
    prepared, _ = prepare_rerun(RerunJob(manifest=clip.with_name("clip.rain.json")))
    again = run_plan(plan_run(prepared), NullProgress())
    assert again.same_pixels
    assert again.manifest.outputs[0].seed == kept.seed


def test_a_candidate_has_the_pixels_of_its_seed_alone(clip: Path, tmp_path: Path) -> None:
    both = run(job(clip, keep="all", candidates=2))
    alone = run(job(clip, keep="all", candidates=1, seed=4, force=True))
    of_seed_4 = {one.cell: one.frames_sha256 for one in both.manifest.outputs if one.seed == 4}
    assert of_seed_4 == {one.cell: one.frames_sha256 for one in alone.manifest.outputs}
    assert len(both.manifest.outputs) == 6


def test_without_a_ranker_the_cheap_scores_rank_all_seeds(clip: Path) -> None:
    (kept,) = run(job(clip)).manifest.outputs
    every = run(job(clip, keep="all", force=True)).manifest.outputs
    best = max(every, key=lambda one: one.structure - 10 * one.flicker)
    assert (kept.seed, kept.cell) == (best.seed, best.cell)
    assert json.dumps(dict(kept.measures)) == "{}"


def test_a_file_shows_the_pixels_of_the_seed_that_the_manifest_names(clip: Path) -> None:
    result = run(job(clip, rank=("dark",)), Darkest())
    shown = torch.stack([frame for _, frame in decode_all(result.files[0])])
    kept = result.manifest.outputs[0]
    alone = run(job(clip, candidates=1, seed=kept.seed, keep="all", force=True))
    number = next(i for i, one in enumerate(alone.manifest.outputs) if one.cell == kept.cell)
    same = torch.stack([frame for _, frame in decode_all(alone.files[number])])
    assert torch.equal(shown, same)


def test_a_rerun_generates_only_the_seeds_that_were_kept(clip: Path) -> None:
    run(job(clip, rank=("dark",)), Darkest())
    prepared, _ = prepare_rerun(RerunJob(manifest=clip.with_name("clip.rain.json")))
    prepared = replace(prepared, job=replace(prepared.job, contact_sheet=False))
    told = []

    class Told(NullProgress):
        def start(self, stage, total=None, *, in_bytes=False):
            told.append(stage)

    run_plan(plan_run(prepared), Told())
    assert told.count("sampling") == 1
