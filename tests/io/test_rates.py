"""Rates of earlier runs: kept by setting, and a file that is no longer sound is as none."""

from pathlib import Path

import pytest

from dcgrid.io.progress import keep_rates, read_rates


def test_each_setting_keeps_its_last_run(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    assert read_rates(path, "a") == {}
    keep_rates(path, "a", {"step": 1.5})
    keep_rates(path, "b", {"step": 2.0, "load": 3})
    keep_rates(path, "a", {"step": 0.5})
    assert read_rates(path, "a") == {"step": 0.5}
    assert read_rates(path, "b") == {"step": 2.0, "load": 3.0}


DAMAGED = (
    "",
    "[]",
    "{",
    '{"a": 3}',
    '{"a": {"step": "x"}}',
    '{"a": {"step": NaN}}',
    '{"a": {"step": -1}}',
    '{"a": {"step": 1e999}}',
    f'{{"a": {{"step": {10**400}}}}}',
)


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_as_none_and_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(text)
    assert read_rates(path, "a") == {}
    keep_rates(path, "a", {"step": 1.0})
    assert read_rates(path, "a") == {"step": 1.0}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keep_rates(tmp_path / "file" / "rates.json", "a", {"step": 1.0})
