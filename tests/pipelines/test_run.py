"""The whole pipeline with `tiny`, whose weights are random: what holds for any model."""

import hashlib
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import pytest
import torch

from dcgrid import hub
from dcgrid.errors import AdapterError, DeviceError, InputVideoError, WeightsError
from dcgrid.pipelines import deliver, footage, generate
from dcgrid.pipelines import run as run_module
from dcgrid.pipelines.manifest import read_manifest
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from dcgrid.pipelines.upsampling import Shown
from dcgrid.video.clip import Picture
from tests.pipelines.runs import Silence, decoded, job, run


def test_an_edit_leaves_three_files_and_a_true_manifest(clip: Path) -> None:
    progress = Silence()
    result = run(job(clip), progress)
    names = sorted(path.name for path in clip.parent.iterdir())
    assert names == ["input.mp4", "input.rain.json", "input.rain.mp4", "input.rain.png"]
    stages = [stage for stage, _ in progress.stages]
    expected = [stage for stage, _ in plan_run(prepare_run(job(clip))).stages]
    assert [stage for stage in stages if stage in expected] == expected
    manifest = json.loads((clip.parent / "input.rain.json").read_text())
    video = clip.parent / "input.rain.mp4"
    output = manifest["outputs"][0]
    assert output["file_sha256"] == hashlib.sha256(video.read_bytes()).hexdigest()
    assert manifest["inputs_sha256"][0] == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert manifest["job"]["seed"] == 0
    assert manifest["peak_memory_bytes"] > 10_000_000
    assert set(manifest["timings_s"]) == {"read", "load", "fill", "choose", "write"}
    assert result.same_pixels is None
    frames_THWC = decoded(video)
    assert frames_THWC.shape == (manifest["clips"][0]["frames"], 64, 96, 3)
    with av.open(str(video)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"


def test_the_manifest_can_be_read_back_whole(clip: Path) -> None:
    result = run(job(clip, effects=("rain", "fog"), prompt="made of glass"))
    again = read_manifest(result.files[-1])
    assert again.grid == result.manifest.grid
    assert again.outputs == result.manifest.outputs
    assert replace(again.job, out=None) == replace(result.manifest.job, out=None)


def test_same_seed_same_pixels_and_another_seed_others(clip: Path) -> None:
    hashes = {
        name: [
            one.frames_sha256
            for one in run(job(clip, seed=seed, force=True, keep="all")).manifest.outputs
        ]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    }
    assert hashes["a"] == hashes["b"]
    assert not set(hashes["a"]) & set(hashes["c"])
    # Spare cells try the same edit with other noise.
    assert len(set(hashes["a"])) == 3


def test_rerun_reaches_the_same_pixels_from_the_manifest_alone(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(job(clip, prompt="made of glass", effects=("rain",), duration_s=0.4))
    # A recipe that changed since must not matter.
    monkeypatch.setattr("dcgrid.pipelines.resolve.load_effect", None)
    prepared, _ = prepare_rerun(RerunJob(manifest=first.files[-1]))
    second = run(prepared)
    assert second.same_pixels is True
    assert [path.name for path in second.files] == [
        "input.rain.rerun.mp4",
        "input.made-of-glass.rerun.mp4",
        "input.rain-made-of-glass.rerun.png",
        "input.rain-made-of-glass.rerun.json",
    ]
    for one, other in zip(first.files[:2], second.files[:2], strict=True):
        assert torch.equal(decoded(one), decoded(other))


def test_rerun_stays_on_the_device_and_dtype_of_the_first_run(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = run(replace(job(clip), device="auto", dtype="auto")).files[-1]
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    recorded = read_manifest(manifest).machine
    prepared, _ = prepare_rerun(RerunJob(manifest=manifest))
    assert (prepared.job.device, prepared.job.dtype) == (recorded.device, recorded.dtype)
    prepared, _ = prepare_rerun(RerunJob(manifest=manifest, device="cuda"))
    assert prepared.job.device == "cuda"


def test_rerun_refuses_another_input(clip: Path) -> None:
    manifest = run(job(clip)).files[-1]
    clip.write_bytes(clip.read_bytes() + b"\0")
    with pytest.raises(InputVideoError, match="its hash differs"):
        prepare_rerun(RerunJob(manifest=manifest))
    assert prepare_rerun(RerunJob(manifest=manifest, force=True))


def test_rerun_finds_an_input_that_moved_with_its_manifest(clip: Path) -> None:
    manifest = run(job(clip)).files[-1]
    folder = clip.parent / "moved"
    folder.mkdir()
    clip.rename(folder / clip.name)
    moved = manifest.rename(folder / manifest.name)
    prepared, _ = prepare_rerun(RerunJob(manifest=moved))
    assert prepared.job.inputs[0] == folder / clip.name
    assert prepared.outputs.manifest.parent == folder


def test_rerun_tells_if_weights_or_pixels_are_others(clip: Path) -> None:
    manifest = run(job(clip)).files[-1]
    prepared, _ = prepare_rerun(RerunJob(manifest=manifest))
    other_weights = replace(prepared, expected_weights={"dit": "0" * 64})
    with pytest.raises(WeightsError, match="dit are not those of the manifest"):
        run(other_weights)
    other_pixels = replace(prepared, expected_frames={("rain", 1, 0): "0" * 64})
    with pytest.raises(DeviceError, match="other pixels in rain"):
        run(other_pixels)
    assert not list(clip.parent.glob("*rerun*"))
    forced = replace(other_pixels, job=replace(prepared.job, force=True))
    progress = Silence()
    assert run(forced, progress).same_pixels is False
    assert any("other pixels" in line for line in progress.warnings)


def test_the_best_try_is_delivered_and_all_can_be_kept(clip: Path) -> None:
    best = run(job(clip)).manifest.outputs
    every = run(job(clip, keep="all", force=True)).manifest.outputs
    assert len(best) == 1
    assert len(every) == 3
    assert best[0].cell == every[0].cell
    assert [one.path for one in every] == [
        "input.rain.mp4",
        "input.rain.2.mp4",
        "input.rain.3.mp4",
    ]
    totals = [one.structure - 10 * one.flicker for one in every]
    assert totals == sorted(totals, reverse=True)


def test_the_grid_video_shows_the_clip_in_its_own_cell(clip: Path) -> None:
    run(job(clip, save_grid=True, contact_sheet=False))
    grid_THWC = decoded(clip.parent / "input.rain.grid.mp4")
    assert grid_THWC.shape == (5, 64, 96, 3)
    given_THWC = grid_THWC[:, :32, :48].float()
    source_THWC = decoded(clip)[:5].float()
    small_THWC = (source_THWC[:, ::2, ::2] + source_THWC[:, 1::2, 1::2]) / 2
    # Scaled by another filter, and twice through a codec.
    assert (given_THWC - small_THWC).abs().mean() < 12
    assert not (clip.parent / "input.rain.png").exists()


@pytest.mark.parametrize("rate", ["source", "model"])
def test_either_rate_keeps_the_duration(clip: Path, tmp_path: Path, rate: str) -> None:
    fast = tmp_path / "fast.mp4"
    with av.open(str(fast), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame_HWC in decoded(clip).repeat_interleave(3, dim=0):
            frame = av.VideoFrame.from_ndarray(frame_HWC.numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    result = run(job(fast, duration_s=None, fps=rate))
    with av.open(str(result.files[0])) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == {"source": 30, "model": 12}[rate]
        given_s = 3 * len(decoded(clip)) / 30
        assert float(stream.duration * stream.time_base) == pytest.approx(given_s, abs=1 / 12)


def test_guidance_of_each_edit_is_its_own(clip: Path) -> None:
    """At scale 1 the unconditional branch is not asked, and other scales change the pixels."""
    plain = run(job(clip, guidance_scale=1.0)).manifest.outputs[0].frames_sha256
    strong = run(job(clip, guidance_scale=8.0, force=True)).manifest.outputs[0].frames_sha256
    assert plain != strong


@pytest.mark.parametrize(
    ("module", "stage"),
    [
        (footage, "read_clip"),
        (run_module, "load_model"),
        (generate, "fill_grid"),
        (deliver, "write_pictures"),
    ],
)
def test_an_interrupt_at_any_stage_leaves_no_file(
    clip: Path, module: ModuleType, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(job(clip))
    assert [path.name for path in clip.parent.iterdir()] == ["input.mp4"]


def test_an_interrupt_while_the_last_file_is_written_leaves_no_file(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path, *_: object) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(job(clip))
    assert [path.name for path in clip.parent.iterdir()] == ["input.mp4"]


def test_a_missing_adapter_is_named(clip: Path) -> None:
    with pytest.raises(AdapterError, match=r"none\.safetensors"):
        run(job(clip, adapter=str(clip.parent / "none.safetensors")))


def test_a_damaged_adapter_leaves_no_file(clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(AdapterError, match="broken"):
        run(job(clip, adapter=str(broken)))
    assert not list(clip.parent.glob("input.rain*"))


def test_a_plan_says_what_will_happen(clip: Path) -> None:
    plan = plan_run(prepare_run(job(clip, effects=("rain", "fog"))))
    text = "\n".join(plan.lines())
    assert "Grid: 2x2 cells of 48x32 (given, rain, fog, rain)" in text
    assert "input.rain.mp4" in text
    # 5 frames are 2 latent frames of 2 x 3 tokens, in 4 cells.
    assert plan.tokens == 48
    assert json.loads(json.dumps(plan.as_json()))["tokens"] == 48


def test_hashes_of_files_and_frames_are_plain_sha256(clip: Path) -> None:
    assert hub.file_sha256(clip) == hashlib.sha256(clip.read_bytes()).hexdigest()
    frame = Picture(
        rgb_HWC=torch.zeros(2, 2, 3, dtype=torch.uint8), time=Fraction(0), duration=Fraction(1)
    )
    watched = deliver.Watched(lambda: iter([Shown(source=frame, result=frame)] * 2), 1.0)
    assert len(list(watched.pictures())) == 2
    assert watched.hexdigest == hashlib.sha256(b"(2, 2, 3)" + bytes(24)).hexdigest()
