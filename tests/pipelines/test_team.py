"""Several processes generate what one does.

Every process count gives latents that differ by rounding at most, so 8-bit pixels may differ by
one level where a value lies on the edge between two.
"""

import json
from pathlib import Path

import pytest
import torch

from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.cli.main import main
from dcgrid.models.registry import find_model
from dcgrid.models.wan.group import divide
from dcgrid.recipes import shipped_dir
from tests.pipelines.runs import decoded
from tests.torchrun import told, torchrun

SMALL = ("--num-inference-steps", "2", "--duration", "0.5", "--size", "48x32", "--dtype", "fp32")
CPU = ("--device", "cpu", "--format", "json")


def pixels(result: dict) -> list[torch.Tensor]:
    return [decoded(Path(path)) for path in result["files"] if path.endswith(".mp4")]


def hashes(result: dict) -> list[str]:
    return [one["frames_sha256"] for one in manifest(result)["outputs"]]


def manifest(result: dict) -> dict:
    path = next(path for path in result["files"] if path.endswith(".json"))
    return json.loads(Path(path).read_text())


def assert_same_pixels(one: dict, other: dict) -> None:
    if hashes(one) == hashes(other):
        return
    for mine, theirs in zip(pixels(one), pixels(other), strict=True):
        # Written as H.264, which may enlarge a difference of one level a little.
        assert (mine.float() - theirs.float()).abs().max() <= 3


@pytest.fixture(scope="module")
def alone(tmp_path_factory, shared_clip, wan_folder):
    """Return what one process makes of a command, each once."""
    known: dict[tuple[str, ...], dict] = {}

    def make(*words: str) -> dict:
        if words not in known:
            out = tmp_path_factory.mktemp("alone")
            with pytest.MonkeyPatch.context() as patch, (out / "stdout").open("w") as stdout:
                patch.setattr("sys.stdout", stdout)
                assert main([*words, "--out", str(out)]) == 0
            known[words] = json.loads((out / "stdout").read_text())
        return known[words]

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "guidance", "work"),
    [
        (2, "5", "half for each of two texts"),
        (2, "1", "each with a part of the tokens"),
        (4, "5", "half for each of two texts"),
    ],
)
def test_an_edit_has_the_same_pixels(
    tmp_path, shared_clip, wan_folder, alone, processes, guidance, work
):
    words = ("edit", str(shared_clip), "-e", "rain", "-e", "fog", "--model", str(wan_folder))
    words = (*words, *SMALL, *CPU, "--guidance-scale", guidance)
    run = torchrun(processes, *words, "--out", tmp_path)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert_same_pixels(result, alone(*words))
    assert manifest(result)["machine"]["processes"] == processes
    assert run.stderr.count(f"Processes: {processes}, {work}.") == 1
    assert run.stderr.count("sampling ...") == 1
    # Nothing but the results, and no part of a file.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        Path(path).name for path in result["files"]
    )
    if processes == 2:
        manifest_file = next(path for path in result["files"] if path.endswith(".json"))
        again = torchrun(2, "rerun", manifest_file, "--format", "json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["same_pixels"] is True


@pytest.mark.slow
@pytest.mark.parametrize(("guidance", "until"), [("1", 0.0), ("3", 0.0), ("3", 0.9)])
def test_given_cells_that_read_given_cells_alone(
    tmp_path, shared_clip, wan_folder, alone, guidance, until
):
    """Keys and values of given tokens are kept by each process for its own heads.

    Where guidance ends on the way, both processes share one text from then on.
    """
    effect = tmp_path / "rain.toml"
    shipped = (shipped_dir() / "effects" / "rain.toml").read_text()
    effect.write_text(f"{shipped}\n[sampler]\nguidance_until = {until}\n")
    backbone = find_model(str(wan_folder)).load()
    spec = AdapterSpec(
        name="fill",
        stage="fill",
        mode="consistent",
        rank=2,
        alpha=2,
        targets=("to_q",),
        noise_scale=1.0,
        given="clean",
        given_first=True,
        base="small-wan",
        base_hash=find_model(str(wan_folder)).digests()["transformer"],
    )
    attach_adapter(backbone.network, spec, seed=3)
    path = tmp_path / "fill.safetensors"
    save_adapter(backbone.network, spec, path)
    words = ("edit", str(shared_clip), "-e", str(effect), "--model", str(wan_folder), *SMALL, *CPU)
    words = (*words, "--adapter", str(path), "--guidance-scale", guidance)
    out = tmp_path / "out"
    out.mkdir()
    run = torchrun(2, *words, "--out", out)
    assert run.returncode == 0, run.stderr
    assert_same_pixels(json.loads(run.stdout), alone(*words))


@pytest.mark.slow
def test_a_long_story_and_a_composition(tmp_path, shared_clip, wan_folder, alone):
    """Two grids of a story; the second goes on from what the first has generated."""
    story = ("story", "--model", str(wan_folder), *SMALL, *CPU)
    scenes = [f"--scene={text}" for text in ("rain", "fog", "snow", "night", "smoke")]
    compose = ("compose", str(shared_clip), str(shared_clip), "--concept", "a flame", "--model")
    compose = (*compose, str(wan_folder), *SMALL, *CPU)
    for name, words in (("story", (*story, *scenes)), ("compose", compose)):
        out = tmp_path / name
        out.mkdir()
        run = torchrun(2, *words, "--out", out)
        assert run.returncode == 0, run.stderr
        assert_same_pixels(json.loads(run.stdout), alone(*words))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "more", "line"),
    [
        (2, ["--model", "tiny"], "error: tiny generates in one process, not in 2"),
        (3, [], "error: 2 heads of attention cannot be dealt evenly to 3 processes"),
        (2, ["--adapter", "nowhere.safetensors"], "error: "),
        (2, ["--device", "mps"], "error: "),
    ],
)
def test_what_cannot_be_is_told_once(tmp_path, shared_clip, wan_folder, processes, more, line):
    words = ("edit", shared_clip, "-e", "rain", "--model", wan_folder, *SMALL, "--device", "cpu")
    run = torchrun(processes, *words, "--out", tmp_path, *more)
    assert run.returncode != 0
    lines = told(run)
    assert lines[0].startswith(line)
    assert len([one for one in lines if one.startswith("error")]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_plan_names_the_processes(tmp_path, shared_clip, wan_folder):
    words = ("edit", shared_clip, "-e", "rain", "--model", wan_folder, *SMALL, *CPU, "--dry-run")
    run = torchrun(2, *words, "--out", tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["processes"] == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("processes", "texts", "branches"), [(2, 2, 2), (4, 2, 2), (3, 2, 1), (2, 1, 1), (1, 2, 1)]
)
def test_texts_are_dealt_first(processes, texts, branches):
    assert divide(processes, texts) == (branches, processes // branches)
