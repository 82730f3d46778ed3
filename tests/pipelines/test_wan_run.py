"""edit, rerun, compose and story on a small Wan checkout, from the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dcgrid import hub
from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.cli.main import main
from dcgrid.errors import UsageError
from dcgrid.models.registry import find_model
from dcgrid.models.wan import digests
from dcgrid.pipelines import generate
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.recipes import shipped_dir
from dcgrid.runtime import device
from tests.pipelines.runs import decoded

SMALL = ("--num-inference-steps", "2", "--duration", "0.5", "--size", "48x32")


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict, str]:
    capsys.readouterr()
    code = main([*map(str, words), "--format", "json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def test_an_edit_and_its_rerun_have_the_same_pixels(tmp_path, clip, wan_folder, capsys):
    words = ("edit", clip, "-e", "rain", "-e", "fog", "--model", wan_folder, *SMALL)
    code, result, err = command(capsys, *words, "--dtype", "fp32")
    assert code == 0
    assert "the bare base fills the grid, which keeps the subject less well" in err
    frames = decoded(Path(result["files"][0]))
    assert frames.shape[1:3] == (64, 96)  # of the input
    manifest = next(Path(one) for one in result["files"] if one.endswith(".json"))
    values = json.loads(manifest.read_text())
    assert Path(values["job"]["model"]).is_absolute()
    assert values["sampler"]["given"] == "replace"  # the checkout has one time for all
    code, again, _ = command(capsys, "rerun", manifest)
    assert (code, again["same_pixels"]) == (0, True)
    # Another guidance is another picture: 5 is the model's own.
    code, strong, _ = command(capsys, *words, "--dtype", "fp32", "--guidance-scale", "1", "-f")
    assert not torch.equal(decoded(Path(strong["files"][0])), frames)


def test_a_rerun_notices_other_weights(tmp_path, clip, wan_folder, capsys):
    copy = tmp_path / "model"
    shutil.copytree(wan_folder, copy)
    words = ("edit", clip, "-e", "rain", "--model", copy, *SMALL, "--guidance-scale", "1")
    _, result, _ = command(capsys, *words)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    manifest = next(one for one in result["files"] if one.endswith(".json"))
    code, _, err = command(capsys, "rerun", manifest)
    assert code == 4
    assert "weights transformer are not those of the manifest" in err


def test_compose_and_story(tmp_path, clip, wan_folder, capsys):
    other = tmp_path / "fire.mp4"
    shutil.copy(clip, other)
    code, result, _ = command(
        capsys, "compose", clip, other, "--model", wan_folder, *SMALL, "--concept", "a fire"
    )
    assert code == 0
    assert [Path(one).name for one in result["files"][:2]] == [
        "input.fire.fusion.mp4", "input.fire.fusion-2.mp4"
    ]  # fmt: skip
    scenes = [word for name in ("rain", "fog", "night", "snow") for word in ("--scene", name)]
    words = ("story", "--subject", "a dog", *scenes, "--model", wan_folder, *SMALL)
    code, result, err = command(capsys, *words, "--out", tmp_path)
    assert code == 0
    # One model serves grids with a clip and without: it has no adapter for either.
    assert err.count("loading the model") == 1


def test_an_adapter_of_other_people_fits_whatever_the_folder_is_called(
    tmp_path, clip, wan_folder, capsys
):
    network = find_model(str(wan_folder)).load().network
    digest = find_model(str(wan_folder)).digests()["transformer"]
    spec = AdapterSpec(
        name="fill", stage="fill", rank=2, alpha=2, targets=("attn1.to_q",), base="elsewhere",
        base_hash=digest, given="clean",
    )  # fmt: skip
    for parameter in attach_adapter(network, spec):
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "fill.safetensors"
    save_adapter(network, spec, path)
    words = ("edit", clip, "-e", "rain", "--model", wan_folder, *SMALL, "--adapter", path)
    code, result, err = command(capsys, *words)
    assert code == 0
    assert "layers matched" in err
    assert "bare base" not in err
    manifest = next(one for one in result["files"] if one.endswith(".json"))
    assert json.loads(Path(manifest).read_text())["sampler"]["given"] == "clean"
    save_adapter(network, AdapterSpec(**{**_fields(spec), "base_hash": "0" * 64}), path)
    code, _, err = command(capsys, *words, "-f")
    assert code == 4
    assert "elsewhere" in err


@pytest.mark.parametrize("entering", ["clean", "replace"])
def test_a_layout_says_how_given_cells_enter(tmp_path, clip, wan_folder, capsys, entering):
    shipped = (shipped_dir() / "layouts" / "edit-2x2.toml").read_text()
    layout = tmp_path / "mine.toml"
    changed = shipped.replace('"edit-2x2"', '"mine"', 1).replace(
        'visibility = "all"', f'visibility = "all"\ngiven_as = "{entering}"', 1
    )
    layout.write_text(changed)
    words = ("edit", clip, "-e", "rain", "--model", wan_folder, *SMALL, "--layout", layout)
    code, result, _ = command(capsys, *words)
    assert code == 0
    manifest = next(one for one in result["files"] if one.endswith(".json"))
    assert json.loads(Path(manifest).read_text())["sampler"]["given"] == entering
    assert command(capsys, "rerun", manifest)[1]["same_pixels"] is True


def _fields(spec: AdapterSpec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in type(spec).__dataclass_fields__}


@pytest.mark.parametrize(
    ("size", "near"), [("640x360", "640x352, 640x368"), ("640x352", ""), ("8x8", "16x16")]
)
def test_cell_sizes_between_tokens_are_refused_with_those_that_fit(clip, wan_folder, size, near):
    width, height = map(int, size.split("x"))
    job = EditJob(input=clip, effects=("rain",), model=str(wan_folder), cell_size=(height, width))
    if not near:
        assert plan_run(prepare_run(job)).clips[0].cell_size == (height, width)
        return
    with pytest.raises(UsageError, match=f"--size {size}") as raised:
        plan_run(prepare_run(job))
    assert near in raised.value.hint


@pytest.mark.usefixtures("large_machine")
def test_wan22_has_tokens_of_32_pixels_and_names_that_need_no_download(clip, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = find_model("wan2.2-5b").spec
    assert (spec.fps, spec.time_shift, spec.per_cell_time) == (24.0, 5.0, True)
    job = EditJob(input=clip, effects=("rain",), model="wan2.2-5b", cell_size=(720, 1280))
    with pytest.raises(UsageError, match="32x32") as raised:
        plan_run(prepare_run(job))
    assert "1280x704, 1280x736" in raised.value.hint
    plan = plan_run(prepare_run(EditJob(input=clip, effects=("rain",), model="wan2.2-5b")))
    assert plan.downloads == {"wan2.2-5b": 34_201_418_400}
    assert "Download: wan2.2-5b (34.2 GB)." in plan.lines()
    assert any("bare base" in line for line in plan.lines())


@pytest.mark.usefixtures("large_machine")
def test_a_repository_id_is_the_model_of_that_repository(clip, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repo = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    code, plan, _ = command(capsys, "edit", clip, "-e", "rain", "--model", repo, "--dry-run")
    assert code == 0
    assert plan["downloads"] == {"wan2.2-5b": 34_201_418_400}


@pytest.mark.parametrize(
    ("model", "code", "told"),
    [
        ("wan2.2-5c", 2, "did you mean 'wan2.2-5b'?"),
        ("EMPTY", 4, "it has no model_index.json"),
        ("FLUX", 4, "holds a FluxPipeline, not a WanPipeline"),
        ("SHARD", 4, "1 of 2 shards are missing, b.safetensors"),
    ],
)
def test_what_is_no_model_ends_in_one_sentence(
    tmp_path, clip, wan_folder, capsys, model, code, told
):
    folder = tmp_path / "model"
    if model == "EMPTY":
        folder.mkdir()
    elif model.isupper():
        shutil.copytree(wan_folder, folder)
    if model == "FLUX":
        (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    if model == "SHARD":
        whole = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        whole.rename(whole.with_name("a.safetensors"))
        index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
        whole.with_name("m.safetensors.index.json").write_text(json.dumps(index))
    name = folder if model.isupper() else model
    found, _, err = command(capsys, "edit", clip, "-e", "rain", "--model", name)
    assert found == code
    assert told in err
    assert err.count("error: ") == 1
    assert not list(tmp_path.glob("input.rain*"))


def test_digests_are_of_the_bytes_and_read_once(tmp_path, wan_folder, monkeypatch):
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))
    files = {"vae": (wan_folder / "vae" / "diffusion_pytorch_model.safetensors",)}
    expected = {"vae": hub.file_sha256(files["vae"][0])}
    assert digests.part_digests(files) == expected
    monkeypatch.setattr(hub, "file_sha256", lambda path: pytest.fail("read again"))
    assert digests.part_digests(files) == expected
    # A file of the hub's cache is named by its hash.
    blob = tmp_path / ("a" * 64)
    blob.write_bytes(b"x")
    link = tmp_path / "vae.safetensors"
    link.symlink_to(blob)
    assert digests.part_digests({"vae": (link,)}) == {"vae": "a" * 64}


def test_offload_changes_no_pixel_and_the_manifest_says_it(tmp_path, clip, wan_folder, capsys):
    words = ("edit", clip, "-e", "rain", "--model", wan_folder, *SMALL, "--guidance-scale", "1")
    hashes = {}
    for mode in ("none", "model", "block", "disk"):
        code, result, err = command(capsys, *words, "--offload", mode, "-f")
        assert code == 0
        assert (f"--offload {mode}" in err) == (mode != "none")
        manifest = next(one for one in result["files"] if one.endswith(".json"))
        values = json.loads(Path(manifest).read_text())
        assert values["machine"]["offload"] == mode
        hashes[mode] = values["outputs"][0]["frames_sha256"]
    assert len(set(hashes.values())) == 1
    _, result, err = command(capsys, *words, "--quantize", "int8", "-f")
    manifest = next(one for one in result["files"] if one.endswith(".json"))
    assert json.loads(Path(manifest).read_text())["outputs"][0]["frames_sha256"] != hashes["none"]
    # A rerun keeps the mode and the rounding of the run that it repeats.
    code, again, err = command(capsys, "rerun", manifest)
    assert (code, again["same_pixels"]) == (0, True)
    assert "--quantize int8" in err


def test_models_that_are_whole_in_memory_refuse_offload(clip, capsys):
    words = ("edit", clip, "-e", "rain", "--model", "tiny")
    code, _, err = command(capsys, *words, "--offload", "block")
    assert code == 2
    assert "tiny is small enough to be whole in memory" in err
    for more in (["--compile"], ["--attention", "sdpa"]):
        code, _, err = command(capsys, *words, *more)
        assert code == 2
        assert "tiny computes in one way only" in err


def test_a_machine_too_small_is_told_what_to_try(clip, wan_folder, capsys, monkeypatch):
    monkeypatch.setattr(device, "available_memory_bytes", lambda _: 1_000_000)
    monkeypatch.setattr(device, "available_host_memory_bytes", lambda: 1_000_000)
    code, _, err = command(capsys, "edit", clip, "-e", "rain", "--model", wan_folder, *SMALL)
    assert code == 5
    assert "needs" in err
    assert "hint: try" in err


def test_a_grid_wider_than_the_position_table_is_refused_in_the_plan(clip, wan_folder, capsys):
    words = ("edit", clip, "-e", "rain", "--model", wan_folder, "--duration", "0.5", "--dry-run")
    code, _, err = command(capsys, *words, "--size", "1040x48")
    assert code == 2
    assert "--size 1040x48: cells of small-wan in a grid of 2x2 are at most 1024 wide" in err
    assert "hint: use --size 1024x48" in err
    code, _, err = command(capsys, *words, "--size", "1024x48")
    assert code == 0, err


def test_memory_that_runs_out_names_the_next_setting(clip, wan_folder, capsys, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(generate, "fill_grid", full)
    code, _, err = command(capsys, "edit", clip, "-e", "rain", "--model", wan_folder, *SMALL)
    assert code == 5
    assert "memory is full" in err
    assert "hint: try --offload disk" in err
    assert not list(clip.parent.glob("input.rain*"))


@pytest.mark.parametrize("words", [("edit", "-e", "rain"), ("story", "-s", "rain", "-s", "fog")])
def test_a_rerun_from_another_folder_finds_the_adapter(
    tmp_path, clip, wan_folder, capsys, monkeypatch, words
):
    network = find_model(str(wan_folder)).load().network
    digest = find_model(str(wan_folder)).digests()["transformer"]
    spec = AdapterSpec(
        name="fill", stage="fill", rank=2, alpha=2, targets=("attn1.to_q",), base_hash=digest
    )
    attach_adapter(network, spec)
    monkeypatch.chdir(tmp_path)
    save_adapter(network, spec, Path("own.safetensors"))
    chosen = (*words, "--from", clip) if words[0] == "story" else (words[0], clip, *words[1:])
    options = (*SMALL, "--out", tmp_path, "--model", wan_folder, "--adapter", "own.safetensors")
    code, result, err = command(capsys, *chosen, *options, "--guidance-scale", "1")
    assert code == 0, err
    manifest = next(one for one in result["files"] if one.endswith(".json"))
    monkeypatch.chdir("/")
    code, again, err = command(capsys, "rerun", manifest)
    assert (code, again.get("same_pixels")) == (0, True), err
    assert ("Repeats an edit of" if words[0] == "edit" else "Repeats a story of") in err


def test_the_command_that_a_plan_names_can_be_typed(tmp_path, clip, wan_folder):
    folder = tmp_path / "two words"
    shutil.copytree(wan_folder, folder)
    plan = plan_run(prepare_run(EditJob(input=clip, effects=("rain",), model=str(folder))))
    assert plan.remark.endswith(f"--model '{folder}'")


@pytest.mark.usefixtures("large_machine")
def test_what_is_not_here_is_told_before_anything_is_read(clip, wan_folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = command(capsys, "edit", clip, "-e", "rain", "--model", "wan2.2-5b", "--offline")
    assert code == 4
    assert "wan2.2-5b is not here and the network is off" in err
    assert "reading the clip" not in err
    words = ("edit", clip, "-e", "rain", "--model", wan_folder, *SMALL)
    for option, kind in (("--adapter", "adapter"), ("--lora", "LoRA")):
        code, _, err = command(capsys, *words, option, "gone.safetensors")
        assert code == 4
        assert f"{kind} 'gone.safetensors' does not exist" in err
        assert "reading the clip" not in err


def test_a_foreign_lora_beside_the_weights_is_refused_at_once(tmp_path, clip, wan_folder, capsys):
    lora = tmp_path / "style.safetensors"
    save_file(
        {
            "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 48),
            "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.ones(48, 2),
        },
        lora,
    )
    words = ("edit", clip, "-e", "rain", "--model", wan_folder, *SMALL, "--lora", lora)
    code, _, err = command(capsys, *words, "--offload", "disk")
    assert code == 2
    assert "dcgrid adapters import" in err
    assert "loading the model" not in err
    assert command(capsys, *words, "--offload", "block")[0] == 0


def test_a_story_from_text_alone_says_that_its_adapter_waits(tmp_path, wan_folder, capsys):
    network = find_model(str(wan_folder)).load().network
    spec = AdapterSpec(
        name="fill", stage="fill", rank=2, alpha=2, targets=("attn1.to_q",),
        base_hash=find_model(str(wan_folder)).digests()["transformer"],
    )  # fmt: skip
    attach_adapter(network, spec)
    path = tmp_path / "fill.safetensors"
    save_adapter(network, spec, path)
    words = ("story", "--subject", "a dog", "--scene", "rain", "--model", wan_folder, *SMALL)
    code, _, _ = command(capsys, *words, "--adapter", path, "--dry-run", "--out", tmp_path)
    assert code == 0
    main([*map(str, words), "--adapter", str(path), "--dry-run", "--out", str(tmp_path)])
    assert "a Grid-Fill adapter needs one" in capsys.readouterr().out
