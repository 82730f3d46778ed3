"""`dcgrid batch` as it is typed."""

import io
import json
import sys
from pathlib import Path

import pytest

from dcgrid.cli.main import main
from tests.batch.batches import copies, write_jobs

SET = [
    *("--set", "model=tiny", "--set", "duration=0.4", "--set", "num-inference-steps=1"),
    *("--set", "upsample=none", "--on", "here"),
]


def test_a_folder_of_clips(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = clip.parent / "clips", tmp_path / "out"
    folder.mkdir()
    for number, name in enumerate(copies(clip, 2)):
        (clip.parent / name).rename(folder / name)
        with (folder / name).open("ab") as stream:
            stream.write(b"\0" * (8 * number + 8))
    words = ["batch", str(folder), "--effect", "rain", *SET, "--out", str(out)]
    assert main([*words, "--dry-run", "--format", "json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["rows"], planned["downloads"]) == (2, {})
    assert planned["disk_bytes"] > 0
    assert not out.exists()
    assert main([*words, "--format", "json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in done["rows"]] == ["done", "done"]
    home = out / "items" / done["rows"][0]["id"]
    assert main(["rerun", str(home / "manifest.json"), "--out", str(tmp_path / "again")]) == 0
    assert "same pixels" in capsys.readouterr().out
    assert main(words) == 0
    assert "2 rows: 2 done" in capsys.readouterr().out


def test_problems_of_rows_are_all_printed(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = write_jobs(clip, [{"sed": 1}, {"input": "gone.mp4"}, {}])
    assert main(["batch", str(jobs), "--out", str(tmp_path / "out")]) == 3
    text = capsys.readouterr().err
    assert f"{jobs}:1: key 'sed' is unknown" in text
    assert f"{jobs}:2: " in text
    assert "2 problems; nothing was begun" in text
    assert not (tmp_path / "out").exists()


def test_failed_rows_end_in_their_exit_code(
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self, job, progress):  # type: ignore[no-untyped-def]
        raise ValueError("of a bug")

    monkeypatch.setattr("dcgrid.api.Session.run_job", broken)
    jobs = write_jobs(clip, [{}])
    words = ["batch", str(jobs), "--out", str(tmp_path / "out"), "--on", "here"]
    assert main([*words, "--format", "json"]) == 3
    found = capsys.readouterr()
    assert json.loads(found.out)["rows"][0]["error"] == "internal error: of a bug"
    assert "1 of 1 rows failed" in found.err
    assert main(words) == 3
    assert f"{jobs}:1: internal error: of a bug" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["batch", "-", "--out", "o", "--set", "seed"], 2, "not of the form KEY=VALUE"),
        (["batch", "gone.csv", "--out", "o"], 3, "cannot read gone.csv"),
        (["batch", "-", "--out", "o", "--set", "sed=1"], 3, "'sed' is unknown"),
        (["batch", "-", "--out", "s9://x"], 3, "s9"),
        (["batch", "-", "--out", "input.mp4"], 3, "is a file"),
    ],
)
def test_bad_words(
    words: list[str],
    code: int,
    part: str,
    clip: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(clip.parent)
    monkeypatch.setattr(sys, "stdin", io.StringIO("input,effects,model\ninput.mp4,rain,tiny\n"))
    assert main(words) == code
    assert part in capsys.readouterr().err


def test_rows_take_the_settings_of_their_command(
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A row is `dcgrid edit` with its options: row > --set > variable > config.toml."""
    config = tmp_path / "config.toml"
    config.write_text(
        'model = "tiny"\n[edit]\nduration = 0.4\nseed = 5\neffect = ["rain"]\nupsample = "none"\n'
        'rank = "motion,flicker"\nforce = true\nout = "elsewhere"\n[compose]\nseed = 9\n'
    )
    monkeypatch.setenv("DCGRID_CONFIG", str(config))
    monkeypatch.setenv("DCGRID_EDIT_NUM_INFERENCE_STEPS", "1")
    monkeypatch.setenv("DCGRID_EDIT_CONTACT_SHEET", "no")
    jobs = clip.parent / "jobs.jsonl"
    rows = [{"input": clip.name}, {"input": clip.name, "seed": 7, "effects": ["fog"]}]
    jobs.write_text("".join(json.dumps(one) + "\n" for one in rows))
    out = tmp_path / "out"
    words = ["batch", str(jobs), "--set", "duration=0.3", "--on", "here", "--out", str(out)]
    assert main([*words, "--format", "json"]) == 0
    done = json.loads(capsys.readouterr().out)
    made = [
        json.loads((out / "items" / one["id"] / "manifest.json").read_text())
        for one in done["rows"]
    ]
    asked = [one["job"] for one in made]
    assert [one["seed"] for one in asked] == [5, 7]
    assert [one["effects"] for one in asked] == [["rain"], ["fog"]]
    for job in asked:
        assert (job["model"], job["duration_s"], job["upsample"]) == ("tiny", 0.3, "none")
        assert (job["num_inference_steps"], job["contact_sheet"]) == (1, False)
        assert job["rank"] == ["motion", "flicker"]
        assert job["origins"]["num-inference-steps"] == "DCGRID_EDIT_NUM_INFERENCE_STEPS"
        assert job["origins"]["model"] == f"{config}:1"
        assert "duration" not in job["origins"]
    assert ("seed" in asked[0]["origins"], "seed" in asked[1]["origins"]) == (True, False)
    assert not (clip.parent / "elsewhere").exists()
    config.write_text("[edit]\nseed = -1\n")
    assert main([*words[:-1], str(tmp_path / "other")]) == 2
    assert f"{config}:2" in capsys.readouterr().err
