"""The time that a plan tells is that of the last run, by how much there is to do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dcgrid import hub
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.times import Work, expected_seconds, keep_rates, time_line
from tests.pipelines.runs import job, moving_square, run, story_job, tell


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))


def work(tokens: int = 100, pixels: int = 1000, setting: str = "mini on cpu, fp32") -> Work:
    return Work(setting=setting, tokens=tokens, pixels=pixels, duration_s=10.0)


TOOK = {"read": 1.0, "load": 2.0, "fill": 10.0, "write": 20.0}


def test_more_to_do_takes_longer_in_proportion() -> None:
    assert expected_seconds(work()) is None
    assert time_line(work()) == "Time: unknown yet, before the first run with mini on cpu, fp32."
    keep_rates(work(), TOOK)
    assert expected_seconds(work()) == pytest.approx(33)
    assert expected_seconds(work(tokens=200, pixels=500)) == pytest.approx(3 + 20 + 10)
    assert expected_seconds(work(setting="mini on cuda, bf16")) is None
    assert time_line(work()) == (
        "Time: about 33 s, by the last run with mini on cpu, fp32; --duration 5.0 would take "
        "about 18 s."
    )
    assert "--duration" not in time_line(work(tokens=10, pixels=100))
    assert "about 27.8 h" in time_line(work(tokens=1_000_000))
    assert "about 8 min" in time_line(work(tokens=4500))


def test_a_run_leaves_its_rates(tmp_path: Path) -> None:
    clip = moving_square(tmp_path / "a.mp4", 12, size=(64, 96))
    planned = job(clip, out=tmp_path)
    assert plan_run(prepare_run(planned)).as_json()["expected_s"] is None
    result = run(planned)
    again = plan_run(prepare_run(job(clip, out=tmp_path, force=True)))
    took = sum(result.manifest.timings_s[name] for name in ("read", "load", "fill", "write"))
    assert again.as_json()["expected_s"] == pytest.approx(took, rel=0.01)


def test_a_story_leaves_its_rates_too(tmp_path: Path) -> None:
    tale = story_job(tmp_path, "rain", "fog", source=moving_square(tmp_path / "a.mp4", 12))
    assert "Time: unknown yet" in "\n".join(plan_run(prepare_run(tale)).lines())
    result = tell(tale)
    again = plan_run(prepare_run(replace(tale, force=True)))
    took = sum(result.manifest.timings_s[name] for name in ("read", "load", "fill", "write"))
    assert again.as_json()["expected_s"] == pytest.approx(took, rel=0.01)
    alone = plan_run(prepare_run(story_job(tmp_path, "rain", name="text")))
    assert alone.as_json()["expected_s"] > 0


def test_other_ways_to_work_have_rates_of_their_own(tmp_path: Path) -> None:
    clip = moving_square(tmp_path / "a.mp4", 12)
    run(job(clip, out=tmp_path))
    for values in ({"upsample": "none"}, {"dtype": "bf16"}, {"method": "sdedit"}):
        other = replace(job(clip, out=tmp_path), **values)
        assert plan_run(prepare_run(other)).as_json()["expected_s"] is None


@pytest.mark.parametrize("text", ["", "[]", '{"mini on cpu, fp32": {"setup": 1}}', "{", "null"])
def test_rates_that_cannot_be_read_are_not_known(text: str) -> None:
    keep_rates(work(), TOOK)
    (hub.cache_dir() / "rates.json").write_text(text)
    assert expected_seconds(work()) is None
    keep_rates(work(), TOOK)
    assert list(json.loads((hub.cache_dir() / "rates.json").read_text())) == [work().setting]


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "file"))
    keep_rates(work(), TOOK)
    assert expected_seconds(work()) is None
