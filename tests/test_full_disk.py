"""A full disk in every folder that is written: one sentence, exit code 3, nothing half-written."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import pytest

from dcgrid.cli.main import main
from dcgrid.errors import OutputError
from dcgrid.eval.results import read_results
from dcgrid.eval.study.design import read_key
from dcgrid.eval.study.make import StudyConfig, make_study
from dcgrid.eval.study.serve import OpenStudy, keep_answers
from dcgrid.models.native.model import weights_folder
from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.loop import LoopOptions, train
from tests.eval.study.conftest import OURS, answer_sheet, make_evaluation, right_file
from tests.small_disk import fill, small_disk
from tests.train import toy

LEFT = (0, 4096, 8192, 20_480, 49_152)
TINY = ("--model", "tiny", "--num-inference-steps", "1", "--duration", "0.3")


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def check(
    words: list[str],
    disk: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    can: bool,
    whole: Collection[str] = (),
    space: str = "no space left",
) -> int:
    """Run on a disk that is nearly full; return the exit code."""
    before = files_of(disk)
    code = main(words)
    _, err = capsys.readouterr()
    assert "Traceback" not in err
    assert "internal error" not in err
    assert not [name for name in files_of(disk) if ".part" in name or ".old" in name]
    if code == 0:
        assert can, err
        return code
    assert code == 3, err
    assert files_of(disk) <= before | set(whole)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert space.lower() in errors[0].lower()
    assert [line for line in err.splitlines() if line.startswith("hint: ")]
    return code


@pytest.mark.slow
@pytest.mark.parametrize("left", LEFT)
def test_results_of_edit(
    left: int, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        fill(disk, left)
        words = ["edit", str(clip), "-e", "rain", *TINY, "--out", str(disk), "--quiet"]
        check(words, disk, capsys, can=left > 40_000)


@pytest.mark.slow
@pytest.mark.parametrize("left", LEFT)
def test_the_cache_of_edit(
    left: int,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows of long clips are kept in the cache; a short note of times is, too."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        monkeypatch.setenv("DCGRID_CACHE_DIR", str(disk / "cache"))
        fill(disk, left)
        out = tmp_path / "out"
        out.mkdir()
        code = main(["edit", str(clip), "-e", "rain", *TINY[:4], "--out", str(out), "--quiet"])
        _, err = capsys.readouterr()
        assert "internal error" not in err
        assert "Traceback" not in err
        assert code in (0, 3), err
        assert len(list(out.iterdir())) == (3 if code == 0 else 0)
        assert not [name for name in files_of(disk) if ".part" in name]


@pytest.mark.slow
@pytest.mark.parametrize("left", LEFT)
def test_stories(left: int, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "story.toml"
    script.write_text(
        f'from = "{clip}"\nsubject = "a dog"\nmotion = "run"\nseconds = 0.3\n'
        '[[scenes]]\nprompt = "a dog runs"\n'
        '[[scenes]]\nprompt = "a dog sleeps"\n[[scenes]]\nprompt = "a dog eats"\n'
    )
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        fill(disk, left)
        words = ["story", str(script), "--model", "tiny", "--num-inference-steps", "1"]
        check([*words, "--out", str(disk), "--quiet"], disk, capsys, can=left > 40_000)


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 4096, 20_480])
def test_reports_and_studies(left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        folder = make_evaluation(disk / "results")
        assert read_results(folder / "results.json").items
        fill(disk, left)
        # The tables are whole files of their own; the page may lack the space.
        tables = {f"results/{name}" for name in ("table.md", "table.csv", "items.csv")}
        check(["eval", "report", str(folder)], disk, capsys, can=False, whole=tables)
        words = ["eval", "study", "make", str(folder), "--ours", OURS, "--out", str(disk / "study")]
        check(words, disk, capsys, can=False)
        assert not (disk / "study").exists()


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 4096, 20_480, 65_536])
def test_eval_keeps_what_is_whole_and_goes_on(
    left: int, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["--method", "unedited", "--method", "codec", "--metric", "change"]
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        words = ["eval", str(clip), *methods, "--model", "tiny", "--duration", "0.3", "--quiet"]
        words += ["--out", str(disk / "results")]
        fill(disk, left)
        code = main(words)
        err = capsys.readouterr().err
        assert not [name for name in files_of(disk) if ".part" in name or ".old" in name]
        assert "Traceback" not in err
        assert "internal error" not in err
        assert code == 3, err
        assert "no space left" in err.lower()
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) <= 1, err
        (disk / "filler").unlink()
        assert main(words) == 0
        done = read_results(disk / "results" / "results.json")
        assert {item.status for item in done.items} == {"done"}


@pytest.mark.slow
def test_a_study_that_collects_answers_keeps_those_that_came(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        folder = disk / "study"
        config = StudyConfig(ours=OURS)
        make_study(make_evaluation(disk / "results"), folder, config, on_video=lambda *_: None)
        key = read_key(folder)
        study = OpenStudy(folder=folder, key=key, names=frozenset(), on_answers=lambda _: None)
        sheets = [
            json.dumps(answer_sheet(key, name, lambda shown, _: right_file(shown))).encode()
            for name in ("ada", "bob")
        ]
        assert keep_answers(study, sheets[0]) == "ada.json"
        kept = (study.folder / "answers" / "ada.json").read_bytes()
        fill(disk, 0)
        with pytest.raises(OSError, match="No space left"):
            keep_answers(study, sheets[1])
        assert [path.name for path in (study.folder / "answers").iterdir()] == ["ada.json"]
        assert (study.folder / "answers" / "ada.json").read_bytes() == kept
        (disk / "filler").unlink()
        assert keep_answers(study, sheets[1]) == "bob.json"


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 4096, 20_480])
def test_adapters(left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = weights_folder("mini") / "fill.safetensors"
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        fill(disk, left)
        check(
            ["adapters", "export", str(adapter), "--out", str(disk / "e")], disk, capsys, can=False
        )


@pytest.mark.slow
def test_training_says_what_is_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        folder = disk / "run"
        fill(disk, 0)
        options = LoopOptions(folder=folder, log_every=1)
        with pytest.raises(OutputError, match="cannot write") as raised:
            train(toy.ToyStage(), toy.toy_recipe(3), options, lambda _: None)
        assert "free some space" in raised.value.hint
        assert "--resume" not in raised.value.hint
        (disk / "filler").unlink()
        train(toy.ToyStage(), toy.toy_recipe(3), options, lambda _: None)
        before = (folder / STATE_NAME).read_bytes()
        fill(disk, 0)
        again = LoopOptions(folder=folder, resume=True, accept_changes=True, log_every=1)
        with pytest.raises(OutputError, match="cannot write") as raised:
            train(toy.ToyStage(), toy.toy_recipe(2000), again, lambda _: None)
        assert "--resume" in raised.value.hint
        assert (folder / STATE_NAME).read_bytes() == before
        assert not list(folder.glob(".*"))
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 4096, 20_480, 65_536])
def test_a_batch_fails_no_row_and_goes_on(
    left: int,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = clip.parent / "jobs.jsonl"
    rows = [{"input": clip.name, "effects": ["rain"], "seed": seed} for seed in range(3)]
    jobs.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        out = disk / "out"
        words = ["batch", str(jobs), "--on", "here", "--quiet", "--out", str(out)]
        words += ["--set", "model=tiny", "--set", "num-inference-steps=1", "--set", "duration=0.3"]
        fill(disk, left)
        check(words, disk, capsys, can=False, space="0 MB of free space")
        # A disk that fills up later: what comes before the first row finds space.
        monkeypatch.setattr("dcgrid.batch.plan.free_bytes", lambda _: None)
        assert main(words) == 3
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert "internal error" not in err
        assert "no space left" in err.lower()
        assert not [name for name in files_of(disk) if ".part" in name or "error.json" in name]
        (disk / "filler").unlink()
        assert main([*words, "--format", "json"]) == 0
        done = json.loads(capsys.readouterr().out)
        assert [row["status"] for row in done["rows"]] == ["done"] * 3


@pytest.mark.slow
def test_settings_stay_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        config = disk / "config.toml"
        config.write_text("[edit]\nseed = 4\n")
        monkeypatch.setenv("DCGRID_CONFIG", str(config))
        fill(disk, 0)
        check(["config", "set", "edit.seed", "5"], disk, capsys, can=False)
        assert config.read_text() == "[edit]\nseed = 4\n"
