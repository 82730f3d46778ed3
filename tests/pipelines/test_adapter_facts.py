"""Numbers that an adapter's file says: samplers take them, and plans say what overrides them."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import adapter_tensors, write_adapter
from dcgrid.adapters.reading import hash_tensors, read_sha256
from dcgrid.adapters.spec import AdapterSpec, spec_from_json
from dcgrid.cli.main import main
from dcgrid.errors import AdapterError
from dcgrid.models.registry import find_model
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from dcgrid.recipes import shipped_dir
from tests.pipelines.runs import job, run, story_job

Maker = Callable[..., Path]
RAIN = (shipped_dir() / "effects" / "rain.toml").read_text()


def write_rain(folder: Path, noise_scale: float | None = None) -> str:
    """Write the shipped effect, with a noise scale of its own if asked; return its path."""
    path = folder / "rain.toml"
    sampler = "" if noise_scale is None else f"[sampler]\nnoise_scale = {noise_scale}\n"
    path.write_text(RAIN + sampler)
    return str(path)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Return a maker of adapters of the tiny model that differ in what they say alone."""
    network = find_model("tiny").load().network
    base_hash = hash_tensors(network.state_dict())
    plain = AdapterSpec(
        name="a",
        stage="fill",
        rank=2,
        alpha=2.0,
        targets=("query", "mlp_out"),
        base="tiny",
        base_hash=base_hash,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attach_adapter(network, plain):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    tensors = adapter_tensors(network, "a")

    def maker(name: str, **facts: Any) -> Path:
        path = tmp_path / f"{name}.safetensors"
        write_adapter(replace(plain, name=name, **facts), tensors, path)
        return path

    return maker


def hashes(result: Any) -> list[str]:
    return [one.frames_sha256 for one in result.manifest.outputs]


def plan_lines(clip: Path, **values: object) -> list[str]:
    return plan_run(prepare_run(job(clip, **values))).lines()


def test_an_edit_is_sampled_as_the_adapter_says(clip: Path, make: Maker, tmp_path: Path) -> None:
    """The oracle is the recipe key, which has always set the noise scale."""
    plain, paper = make("plain"), make("paper", noise_scale=1.9, inference_noise_scale=1.8)
    shared = {"force": True, "effects": (write_rain(tmp_path, 1.8),)}
    asked = hashes(run(job(clip, adapter=str(plain), **shared)))
    write_rain(tmp_path)
    result = run(job(clip, adapter=str(paper), **shared))
    assert hashes(result) == asked
    assert result.manifest.sampler["noise_scale"] == 1.8
    assert hashes(run(job(clip, adapter=str(plain), **shared))) != asked


def test_an_adapter_without_a_value_for_inference_has_that_of_training(
    clip: Path, make: Maker
) -> None:
    earlier = asdict(spec_of(noise_scale=1.9))
    for key in ("inference_noise_scale", "inference_time_shift", "dc_strength", "dc_sha256"):
        del earlier[key]
    spec = spec_from_json(json.dumps(earlier))
    assert spec.sampled_noise_scale == 1.9
    shared = {"force": True, "adapter": str(make("a", noise_scale=1.9))}
    assert run(job(clip, **shared)).manifest.sampler["noise_scale"] == 1.9


def spec_of(**facts: Any) -> AdapterSpec:
    return AdapterSpec(name="a", stage="fill", rank=1, alpha=1, targets=("q",), **facts)


@pytest.mark.parametrize("key", ["inference_noise_scale", "inference_time_shift"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_numbers_are_refused(key: str, value: float) -> None:
    with pytest.raises(AdapterError, match=key):
        spec_of(**{key: value})


def test_the_time_shift_of_an_adapter_is_that_of_the_schedule(clip: Path, make: Maker) -> None:
    shifted = run(job(clip, adapter=str(make("a", inference_time_shift=1.5)), force=True))
    usual = run(job(clip, adapter=str(make("b")), force=True))
    assert shifted.manifest.sampler["time_shift"] == 1.5
    assert usual.manifest.sampler["time_shift"] == 3.0
    assert hashes(shifted) != hashes(usual)


def test_plans_say_numbers_overrides_and_disagreement(
    clip: Path, make: Maker, tmp_path: Path
) -> None:
    paper = str(make("paper", noise_scale=1.9, inference_noise_scale=1.8))
    told = "Adapter paper: sampled with noise scale 1.8 (1.9 in training)."
    assert told in plan_lines(clip, adapter=paper)
    assert not [line for line in plan_lines(clip, adapter=str(make("plain"))) if "oise" in line]
    lines = plan_lines(clip, adapter=paper, effects=(write_rain(tmp_path, 1.2),))
    assert "Noise scale: 1.2 from the recipe; adapter paper has 1.8." in lines
    other = make("other", stage="grid", noise_scale=1.4)
    lines = plan_lines(clip, adapter=paper, loras=(str(other),))
    assert "LoRA other is for noise scale 1.4; adapter paper has 1.8, which is used." in lines
    plan = plan_run(prepare_run(job(clip, adapter=paper)))
    assert told in plan.as_json()["notes"]


def test_a_story_plan_says_them_too(clip: Path, make: Maker, tmp_path: Path) -> None:
    paper = str(make("paper", noise_scale=1.9, inference_noise_scale=1.8))
    story = story_job(tmp_path, "in the rain", source=clip, adapter=paper)
    plan = plan_run(prepare_run(story))
    assert any("noise scale 1.8" in line for line in plan.lines())
    with pytest.raises(AdapterError, match="stage grid"):
        plan_run(prepare_run(replace(story, adapter=str(make("g", stage="grid")))))


@pytest.mark.parametrize(
    ("facts", "told", "hint"),
    [
        ({"stage": "grid"}, "is a Grid LoRA (stage grid)", "--lora"),
        ({"stage": "dc"}, "is a Multi-DC LoRA (stage dc)", "--lora"),
        ({"mode": "composition"}, "of mode composition", "dcgrid train --stage fill makes one"),
        (
            {"stage": "grid", "mode": "composition"},
            "is a Grid LoRA",
            "dcgrid train --stage fill makes one",
        ),
    ],
)
def test_an_adapter_of_another_stage_or_mode_is_refused_in_the_plan(
    clip: Path,
    make: Maker,
    capsys: pytest.CaptureFixture[str],
    facts: dict[str, str],
    told: str,
    hint: str,
) -> None:
    path = make("wrong", **facts)
    with pytest.raises(AdapterError) as caught:
        plan_run(prepare_run(job(clip, adapter=str(path))))
    assert told in caught.value.message
    assert str(path) in caught.value.message
    assert hint in caught.value.hint
    arguments = ["edit", str(clip), "--effect", "rain", "--model", "tiny", "--adapter", str(path)]
    assert main([*arguments, "--dry-run"]) == 4
    assert hint in " ".join(capsys.readouterr().err.split())


def test_a_file_of_another_program_is_refused_in_the_plan(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(AdapterError, match="not an adapter that dcgrid wrote") as caught:
        plan_run(prepare_run(job(clip, adapter=str(path))))
    assert f"--lora {path}" in caught.value.hint


def test_a_run_of_before_adapters_said_their_numbers_is_repeated_as_it_was(
    clip: Path, make: Maker, tmp_path: Path
) -> None:
    """Then an adapter trained at 1.9 was sampled at the model's 1, and no edit named a scale."""
    adapter = str(make("paper", noise_scale=1.9, inference_noise_scale=1.8))
    first = run(job(clip, adapter=adapter, effects=(write_rain(tmp_path, 1.0),)))
    path = next(file for file in first.files if file.suffix == ".json")
    manifest = json.loads(path.read_text())
    manifest["grid"]["edits"][0]["noise_scale"] = None
    assert manifest["sampler"]["noise_scale"] == 1.0
    path.write_text(json.dumps(manifest))
    prepared, _ = prepare_rerun(RerunJob(manifest=path))
    again = run(prepared)
    assert again.same_pixels is True


def test_plans_say_what_becomes_of_the_multi_dc_lora(clip: Path, make: Maker) -> None:
    """Left away by default (Table 1); kept where --lora names it, which then acts."""
    dc = make("dc", stage="dc", layout="1x1")
    facts = {"dc_strength": 1.0, "dc_sha256": read_sha256(dc)}
    fill = str(make("paper", **facts))
    (line,) = [one for one in plan_lines(clip, adapter=fill) if "Multi-DC" in one]
    assert line.startswith("Multi-DC: left away; adapter paper was trained on it at 1.")
    assert line.endswith(f"--lora {dc}:1")
    (kept,) = [
        one for one in plan_lines(clip, adapter=fill, loras=(f"{dc}:0.5",)) if "Multi-DC" in one
    ]
    assert kept == "Multi-DC: kept at 0.5; adapter paper was trained on it at 1."
    other = str(make("other", stage="dc", rank=2, alpha=1.0))
    assert any("another one" in one for one in plan_lines(clip, adapter=fill, loras=(other,)))
    assert not [one for one in plan_lines(clip, adapter=str(make("b"))) if "Multi-DC" in one]
    without = hashes(run(job(clip, adapter=fill, force=True)))
    assert hashes(run(job(clip, adapter=fill, loras=(f"{dc}:0.5",), force=True))) != without
