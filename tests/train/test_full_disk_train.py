"""A full disk while a stage is trained: one sentence, no half file, the last good weights kept."""

from pathlib import Path

import pytest

from dcgrid.cli.main import main
from tests.small_disk import fill, small_disk

LEFT = (0, 4096, 20_480, 65_536)
STAGES = ("autoencoder", "base", "fill", "upsampler")


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files but logs, which grow line by line."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.suffix not in (".jsonl", ".lock") and path.name != "filler"
    }


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_on_a_disk_that_fills_up(
    stage: str,
    recipe_of,
    tiny_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))
    ends = []
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        run = disk / "run"

        def train(one: str, *more: str) -> int:
            words = ["train", "--stage", one, "--model", "tiny", "--out", str(run), "--quiet"]
            recipe = ["--recipe", str(recipe_of(one, steps=4)), "--world", str(tiny_store)]
            return main([*words, *recipe, *more])

        for earlier in STAGES[: STAGES.index(stage) + 1]:
            assert train(earlier) == 0  # so there are good weights to lose
        before = files_of(run)
        for left in LEFT:
            fill(disk, left)
            code = train(stage, "--force")
            err = capsys.readouterr().err
            (disk / "filler").unlink()
            ends.append(code)
            found = files_of(run)
            assert not [name for name in found if ".part" in name or ".old" in name]
            if code == 0:
                before = found
                continue
            assert code == 3, err
            assert "Traceback" not in err
            errors = [line for line in err.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, err
            assert "no space left" in errors[0].lower()
            assert [line for line in err.splitlines() if line.startswith("hint: ")]
            assert found.keys() >= before.keys(), "the last good files stay"
            assert all(len(found[name]) for name in before)
        assert train(stage, "--force") == 0, "with room again it goes on"
    assert 3 in ends
