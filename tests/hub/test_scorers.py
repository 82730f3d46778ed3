"""Networks for scores on the hub: each file needed, each known hash checked."""

import hashlib
from dataclasses import replace
from types import MappingProxyType

import pytest

from dcgrid import hub
from dcgrid.cli.main import main
from dcgrid.errors import WeightsError
from dcgrid.hub import known_models
from tests.hub.server import Hub, safetensors_bytes

NAME = "dino-vits16"
REPO = hub.SCORERS[NAME].repo


def test_no_name_is_taken_twice_and_every_hash_is_of_a_file() -> None:
    assert not hub.SCORERS.keys() & hub.MODELS.keys()
    for model in hub.SCORERS.values():
        assert model.is_scorer
        assert set(model.sha256) <= set(model.patterns)
        assert all(len(digest) == 64 for digest in model.sha256.values())
        assert all(model.wants(path) for path in model.patterns)
        assert not model.wants("pytorch_model.bin")


def test_a_network_arrives_and_is_found_again(fake_hub: Hub) -> None:
    files = {"model.safetensors": safetensors_bytes(10_000), "README.md": b"#", "config.json": b""}
    fake_hub.add(REPO, files)
    path = hub.fetch_model(NAME)
    assert [one.name for one in path.iterdir()] == ["model.safetensors"]
    assert hub.locate_model(NAME) == path
    from dcgrid.eval.encoders.encoders import find_network

    found = find_network(NAME, None, offline=True)
    digest = hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert found.label == f"{NAME} {digest[:8]}"
    assert hub.remove_model(NAME) > 10_000
    assert hub.locate_model(NAME) is None


def test_a_repository_without_a_needed_file_is_refused(fake_hub: Hub) -> None:
    fake_hub.add(REPO, {"pytorch_model.bin": b"pickle"})
    with pytest.raises(WeightsError, match=r"lacks model\.safetensors"):
        hub.fetch_model(NAME)


def test_a_file_that_is_not_the_known_one_is_refused(
    fake_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = safetensors_bytes(10_000)
    fake_hub.add(REPO, {"model.safetensors": content})
    right, wrong = hashlib.sha256(content).hexdigest(), "0" * 64
    for known in (wrong, right):
        row = replace(hub.SCORERS[NAME], sha256={"model.safetensors": known})
        monkeypatch.setattr(known_models, "SCORERS", MappingProxyType({NAME: row}))
        if known == wrong:
            with pytest.raises(WeightsError, match="is not the file that dino-vits16 stands for"):
                hub.fetch_model(NAME)
            assert hub.locate_model(NAME) is None
    assert hub.fetch_model(NAME).is_dir()


def test_the_command_serves_them_apart(fake_hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    commit = fake_hub.add(REPO, {"model.safetensors": safetensors_bytes(10_000)})
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert out.index("for scores") < out.index(NAME)
    assert main(["models", "pull", NAME]) == 0
    assert "Licence" in capsys.readouterr().err
    assert main(["models", "info", NAME]) == 0
    out = capsys.readouterr().out
    assert commit in out
    assert "fps" not in out
    assert main(["models", "rm", NAME, "--yes"]) == 0
    assert hub.locate_model(NAME) is None


def test_they_make_no_videos(capsys: pytest.CaptureFixture[str], clip: object) -> None:
    assert main(["edit", str(clip), "--model", NAME, "--effect", "rain"]) == 2
    assert f"no model is called '{NAME}'" in capsys.readouterr().err
