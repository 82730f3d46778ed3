"""What is suggested where a file that was named is not there."""

from pathlib import Path

import pytest

from dcgrid.cli.main import main
from dcgrid.io.text import missing_hint


def test_near_names_missing_folders_and_addresses(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"")
    assert missing_hint(tmp_path / "holidays.mp4") == "did you mean holiday.mp4?"
    assert missing_hint(tmp_path / "no" / "a.mp4") == f"there is no folder {tmp_path / 'no'}"
    assert str(tmp_path) in missing_hint(tmp_path / "xyz.avi")
    for address in ("https://example.com/a.mp4", "http://a.b/c", "ftp://a/b", "s3://bucket/a.mp4"):
        assert missing_hint(Path(address)).startswith("download it first")


@pytest.mark.parametrize("words", [["edit"], ["compose", "--concept", "fire"], ["eval"], ["rerun"]])
def test_an_address_is_shown_as_it_was_typed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    address = "https://example.com/a.mp4"
    assert main([words[0], address, *words[1:], *(["-e", "rain"] if words == ["edit"] else [])]) > 1
    assert f"{address}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none.mp4", "https://example.com/a.mp4", "no/such.mp4", ".."])
def test_hints_name_no_bare_dot(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["edit", name, "-e", "rain"]) == 3
    shown = capsys.readouterr().err
    assert "`ls" not in shown
    assert " .\n" not in shown
