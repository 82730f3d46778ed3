"""`dcgrid models` and publishing of adapters, against a small hub."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from dcgrid import hub
from dcgrid.adapters.reading import read_spec
from dcgrid.cli.main import main
from dcgrid.models.registry import find_model
from tests.hub.conftest import UNPINNED
from tests.hub.server import SECRET, Fault, Hub

NAME = "wan2.1-1.3b"
REPO = hub.MODELS[NAME].repo
FILL = find_model("mini").files["fill"]


def told(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_list_names_models_of_the_package_and_of_the_hub(fake_hub: Hub, capsys):
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert "in the package" in out
    assert f"hf:{REPO}" in out
    assert main(["models", "list", "--format", "json"]) == 0
    rows = {row["name"]: row for row in told(capsys)["models"]}
    assert {"mini", "tiny", *hub.MODELS} == set(rows)
    assert rows["mini"]["bytes"] > 10_000_000
    assert (rows[NAME]["bytes"], rows[NAME]["state"]) == (None, "not here")
    assert re.search(rf"^{re.escape(NAME)} .* unknown  not here", out, re.MULTILINE)
    assert fake_hub.requests == []


def test_pull_info_and_rm(fake_hub: Hub, model_files, capsys):
    commit = fake_hub.add(REPO, model_files, license="apache-2.0")
    assert main(["models", "pull", NAME, "--format", "json"]) == 0
    streams = capsys.readouterr()
    row = json.loads(streams.out)
    assert (row["state"], row["commit"]) == ("here", commit)
    assert "Licence: apache-2.0" in streams.err
    assert REPO in streams.err
    assert main(["models", "pull", NAME, "--offline"]) == 0
    streams = capsys.readouterr()
    assert commit[:12] in streams.out
    assert "Licence" not in streams.err
    assert main(["models", "info", NAME, "--offline", "--format", "json"]) == 0
    facts = told(capsys)
    assert (facts["commit"], facts["license"], facts["bytes_left"]) == (commit, "apache-2.0", 0)
    assert {one["path"] for one in facts["files"]} >= {"model_index.json", "vae/config.json"}
    assert sum(one["bytes"] for one in facts["files"]) == facts["bytes"]
    assert main(["models", "rm", NAME]) == 2
    assert "--yes" in capsys.readouterr().err
    assert main(["models", "rm", NAME, "--yes", "--format", "json"]) == 0
    assert told(capsys)["bytes_freed"] == facts["bytes"]
    assert hub.locate_model(NAME) is None
    assert main(["models", "rm", NAME]) == 0
    assert "nothing" in capsys.readouterr().out


def test_info_asks_the_hub_for_what_is_not_here(fake_hub: Hub, model_files, capsys):
    assert main(["models", "info", NAME]) == 4
    assert "no repository" in capsys.readouterr().err
    commit = fake_hub.add(REPO, model_files)
    assert main(["models", "info", NAME]) == 0
    out = capsys.readouterr().out
    assert commit in out
    assert "transformer/config.json" in out
    assert hub.read_pin(hub.MODELS[NAME]) is None


def test_an_update_is_taken_only_when_asked_for(fake_hub: Hub, model_files, capsys):
    fake_hub.add(REPO, model_files)
    assert main(["models", "pull", NAME]) == 0
    capsys.readouterr()
    newer = fake_hub.add(REPO, {**model_files, "vae/config.json": b"{}"})
    assert main(["models", "pull", NAME, "--quiet", "--format", "json"]) == 0
    assert told(capsys)["commit"] != newer
    assert main(["models", "pull", NAME, "--update", "--format", "json"]) == 0
    assert told(capsys)["commit"] == newer


def test_an_interrupted_pull_ends_quietly_and_keeps_whole_files(fake_hub: Hub, model_files):
    fake_hub.add(REPO, model_files)
    # The server says nothing more: the program must not wait for it.
    fake_hub.faults = [Fault("GET /cdn", cut_after=10_000, wait_s=60)]
    words = ["models", "pull", NAME]
    script = f"{UNPINNED}from dcgrid.cli.main import main; sys.exit(main({words!r}))"
    running = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    large = [path for path in model_files if path.endswith(".safetensors")]
    while time.monotonic() < deadline:
        names = [path.name for path in hub.hub_dir().rglob("blobs/*")]
        whole = [name for name in names if re.fullmatch("[0-9a-f]{64}", name)]
        if len(whole) == len(large) - 1 and any(name.endswith(".incomplete") for name in names):
            break
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, err = running.communicate(timeout=30)
    assert time.monotonic() - start < 8
    assert running.returncode == 130
    assert err.strip().endswith("interrupted")
    assert "Traceback" not in err
    left = hub.model_download(NAME).bytes_left
    assert left in [len(model_files[path]) for path in large]


def test_what_cannot_be_ends_in_one_error(fake_hub: Hub, capsys):
    cases = [
        (["pull", "wan2.2"], 2, "no model to download"),
        (["pull", NAME], 4, "no repository"),
        (["pull", NAME, "--offline"], 4, "network is off"),
        (["rm", "mini", "--yes"], 2, "part of dcgrid"),
        (["rm", "nobody"], 2, "no model to download"),
        (["info", "nobody"], 2, "no model to download"),
    ]
    for words, code, sentence in cases:
        assert main(["models", *words]) == code, words
        err = capsys.readouterr().err
        assert sentence in err
        assert "hint:" in err
        assert "Traceback" not in err


def test_models_of_the_package_need_no_pull(fake_hub: Hub, capsys):
    assert main(["models", "pull", "mini"]) == 0
    assert "nothing to download" in capsys.readouterr().out
    assert main(["models", "info", "tiny", "--format", "json"]) == 0
    facts = told(capsys)
    assert (facts["files"], facts["frames"]) == ([], 5)
    assert fake_hub.requests == []


def test_adapters_are_listed_with_those_of_a_folder(tmp_path, capsys):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "mine.safetensors").write_bytes(FILL.read_bytes())
    (tmp_path / "broken.safetensors").write_bytes(FILL.read_bytes()[:1000])
    (tmp_path / "other.safetensors").write_bytes(find_model("mini").files["text"].read_bytes())
    assert main(["adapters", "list", str(tmp_path), "--format", "json"]) == 0
    rows = {row["reference"]: row for row in told(capsys)["adapters"]}
    assert rows["package:mini/fill.safetensors"]["stage"] == "fill"
    mine = rows[str(tmp_path / "inner" / "mine.safetensors")]
    assert (mine["base"], mine["bytes"]) == ("mini", FILL.stat().st_size)
    assert "cannot read" in rows[str(tmp_path / "broken.safetensors")]["problem"]
    assert str(tmp_path / "other.safetensors") not in rows
    assert main(["adapters", "list", str(tmp_path)]) == 0
    assert "mine.safetensors" in capsys.readouterr().out
    assert main(["adapters", "list", str(tmp_path / "none")]) == 2


def test_an_adapter_is_pushed_with_a_card_and_used_from_there(fake_hub: Hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    words = ["adapters", "push", str(FILL), "hf:me/rain@v1", "--license", "mit"]
    assert main([*words, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "base_model" not in out  # mini is no repository
    assert "dcgrid edit input.mp4" in out
    assert fake_hub.requests == []
    assert main(words) == 4
    assert "hf auth login" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert main([*words, "--format", "json"]) == 0
    assert told(capsys)["target"] == "hf:me/rain@v1/fill.safetensors"
    repo = fake_hub.repos["me/rain"]
    files = repo.commits[repo.branches["v1"]]
    assert files["fill.safetensors"] == FILL.read_bytes()
    spec = read_spec(FILL)
    card = files["README.md"].decode()
    assert spec is not None
    assert f"rank | {spec.rank}" in card
    assert "--adapter hf:me/rain@v1/fill.safetensors" in card
    assert 'license: "mit"' in card
    # Oracle: the hub's own reader of cards.
    from huggingface_hub import ModelCard

    assert ModelCard(card).data.license == "mit"
    assert main(["adapters", "info", "hf:me/rain@v1", "--format", "json"]) == 0
    assert told(capsys)["name"] == spec.name


def test_what_cannot_be_pushed(fake_hub: Hub, tmp_path, capsys):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(FILL.read_bytes()[:-1] + b"!")
    cases = [
        ([str(damaged), "hf:me/x"], 4, "damaged"),
        ([str(tmp_path / "none.safetensors"), "hf:me/x"], 4, "cannot read"),
        ([str(FILL), "me/x"], 2, "cannot push"),
        ([str(FILL), "hf:me/x/model.bin"], 2, "no name for an adapter"),
        ([str(FILL), "hf:me"], 4, "incomplete"),
    ]
    for words, code, sentence in cases:
        assert main(["adapters", "push", *words, "--dry-run"]) == code, words
        assert sentence in capsys.readouterr().err
    assert fake_hub.requests == []


@pytest.mark.parametrize(
    "command",
    [f"models {name}" for name in ("list", "pull", "info", "rm")]
    + [f"adapters {name}" for name in ("list", "info", "show", "export", "push")]
    + ["edit"],
)
def test_help_can_be_printed(command, capsys):
    # Square brackets in a help text are markup to rich, and can end in an error.
    assert main([*command.split(), "--help"]) == 0
    assert "--help" in capsys.readouterr().out
