"""`--lora` with `tiny`: folded in before the adapter, recorded, and checked by a rerun."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.export import export_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.reading import hash_tensors
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.cli.main import main
from dcgrid.errors import AdapterError, InputVideoError, UsageError, WeightsError
from dcgrid.hub import file_sha256
from dcgrid.models.registry import find_model
from dcgrid.pipelines.job import absolute_loras, parse_lora
from dcgrid.pipelines.loading import ModelRequest, load_model
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from tests.pipelines.runs import Silence, interrupt_grid, job, moving_square, run, story_job, tell

Maker = Callable[..., Path]


@pytest.fixture
def make_lora(tmp_path: Path) -> Maker:
    """Return a maker of adapter files for the tiny model, bound to its very weights."""

    def make(name: str, seed: int, *targets: str) -> Path:
        network = find_model("tiny").load().network
        base_hash = hash_tensors(network.state_dict())
        spec = AdapterSpec(
            name=name,
            stage="fill",
            rank=2,
            alpha=3.0,
            targets=targets or ("query", "modulation", "mlp_out"),
            base="tiny",
            base_hash=base_hash,
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in attach_adapter(network, spec):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        path = tmp_path / f"{name}.safetensors"
        save_adapter(network, spec, path)
        return path

    return make


def hashes(result: Any) -> list[str]:
    return [one.frames_sha256 for one in result.manifest.outputs]


@pytest.mark.parametrize(
    ("text", "reference", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("dir/a:-4", "dir/a", -4.0),
        ("hf:me/loras@main/steps.safetensors", "hf:me/loras@main/steps.safetensors", 1.0),
        ("hf:me/loras@main/steps.safetensors:4", "hf:me/loras@main/steps.safetensors", 4.0),
        ("package:mini/grid.safetensors:.5", "package:mini/grid.safetensors", 0.5),
        ("package:7", "package:7", 1.0),
        ("odd:name", "odd:name", 1.0),
    ],
)
def test_a_number_after_the_last_colon_is_the_strength(
    text: str, reference: str, strength: float
) -> None:
    choice = parse_lora(text)
    assert (choice.reference, choice.strength) == (reference, strength)
    assert parse_lora(str(choice)) == choice


@pytest.mark.parametrize(
    "text",
    ["", ":1", " :0.5", "a.safetensors:", "a.safetensors:much", "a:4.01", "a:-5", "a:nan", "a:inf"],
)
def test_what_is_no_lora_is_quoted(clip: Path, text: str) -> None:
    with pytest.raises(UsageError, match="is no FILE or FILE:STRENGTH") as caught:
        prepare_run(job(clip, loras=(text,)))
    assert repr(text) in caught.value.message


def test_paths_become_absolute_and_other_references_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_loras(["a.safetensors:0.1", "hf:me/x/y.safetensors"]) == (
        f"{tmp_path}/a.safetensors:0.1",
        "hf:me/x/y.safetensors:1.0",
    )


def test_a_lora_generates_as_the_same_file_does_as_adapter(clip: Path, make_lora: Maker) -> None:
    path = make_lora("steps", 1)
    plain = hashes(run(job(clip, force=True)))
    as_adapter = hashes(run(job(clip, adapter=str(path), force=True)))
    progress = Silence()
    as_lora = run(job(clip, loras=(str(path),), force=True), progress)
    assert hashes(as_lora) == as_adapter != plain
    assert hashes(run(job(clip, loras=(f"{path}:0",), force=True))) == plain
    note = next(line for line in progress.lines if line.startswith("LoRA steps.safetensors"))
    assert "(dcgrid): all " in note
    assert "mean update 0." in note
    assert note.endswith("strength 1.")


def test_loras_stack_under_an_adapter_that_names_the_bare_base(make_lora: Maker) -> None:
    """All three know the hash of the bare weights; the sum is that of their updates."""
    first, second, fill = (make_lora(name, seed) for seed, name in enumerate("abc"))
    asked = job(Path("x.mp4"), loras=(str(first), f"{second}:-0.5"), adapter=str(fill))
    device = torch.device("cpu")

    def weights(asked: Any) -> dict[str, torch.Tensor]:
        request = ModelRequest(
            job=asked,
            model=find_model(asked.model),
            mode="consistent",
            device=device,
            dtype=torch.float32,
        )
        model = load_model(request, Silence())
        return dict(model.backbone.network.state_dict())

    bare = weights(replace(asked, loras=(), adapter="none"))
    alone = [weights(replace(asked, loras=(), adapter=str(one))) for one in (first, second, fill)]
    for name, found in weights(asked).items():
        one, two, three = (state[name] - bare[name] for state in alone)
        torch.testing.assert_close(
            found, bare[name] + one - 0.5 * two + three, rtol=1e-5, atol=1e-6
        )


def test_a_foreign_file_of_an_own_adapter_generates_the_same(
    clip: Path, make_lora: Maker, tmp_path: Path
) -> None:
    path = make_lora("steps", 1)
    (foreign,) = export_adapter(path, "diffusers", tmp_path / "theirs.safetensors")
    expected = hashes(run(job(clip, loras=(str(path),), force=True)))
    assert hashes(run(job(clip, loras=(str(foreign),), force=True))) == expected


def test_a_rerun_uses_the_same_loras_and_checks_them(
    clip: Path, make_lora: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_lora("steps", 1)
    monkeypatch.chdir(path.parent)
    first = run(job(clip, loras=(f"{path.name}:0.7",)))
    manifest = first.files[-1]
    recorded = json.loads(manifest.read_text())
    assert recorded["model"]["loras"] == [
        {"reference": path.name, "strength": 0.7, "sha256": file_sha256(path)}
    ]
    monkeypatch.chdir("/")
    second = run(prepare_rerun(RerunJob(manifest=manifest))[0])  # type: ignore[arg-type]
    assert second.same_pixels is True
    assert second.manifest.model["loras"][0]["strength"] == 0.7
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    prepared, _ = prepare_rerun(RerunJob(manifest=second.files[-1], out=elsewhere))
    make_lora("steps", 2)
    with pytest.raises(WeightsError, match="weights lora 1 are not those of the manifest"):
        run(prepared)  # type: ignore[arg-type]
    path.unlink()
    with pytest.raises(AdapterError, match=r"steps.safetensors' does not exist"):
        run(prepared)  # type: ignore[arg-type]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("value", [[], {}, [{}], [{"sha256": 1}]])
def test_manifests_with_other_loras_than_the_job_are_damaged(
    clip: Path, make_lora: Maker, value: object
) -> None:
    manifest = run(job(clip, loras=(str(make_lora("steps", 1)),))).files[-1]
    values = json.loads(manifest.read_text())
    values["model"]["loras"] = value
    manifest.write_text(json.dumps(values))
    with pytest.raises(InputVideoError, match=r"'model.loras' must have a hash for each of"):
        prepare_rerun(RerunJob(manifest=manifest))


def test_a_manifest_from_before_there_were_loras_can_be_repeated(clip: Path) -> None:
    manifest = run(job(clip)).files[-1]
    values = json.loads(manifest.read_text())
    del values["model"]["loras"], values["job"]["loras"]
    manifest.write_text(json.dumps(values))
    again = run(prepare_rerun(RerunJob(manifest=manifest))[0])  # type: ignore[arg-type]
    assert again.same_pixels is True


@pytest.mark.parametrize("from_clip", [True, False])
def test_a_story_and_its_rerun_use_them(
    clip: Path, tmp_path: Path, make_lora: Maker, from_clip: bool
) -> None:
    path, source = make_lora("steps", 1), clip if from_clip else None
    scenes = ("rain", "fog", "night", "smoke", "snow")
    settings = {"source": source, "upsample": "none"}
    plain = tell(story_job(tmp_path, *scenes, **settings))
    first = tell(story_job(tmp_path, *scenes, loras=(str(path),), force=True, **settings))
    assert not set(hashes(first)) & set(hashes(plain))
    assert first.manifest.model["loras"][0]["sha256"] == file_sha256(path)
    prepared, _ = prepare_rerun(RerunJob(manifest=first.files[-1]))
    assert tell(prepared).same_pixels is True  # type: ignore[arg-type]
    make_lora("steps", 2)
    (tmp_path / "other").mkdir()
    prepared, _ = prepare_rerun(RerunJob(manifest=first.files[-1], out=tmp_path / "other"))
    with pytest.raises(WeightsError, match="weights lora 1 are not those"):
        tell(prepared)  # type: ignore[arg-type]


def test_windows_generated_without_a_lora_are_not_gone_on_with(
    tmp_path: Path, make_lora: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))
    clip, path = moving_square(tmp_path / "long.mp4", 20), make_lora("steps", 1)
    calls = interrupt_grid(monkeypatch, 3)
    settings = {"duration_s": None, "upsample": "none"}
    with pytest.raises(KeyboardInterrupt):
        run(job(clip, **settings))
    for lora in (str(path), f"{path}:0.5"):
        progress = Silence()
        run(job(clip, loras=(lora,), force=True, **settings), progress)
        assert not any("from an earlier run" in line for line in progress.lines)
    progress = Silence()
    run(job(clip, force=True, **settings), progress)
    assert any("from an earlier run" in line for line in progress.lines)
    assert len(calls) > 3


def test_the_plan_tells_of_them(clip: Path, make_lora: Maker) -> None:
    path, other = make_lora("steps", 1), make_lora("other", 2)
    plan = plan_run(prepare_run(job(clip, loras=(f"{path}:0.5", str(other)))))
    assert f"LoRA: {path} at 0.5, {other} at 1." in plan.lines()
    assert plan.as_json()["loras"] == [f"{path}:0.5", str(other)]
    assert not any(line.startswith("LoRA") for line in plan_run(prepare_run(job(clip))).lines())


def test_a_lora_for_another_model_ends_in_one_error_and_no_file(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wan.safetensors"
    start = "diffusion_model.blocks.0.self_attn.q"
    state = {
        f"{start}.lora_A.weight": torch.zeros(1, 5120),
        f"{start}.lora_B.weight": torch.zeros(5120, 1),
    }
    save_file(state, path)
    before = sorted(clip.parent.iterdir())
    words = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--lora", str(path)]
    assert main(words) == 4
    err = capsys.readouterr().err
    assert "does not fit this model" in err
    assert "Traceback" not in err
    assert sorted(clip.parent.iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        ["edit", "{clip}", "-e", "rain"],
        ["compose", "{clip}", "{clip}"],
        ["story", "--from", "{clip}", "-s", "rain"],
    ],
)
def test_every_command_that_fills_grids_takes_them(
    clip: Path, make_lora: Maker, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    paths = [make_lora("one", 1), make_lora("two", 2)]
    words = [word.replace("{clip}", str(clip)) for word in words]
    more = ["--lora", f"{paths[0]}:0.5", "--lora", str(paths[1])]
    common = ["--model", "tiny", "--num-inference-steps", "1", "--format", "json"]
    assert main([*words, *more, *common]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    recorded = json.loads(Path(files[-1]).read_text())["model"]["loras"]
    assert [(one["reference"], one["strength"]) for one in recorded] == [
        (str(paths[0]), 0.5),
        (str(paths[1]), 1.0),
    ]
    assert main([*words, "--lora", "none.safetensors:9", *common]) == 2
    assert "'none.safetensors:9' is no FILE" in capsys.readouterr().err
