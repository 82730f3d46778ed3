"""The command of a hint installs the extra into this Python, from where dcgrid came."""

import json
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from dcgrid.runtime import install

ROOT = Path(__file__).parents[2]


class Installed:
    """A distribution that says where it came from."""

    def __init__(self, origin: str | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.origin


def words(extra: str) -> list[str]:
    return shlex.split(install.install_hint(extra))


def test_a_checkout_installs_itself() -> None:
    assert words("wan") == [sys.executable, "-m", "pip", "install", "-e", f"{ROOT}[wan]"]


def test_an_installed_copy_names_the_folder_that_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "two words"
    checkout.mkdir()
    origin = json.dumps({"url": checkout.as_uri(), "dir_info": {}})
    monkeypatch.setattr(install, "__file__", str(tmp_path / "site/dcgrid/runtime/install.py"))
    monkeypatch.setattr(metadata, "distribution", lambda _: Installed(origin))
    assert words("eval")[-1] == "dcgrid[eval]", "the folder is no checkout any more"
    shutil.copy(ROOT / "pyproject.toml", checkout)
    assert words("eval")[-2:] == ["-e", f"{checkout}[eval]"]


@pytest.mark.parametrize("origin", [None, "{}", "no JSON"])
def test_a_copy_from_elsewhere_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None
) -> None:
    monkeypatch.setattr(install, "__file__", str(tmp_path / "site/dcgrid/runtime/install.py"))
    monkeypatch.setattr(metadata, "distribution", lambda _: Installed(origin))
    assert words("train") == [sys.executable, "-m", "pip", "install", "dcgrid[train]"]
