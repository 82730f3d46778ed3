"""`dcgrid edit --method`: everything else of an edit is as it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dcgrid.cli.main import main
from dcgrid.pipelines.baselines import METHODS, dreambooth, dreammix, set_and_sequence
from dcgrid.pipelines.manifest import read_manifest
from tests.pipelines.baselines.test_personal import short
from tests.pipelines.runs import moving_square

TINY = ("--model", "tiny", "--dtype", "fp32", "--num-inference-steps", "2")
SHORT = (*TINY, "--duration", "0.4")
BASELINES = [key for key in METHODS if key != "grid"]


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (dreambooth, dreammix, set_and_sequence):
        monkeypatch.setattr(module, "MINI", short(module.MINI))


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict, str]:
    capsys.readouterr()
    code = main([*map(str, words), "--format", "json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def pixels(result: dict) -> list[str]:
    manifest = next(one for one in result["files"] if one.endswith(".json"))
    return [one["frames_sha256"] for one in json.loads(Path(manifest).read_text())["outputs"]]


@pytest.mark.parametrize("key", BASELINES)
def test_an_edit_its_files_its_manifest_and_its_rerun(clip, capsys, key):
    words = ("edit", clip, "-e", "rain", "-p", "at night", *SHORT, "--method", key)
    code, result, err = command(capsys, *words)
    assert code == 0, err
    assert METHODS[key].line in err
    assert ("training on the clip" in err) == METHODS[key].trains
    stem = f"input.rain-at-night.{key}"
    assert [Path(one).name for one in result["files"]] == [
        f"input.rain.{key}.mp4",
        f"input.at-night.{key}.mp4",
        f"{stem}.png",
        f"{stem}.json",
    ]
    manifest = read_manifest(clip.parent / f"{stem}.json")
    assert manifest.job.generated_by == key
    assert manifest.job.adapter == "none"
    code, again, err = command(capsys, "rerun", clip.parent / f"{stem}.json")
    assert (code, again["same_pixels"]) == (0, True), err
    assert Path(again["files"][0]).name == f"input.rain.{key}.rerun.mp4"


def test_methods_generate_different_pixels(clip, capsys):
    made = {}
    for key in METHODS:
        _, result, _ = command(capsys, "edit", clip, "-e", "rain", *SHORT, "--method", key)
        made[key] = pixels(result)[0]
    # `tiny` has no adapter, so with and without one are the same.
    assert made.pop("inpaint") == made["grid"]
    assert len(set(made.values())) == len(made)


def test_a_manifest_of_before_there_were_methods_is_read(clip, capsys):
    code, _, _ = command(capsys, "edit", clip, "-e", "rain", *SHORT)
    path = clip.parent / "input.rain.json"
    values = json.loads(path.read_text())
    assert values["job"].pop("method") == "grid"
    path.write_text(json.dumps(values))
    code, again, _ = command(capsys, "rerun", path)
    assert (code, again["same_pixels"]) == (0, True)


def test_a_manifest_with_an_unknown_method_is_refused(clip, capsys):
    command(capsys, "edit", clip, "-e", "rain", *SHORT, "--method", "codec")
    path = clip.parent / "input.rain.codec.json"
    path.write_text(path.read_text().replace('"method": "codec"', '"method": "codek"'))
    code, _, err = command(capsys, "rerun", path)
    assert code == 2
    assert "did you mean 'codec'?" in err


def test_a_dry_run_names_the_method_and_writes_nothing(clip, capsys):
    words = ("edit", clip, "-e", "rain", "--model", "tiny", "--method", "dreambooth", "--dry-run",
             "--duration", "0.4")  # fmt: skip
    code, plan, _ = command(capsys, *words)
    assert code == 0
    assert plan["method"] == "dreambooth"
    assert plan["num_inference_steps"] == METHODS["dreambooth"].steps
    capsys.readouterr()
    assert main([*map(str, words)]) == 0
    assert "Method: DreamBooth-LoRA (Ruiz et al. 2023" in (shown := capsys.readouterr().out)
    assert "after training on the clip" in shown
    assert [path.name for path in clip.parent.iterdir()] == ["input.mp4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "flow-edit"), "no method is called 'flow-edit'"),
        (("--method", "sdedit", "--adapter", "mine.safetensors"), "takes no --adapter"),
    ],
)
def test_wrong_words_are_told(clip, capsys, words, message):
    code, _, err = command(capsys, "edit", clip, "-e", "rain", *SHORT, *words)
    assert code == 2
    assert message in err
    assert [path.name for path in clip.parent.iterdir()] == ["input.mp4"]


@pytest.mark.parametrize("key", ["sdedit", "set-and-sequence"])
def test_a_whole_long_clip_is_refused_before_anything_is_loaded(tmp_path, capsys, key):
    long = moving_square(tmp_path / "long.mp4", 30)
    words = ("edit", long, "-e", "rain", *TINY, "--method", key)
    code, _, err = command(capsys, *words)
    assert code == 2
    assert "use --duration 0.75 or less" in err
    assert "loading the model" not in err
    code, _, err = command(capsys, *words, "--duration", "0.75")
    assert code == 0, err


@pytest.mark.parametrize("key", ["codec", "inpaint"])
def test_methods_that_continue_take_a_whole_long_clip(tmp_path, capsys, key):
    long = moving_square(tmp_path / "long.mp4", 30)
    words = ("edit", long, "-e", "rain", *TINY, "--method", key)
    code, _, err = command(capsys, *words)
    assert code == 0, err


def test_compose_has_no_methods(clip, capsys):
    assert main(["compose", str(clip), str(clip), "--method", "sdedit"]) == 2
    assert "--method" in capsys.readouterr().err


def test_a_plain_edit_loads_no_method_and_no_metric(clip):
    code = (
        "import sys; from dcgrid.cli.main import main\n"
        f"done = main(['edit', {str(clip)!r}, '-e', 'rain', '--model', 'tiny', '-q'])\n"
        "heavy = ('methods', 'metrics', 'encoders', 'scoring', 'ranking')\n"
        "names = (name.split('.') for name in sys.modules if name.startswith('dcgrid.eval.'))\n"
        "print(done, sorted(name[2] for name in names if name[2] in heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


@pytest.mark.slow
def test_inpaint_is_the_edit_without_adapter_bit_for_bit(clip, capsys):
    words = ("edit", clip, "-e", "rain", "-e", "night", "--duration", "0.4")
    # As the model makes them: drops are laid over results of the program's own method alone.
    few = ("--num-inference-steps", 2, "--upsample", "none", "--force")
    made = [
        pixels(command(capsys, *words, *few, *more)[1])
        for more in (("--adapter", "none"), ("--method", "inpaint"), ())
    ]
    bare, inpaint, ours = made
    assert inpaint == bare
    assert inpaint != ours


@pytest.mark.slow
@pytest.mark.parametrize("key", BASELINES)
def test_every_baseline_runs_on_mini(clip, capsys, key):
    words = ("edit", clip, "-e", "night", "--duration", "0.4", "--method", key)
    code, result, err = command(capsys, *words)
    assert code == 0, err
    assert len(set(pixels(result))) == 1
