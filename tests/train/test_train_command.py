"""`dcgrid train` as a user runs it: results, errors with exit codes, Ctrl-C."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dcgrid
import dcgrid.cli.train as train_command
from dcgrid.cli.main import main
from dcgrid.runtime.processes import ALONE, Processes
from dcgrid.synthetic import sources, store
from dcgrid.train import loop
from dcgrid.train.checkpoint import STATE_NAME


@pytest.fixture
def command(recipe_of, tiny_store, tmp_path, capsys, monkeypatch):
    """Run `dcgrid train`; returns exit code, stdout, stderr."""
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))  # with rates of no other test

    def run(stage, *more, steps=4, rate="2e-3"):
        arguments = ["train", "--stage", stage, "--model", "tiny", "--out", str(tmp_path / "run")]
        if "--recipe" not in more:
            arguments += ["--recipe", str(recipe_of(stage, steps=steps, rate=rate))]
        if "--world" not in more:
            arguments += ["--world", str(tiny_store)]
        code = main([*arguments, *map(str, more)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_stages_one_after_the_other(command, tmp_path):
    for stage, name in (
        ("autoencoder", "autoencoder"),
        ("base", "dit"),
        ("fill", "fill"),
        ("upsampler", "upsampler"),
    ):
        code, out, err = command(stage)
        assert code == 0, err
        path = tmp_path / "run" / f"{name}.safetensors"
        assert out == f"wrote {path}\n"
        assert path.is_file()
        assert f"stage     {stage} of tiny" in err
        assert "s/step" in err


def test_json_is_one_value_on_stdout(command, tmp_path):
    code, out, _ = command("autoencoder", "--format", "json", "--steps", 6)
    assert code == 0
    value = json.loads(out)
    assert value["file"] == str(tmp_path / "run" / "autoencoder.safetensors")
    assert (value["stage"], value["steps"]) == ("autoencoder", 6)
    assert value["loss"] > 0


def test_quiet_prints_nothing(command):
    assert command("autoencoder", "--quiet") == (0, "", "")


def test_dry_run_writes_nothing_and_names_what_is_missing(command, tmp_path):
    code, out, err = command("fill", "--dry-run", "--format", "json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert plan["dry_run"] is True
    assert plan["seconds"] is None
    assert plan["trained"].keys() == {"fill LoRA"}
    assert plan["frozen"].keys() == {"autoencoder", "dit", "text"}
    assert plan["phases"][1]["first_step"] == 2
    assert len(plan["missing"]) == 3
    assert not (tmp_path / "run").exists()
    code, out, _ = command("base", "--dry-run", "--world", tmp_path / "nowhere")
    assert code == 0
    assert "photos.safetensors is missing" in out
    assert "from stage autoencoder" in out


def test_dry_run_knows_the_time_from_the_log(command, tmp_path):
    folder = tmp_path / "run" / "autoencoder"
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text('{"step": 20, "s_per_step": 90.0}\n{"step": 40, "s_per')
    _, out, _ = command("autoencoder", "--dry-run", "--steps", 100)
    assert "about 2.5 h" in out


def test_a_plan_has_the_time_of_the_last_run_like_it_and_the_size_of_the_result(command, tmp_path):
    """In another folder, too; a run of another size says nothing about it."""
    for stage in ("autoencoder", "base", "fill"):
        made = [] if stage == "autoencoder" else ["--out", tmp_path / "run"]
        _, out, _ = command(stage, "--dry-run", *made)
        assert "time      unknown yet, before the first run of this kind here" in out
        assert "download" not in out
        assert re.search(r"result    about \d+ (kB|MB) of weights in ", out)
        _, out, _ = command(stage, "--dry-run", "--format", "json", *made)
        told = json.loads(out)["result_bytes"]
        assert command(stage)[0] == 0
        _, out, _ = command(stage, "--dry-run", "--out", tmp_path / "elsewhere", steps=4000)
        assert re.search(r"time      about \d+ (s|min), at the rate of the last run here", out)
        names = {"autoencoder": ["autoencoder"], "base": ["dit", "text"], "fill": ["fill"]}[stage]
        files = [tmp_path / "run" / f"{name}.safetensors" for name in names]
        size = sum(path.stat().st_size for path in files)
        assert size / 2 < told < 2 * size
    _, out, _ = command("upsampler", "--dry-run")  # of which none has run
    assert "unknown yet" in out


@pytest.mark.usefixtures("large_machine")
def test_a_plan_says_what_of_a_base_is_to_be_downloaded(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["train", "--stage", "fill", "--model", "wan2.2-5b", "--out", str(tmp_path / "w")]
    assert main([*words, "--dry-run"]) == 0
    assert "download  wan2.2-5b, 34.2 GB" in capsys.readouterr().out


def test_shipped_recipe_is_the_default(tmp_path, capsys):
    code = main(["train", "--stage", "base", "--dry-run", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert code == 0
    assert "stage     base of mini" in out


def test_paper_can_be_planned(tmp_path, capsys):
    """11.5 B parameters on the meta device, +-5 %."""
    arguments = ["train", "--stage", "base", "--model", "paper", "--dry-run", "--format", "json"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trained"]["dit"] == pytest.approx(11.5e9, rel=0.05)
    assert plan["steps"] == 822_000


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "either --stage or --fetch-world"),
        (["--stage", "base", "--fetch-world"], 2, "either --stage or --fetch-world"),
        (["--stage", "bass"], 2, "bass"),
        (["--stage", "base", "--model", "minni"], 2, "did you mean 'mini'?"),
        (["--stage", "base", "--decoder-only"], 2, "--decoder-only"),
        (["--stage", "base", "--steps", "0"], 2, "--steps"),
        (
            ["--stage", "base", "--mode", "composition"],
            2,
            "--mode is for stages grid and fill, not base",
        ),
        (["--stage", "base", "--start-from", "ed", "--resume"], 2, "--start-from is for a new run"),
        (["--stage", "dc", "--start-from", "ed"], 2, "--start-from is for a new run"),
        (
            ["--stage", "autoencoder", "--start-from", "ed", "--decoder-only"],
            2,
            "--start-from is for a new run",
        ),
        (["--stage", "base", "--accept-changes"], 2, "use it with --resume"),
        (["--stage", "base", "--device", "gpu"], 2, "unknown device 'gpu'"),
        (["--stage", "base", "--recipe", "nowhere.toml"], 3, "nowhere.toml"),
        (["--stage", "base", "--world", "nowhere", "--out", "{out}"], 4, "autoencoder.safetensors"),
        (["--stage", "autoencoder", "--world", "nowhere", "--out", "{out}"], 4, "make world"),
        (["--fetch-world", "--clips", "nowhere"], 2, "nowhere"),
    ],
)
def test_what_cannot_be_ends_in_one_error(tmp_path, capsys, arguments, code, told):
    words = [word.replace("{out}", str(tmp_path / "out")) for word in arguments]
    assert main(["train", *words]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("error: ") == 1
    assert told in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(tmp_path, capsys):
    assert main(["train", "--stage", "base", "--device", "cuda", "--out", str(tmp_path)]) == 5
    assert "not on this machine" in capsys.readouterr().err


def test_recipe_of_another_stage(command, recipe_of):
    code, _, err = command("base", "--recipe", recipe_of("fill"))
    assert code == 2
    assert "--stage fill" in err


def test_recipe_that_does_not_fit_the_model(command, recipe_of):
    path = recipe_of("autoencoder")
    path.write_text(path.read_text().replace("frames = 5", "frames = 6"))
    code, _, err = command("autoencoder", "--recipe", path)
    assert code == 3
    assert "the nearest are 5 and 9" in err


def test_an_earlier_run_is_not_overwritten(command, tmp_path):
    assert command("autoencoder")[0] == 0
    state = tmp_path / "run" / "autoencoder" / STATE_NAME
    content = state.read_bytes()
    code, _, err = command("autoencoder")
    assert code == 3
    assert "--resume" in err
    assert "--force" in err
    assert state.read_bytes() == content
    assert command("autoencoder", "--resume", "--steps", 6)[0] == 0
    assert command("autoencoder", "--force")[0] == 0


def test_resume_without_and_with_damaged_checkpoint(command, tmp_path):
    code, _, err = command("autoencoder", "--resume")
    assert code == 4
    assert "without --resume" in err
    command("autoencoder")
    state = tmp_path / "run" / "autoencoder" / STATE_NAME
    state.write_bytes(state.read_bytes()[:2000])
    code, _, err = command("autoencoder", "--resume")
    assert code == 4
    assert "is damaged" in err
    assert state.stat().st_size == 2000


def test_a_changed_recipe_is_refused_until_it_is_accepted(command, tmp_path):
    assert command("autoencoder")[0] == 0
    state = tmp_path / "run" / "autoencoder" / STATE_NAME
    content = state.read_bytes()
    code, _, err = command("autoencoder", "--resume", "--steps", 6, rate="1e-3")
    assert code == 3
    assert "optim.learning_rate: 0.002 -> 0.001" in err
    assert "--accept-changes" in err
    assert state.read_bytes() == content
    code, _, err = command("autoencoder", "--resume", "--accept-changes", "--steps", 6, rate="1e-3")
    assert code == 0, err
    assert "going on with changes: optim.learning_rate" in err


def test_a_checkpoint_cut_short_goes_on_from_a_kept_one(command, recipe_of, tmp_path):
    path = recipe_of("autoencoder", steps=6, log="keep_every = 4\ntensorboard = false\n")
    assert command("autoencoder", "--recipe", path)[0] == 0
    state = tmp_path / "run" / "autoencoder" / STATE_NAME
    state.write_bytes(state.read_bytes()[:2000])
    code, _, err = command("autoencoder", "--recipe", path, "--resume")
    assert code == 0, err
    assert "6, 4 done, 2 to go" in err
    assert "is damaged" in err
    assert "going on from state-4.safetensors" in err


def test_nan_ends_with_code_5_and_keeps_the_checkpoint(command, tmp_path, monkeypatch):
    assert command("autoencoder")[0] == 0
    state = tmp_path / "run" / "autoencoder" / STATE_NAME
    content = state.read_bytes()
    monkeypatch.setattr(loop, "learning_rate", lambda optim, step: float("nan"))
    code, _, err = command("autoencoder", "--resume", "--steps", 9)
    assert code == 5
    assert "nan" in err
    assert "learning_rate" in err
    assert state.read_bytes() == content


def test_full_disk_ends_with_code_3(command, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    from dcgrid.train.stages import autoencoder_stage, upsampler_stage

    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    for stage in (autoencoder_stage, upsampler_stage):
        monkeypatch.setattr(stage, "save_weights", full)
    code, _, err = command("upsampler")
    assert code == 4, "the autoencoder is missing first"
    code, _, err = command("autoencoder")
    assert code == 3
    assert "No space left" in err
    assert "--resume" in err
    monkeypatch.undo()
    assert command("autoencoder", "--resume")[0] == 0


def test_threads(command):
    before = torch.get_num_threads()
    try:
        assert command("autoencoder", "--threads", before + 1)[0] == 0
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_ctrl_c_saves_and_says_how_to_go_on(recipe_of, tiny_store, tmp_path):
    arguments = ["train", "--stage", "autoencoder", "--model", "tiny", "--steps", "100000"]
    arguments += ["--out", str(tmp_path / "my run"), "--world", str(tiny_store)]
    arguments += ["--recipe", str(recipe_of("autoencoder"))]
    source = str(Path(dcgrid.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "dcgrid", *arguments],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log, deadline = tmp_path / "my run" / "autoencoder" / "log.jsonl", time.monotonic() + 90
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    hint = next(line for line in err.splitlines() if "to go on: " in line)
    words = shlex.split(hint.split("to go on: ")[1])
    assert words[:2] == ["dcgrid", "train"]
    assert words[-1] == "--resume"
    assert (log.parent / STATE_NAME).is_file()
    assert not (log.parent / "lock").exists()
    # The very command that it names goes on.
    words[words.index("--steps") + 1] = "1"
    assert main(words[1:]) == 0


@pytest.mark.parametrize("start", [["--start-from", "ed 3"], ["--start-from=ed 3"], ["--force"]])
def test_how_to_go_on_leaves_out_what_a_resumed_run_refuses(monkeypatch, start):
    monkeypatch.setattr(sys, "argv", ["dcgrid", "train", "--stage", "base", *start, "-o", "my run"])
    assert train_command._resume_command(ALONE) == "dcgrid train --stage base -o 'my run' --resume"


def test_several_processes_go_on_with_torchrun(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dcgrid", "train", "--stage", "fill"])
    two = Processes(rank=0, count=2, local_count=2)
    assert (
        train_command._resume_command(two)
        == "torchrun --nproc-per-node 2 -m dcgrid train --stage fill --resume"
    )


def test_fetch_world_builds_a_store(tmp_path, capsys, monkeypatch):
    """Downloads are stood in for by pictures; building and counting are the program's own."""
    pytest.importorskip("PIL")
    from PIL import Image

    def fake(source, target):
        generator = torch.Generator().manual_seed(len(source.name))
        noise = torch.randint(256, (400, 500, 3), generator=generator).to(torch.uint8)
        if source.kind == "photos":
            # As dark or bright as the name is long: near-duplicates would be left out.
            tone = (noise // 4 + 10 * len(source.name)).numpy()
            Image.fromarray(tone).save(target / "a.png")
        if source.kind == "sprites":
            frames = [Image.fromarray(noise[i : i + 32, :32].numpy()) for i in range(24)]
            frames[0].save(target / "1f436.webp", save_all=True, append_images=frames[1:])

    monkeypatch.setattr(sources, "_FETCHERS", dict.fromkeys(("npm", "debian", "pypi"), fake))
    monkeypatch.setattr(sources, "SOURCES", sources.SOURCES[1:6])
    monkeypatch.setattr(store, "SOURCES", sources.SOURCES)
    world = tmp_path / "world"
    code = main(["train", "--fetch-world", "--world", str(world), "--format", "json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert json.loads(captured.out) == {
        "world": str(world), "photos": 2, "sprites": 1, "footage": 0, "details": 0, "mattes": 0
    }  # fmt: skip
    assert store.WorldStore(world).names["sprites"] == ["dog face"]
    assert "asl_bird.mkv: not in" in captured.err


def test_fetch_world_names_the_package_that_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code = main(["train", "--fetch-world", "--world", str(tmp_path / "world")])
    err = capsys.readouterr().err
    assert code == 4
    assert "npm package @lobehub/fluent-emoji-anim-1" in err
    assert "npm pack" in err
