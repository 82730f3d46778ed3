"""Scores of compositions, and of the seams of long clips."""

import math

import pytest
import torch

from benchmarks.clips import BenchClip
from benchmarks.compose import FusionScore, report, score_fusions
from benchmarks.seams import score_seams
from dcgrid.models.registry import find_model
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.synthetic.fusion import fuse_around, fuse_lit
from tests.pipelines.runs import job, moving_square

CPU = torch.device("cpu")


def scene() -> torch.Tensor:
    return torch.randint(256, (5, 32, 48, 3), generator=torch.Generator().manual_seed(1)).byte()


def test_a_perfect_fusion_has_no_error_and_the_inputs_have_theirs(tmp_path, monkeypatch):
    seen = {}

    def perfect(backbone, request, progress):
        sources = [request.given[cell].permute(3, 0, 1, 2).float() / 255 for cell in (0, 1)]
        seen["given"] = sources
        made = [fuse(*sources) for fuse in (fuse_around, fuse_lit)]
        frames = [(one * 255).round().byte().permute(1, 2, 3, 0) for one in made]
        return dict(zip((2, 3), frames, strict=True))

    monkeypatch.setattr("benchmarks.compose.fill_grid", perfect)
    clip = BenchClip(path=tmp_path / "a.mp4", frames_THWC=scene())
    backbone = find_model("tiny").load()
    around, lit = score_fusions(backbone, clip, "sparks", 3)
    assert around.fused_db == lit.fused_db == 100.0
    truth = fuse_lit(*seen["given"]) * 255
    errors = [((one * 255 - truth.round()) ** 2).mean() for one in seen["given"]]
    best = 10 * math.log10(255**2 / min(map(float, errors)))
    assert lit.pasted_db == pytest.approx(best, abs=0.05)


def test_tiny_is_scored_by_the_real_sampler(tmp_path):
    clip = BenchClip(path=tmp_path / "a.mp4", frames_THWC=scene())
    scores = score_fusions(find_model("tiny").load(), clip, "fire", 0)
    assert [score.fusion for score in scores] == ["around", "lit"]
    assert all(0 < score.fused_db < 40 for score in scores)


def test_the_report_names_the_lowest_gain():
    def score(clip, fused, pasted):
        return FusionScore(
            clip=clip, element="fire", fusion="lit", fused_db=fused, pasted_db=pasted
        )

    text = report([score("a.mp4", 30.0, 10.0), score("b.mp4", 20.0, 18.0)])
    assert "mean                          25.00         14.00 11.00" in text
    assert "lowest gain: 2.00 dB (b.mp4 with fire, lit)" in text


@pytest.fixture
def long_plan(tmp_path):
    clip = moving_square(tmp_path / "long.mp4", 60)
    return plan_run(prepare_run(job(clip, duration_s=None)))


def test_a_jump_where_windows_meet_is_seen_and_one_elsewhere_is_not_a_seam(long_plan):
    windows = long_plan.windows
    count = long_plan.clips[0].num_frames
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(100, 110, (count, 16, 16, 3), generator=generator).byte()
    border = windows[2].first + windows[2].head - 1
    jump = clip.clone()
    jump[border + 1 :] += 60
    seen = score_seams("jump", long_plan, clip, jump)
    assert seen.worst == 1.0
    assert len(seen.borders) == len(windows) - 1
    assert len(seen.borders) + len(seen.others) == count - 1
    smooth = score_seams("same", long_plan, clip, clip)
    assert max(map(abs, smooth.borders)) == 0
    elsewhere = clip.clone()
    elsewhere[border + 2 :] += 60
    assert score_seams("else", long_plan, clip, elsewhere).worst < 1.0
