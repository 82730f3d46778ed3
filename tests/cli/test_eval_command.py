"""`dcgrid eval` as its user types it: default command, dry run, exit codes, lists, the page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dcgrid.cli.evaluate import _exit_code
from dcgrid.cli.main import main
from dcgrid.eval.results import read_results
from dcgrid.video.write import write_video

SMALL = ["--suite", "truth", "--model", "tiny", "--device", "cpu", "--duration", "0.4"]
SMALL += ["--method", "unedited", "--method", "grid", "--offline"]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    frames = torch.randint(40, 200, (9, 64, 96, 3), dtype=torch.uint8)
    write_video(folder / "one.mp4", frames, 12)
    return folder


def told(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["eval", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_clips_come_without_the_word_run(clips: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    code, text, _ = told(capsys, clips, *SMALL, "--metric", "psnr", "--out", out)
    assert code == 0
    assert "PSNR" in text
    assert f"wrote {out / 'report.html'}" in text
    assert "Unedited" in text


def test_json_is_the_results_file(clips: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    code, text, _ = told(
        capsys, "run", clips, *SMALL, "--metric", "psnr", "--out", out, "--format", "json"
    )
    assert code == 0
    assert json.loads(text) == json.loads((out / "results.json").read_text())


def test_a_dry_run_makes_nothing(clips: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    code, text, _ = told(
        capsys,
        clips,
        "--suite",
        "paper",
        "--dry-run",
        "--format",
        "json",
        "--offline",
        "--out",
        out,
    )
    plan = json.loads(text)
    assert code == 0
    assert plan["results"] == 3 * len(plan["methods"])
    assert "pull" in plan["blank"]["ct"]
    assert not (out / "results.json").exists()


def test_a_blank_column_ends_in_4_and_says_why(clips: Path, tmp_path: Path, capsys) -> None:
    code, text, err = told(
        capsys, clips, *SMALL, "--metric", "psnr", "--metric", "tc", "--out", tmp_path / "out"
    )
    assert code == 4
    assert "dcgrid models pull dino-vits16" in text
    assert "TC will be blank" in err


def test_only_a_metric_that_was_asked_for_ends_in_4(clips: Path, tmp_path: Path, capsys) -> None:
    """The same results: with the suite's own metrics it would be a blank column and 0."""
    out = tmp_path / "out"
    told(capsys, clips, *SMALL, "--metric", "psnr", "--metric", "tc", "--out", out)
    results = read_results(out / "results.json")
    assert _exit_code(results, ("psnr", "tc")) == 4
    assert _exit_code(results, ("psnr",)) == 0
    assert _exit_code(results, ()) == 0


def test_a_missing_result_ends_in_3(clips: Path, tmp_path: Path, capsys) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    code, text, _ = told(
        capsys,
        clips,
        *SMALL,
        *("--metric", "psnr", "--results", f"theirs={theirs}", "--out", tmp_path / "out"),
    )
    assert code == 3
    assert "theirs" in text


def test_no_clips_and_unknown_suites_are_told(tmp_path: Path, capsys) -> None:
    code, _, err = told(capsys, "--suite", "paper")
    assert code == 3
    assert "no clip is named" in err
    code, _, err = told(capsys, tmp_path, "--suite", "papr")
    assert code == 3
    assert "did you mean 'paper'" in err


def test_metrics_and_methods_are_listed(capsys) -> None:
    code, text, _ = told(capsys, "metrics", "--format", "json")
    assert code == 0
    rows = {row["key"]: row for row in json.loads(text)["metrics"]}
    assert rows["psnr"]["unavailable"] == ""
    assert {"id", "ct", "tc"} <= set(rows)
    code, text, _ = told(capsys, "methods")
    assert code == 0
    for name in ("grid", "flowedit", "sdedit", "dreambooth", "set-and-sequence"):
        assert f"\n{name} " in f"\n{text}"


def test_the_page_can_be_written_anew(clips: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    told(capsys, clips, *SMALL, "--metric", "psnr", "--out", out)
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    code, text, _ = told(capsys, "report", out)
    assert code == 0
    assert (out / "report.html").read_bytes() == page
    assert "report.html" in text
    code, _, err = told(capsys, "report", tmp_path)
    assert code == 3
    assert "results.json is what `dcgrid eval --out DIR` writes" in err


def test_the_help_of_the_group_names_its_commands(capsys) -> None:
    code, text, _ = told(capsys, "--help")
    assert code == 0
    for name in ("run", "report", "metrics", "methods", "world", "study"):
        assert name in text


def test_suites_are_checked_with_all_recipes(tmp_path: Path, capsys) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "own"\ntitle = "t"\nkind = "edits"\nmethods = ["grid"]\n')
    assert main(["recipes", "check", str(path)]) == 3
    out, _ = capsys.readouterr()
    assert "key 'kind'" in out
    assert "key 'metrics' is missing" in out
    assert main(["recipes", "check"]) == 0
    out, _ = capsys.readouterr()
    assert "paper.toml: ok" in out.replace("\n", "")


def test_ranking_by_what_cannot_be_is_told_before_anything_is_loaded(
    clips: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    clip = str(clips / "one.mp4")
    for rank, code, words in (
        ("psnr", 2, "needs more than a clip and a try"),
        ("beauty", 2, "is no metric"),
        ("ct", 4, "cannot be measured"),
    ):
        found = main(["edit", clip, "-e", "rain", "--candidates", "2", "--rank", rank, "--offline"])
        _, err = capsys.readouterr()
        assert (found, words in err) == (code, True), err
    assert sorted(path.name for path in clips.iterdir()) == ["one.mp4"]


def test_candidates_are_ranked_by_real_metrics(clips: Path, capsys) -> None:
    clip = str(clips / "one.mp4")
    code = main(
        [
            *("edit", clip, "-e", "rain", "--candidates", "2", "--rank", "motion,flicker"),
            *("--duration", "0.4", "--model", "tiny", "--device", "cpu", "--format", "json"),
        ]
    )
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "rain: seed" in err
    assert "of 6 tries; motion" in err
    assert set(json.loads(out)["outputs"][0]["measures"]) == {"motion", "flicker"}


def test_the_command_line_loads_no_torch() -> None:
    script = "import sys, dcgrid.cli.main; print({'torch', 'cv2', 'av'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "set()"
