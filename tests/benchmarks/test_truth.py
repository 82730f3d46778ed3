"""The truth benchmark on the model for tests: its figures against numpy, its clips, its errors."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import clips as bench_clips
from benchmarks.edits import EditSettings, edit_clip
from benchmarks.figures import MOST_DB, compare
from benchmarks.progress import Silent
from benchmarks.truth import main, order_effects, render_truth
from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.cli.main import main as dcgrid_main
from dcgrid.eval.suites.suite import group_tasks
from dcgrid.models.registry import find_model
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.models.weights import save_weights
from dcgrid.pipelines import sampling as fill_module
from dcgrid.synthetic.effects import DETERMINISTIC, EFFECT_NAMES, render_effect
from dcgrid.synthetic.sources import TRAINING_CLIPS

SHARED = Path(__file__).parents[2] / ".." / "shared" / "clips"
TINY = ["--model", "tiny", "--dtype", "fp32", "--steps", "2", "--device", "cpu"]


def numpy_psnr(first: np.ndarray, second: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((first.astype(float) - second.astype(float)) ** 2))


def numpy_figures(clip: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The four figures by their definitions, written with reshape and loops of numpy."""

    def areas(frames: np.ndarray, side: int) -> np.ndarray:
        t, h, w, c = frames.shape
        cut = frames[:, : h // side * side, : w // side * side].astype(float)
        return cut.reshape(t, h // side, side, w // side, side, c)

    def low(frames: np.ndarray) -> np.ndarray:
        return areas(frames, 8).mean((2, 4))

    def motion(frames: np.ndarray) -> float:
        return float(np.mean(np.diff(frames.astype(float), axis=0) ** 2))

    def detail(frames: np.ndarray) -> float:
        return float(areas(frames, 4).var((2, 4)).mean())

    return {
        "psnr": numpy_psnr(clip, truth),
        "low_pass_psnr": numpy_psnr(low(clip), low(truth)),
        "motion": motion(clip) / motion(truth),
        "detail": detail(clip) / detail(truth),
    }


def measured(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("shape", [(5, 32, 48, 3), (2, 35, 41, 3)])
def test_figures_are_what_their_words_say(shape: tuple[int, ...]):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 256, shape, dtype=np.uint8)
    clip = np.clip(truth * 0.7 + rng.normal(0, 9, shape), 0, 255).astype(np.uint8)
    found = compare(torch.from_numpy(clip), torch.from_numpy(truth))
    for name, value in numpy_figures(clip, truth).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9), name


def test_equal_clips_and_still_clips_have_finite_or_no_figures():
    still = torch.full((3, 16, 16, 3), 40, dtype=torch.uint8)
    found = compare(still, still)
    assert found.psnr == found.low_pass_psnr == MOST_DB
    assert math.isnan(found.motion)
    assert found.as_json()["motion"] is None
    with pytest.raises(ValueError, match="differ"):
        compare(still, still[:2])


def test_truth_is_the_rendered_effect_as_a_picture_file_holds_it():
    clip = torch.randint(0, 256, (5, 32, 48, 3), generator=torch.Generator().manual_seed(1))
    frames = clip.to(torch.uint8)
    floats = torch.from_numpy(frames.numpy().transpose(3, 0, 1, 2) / np.float32(255))
    wanted = render_effect("night", floats, generator=torch.Generator()).numpy()
    truth = render_truth(frames, "night", fps=12.0).numpy()
    np.testing.assert_array_equal(truth, np.rint(wanted * 255).transpose(1, 2, 3, 0))
    # One roll is always the same, another is another.
    rain = render_truth(frames, "rain", fps=12.0)
    assert torch.equal(rain, render_truth(frames, "rain", fps=12.0))
    assert not torch.equal(rain, render_truth(frames, "rain", fps=12.0, drift=2))


def test_effects_are_grouped_in_threes_and_each_is_measured_once():
    order = order_effects(EFFECT_NAMES)
    assert sorted(order) == sorted(EFFECT_NAMES)
    assert set(order[: len(DETERMINISTIC)]) == DETERMINISTIC
    groups = group_tasks(tuple(order))
    assert [name for group in groups for name in group] == list(order)
    assert all(1 <= len(group) <= 3 for group in groups)


def test_figures_of_a_run_are_those_of_numpy(clip: Path, capsys: pytest.CaptureFixture[str]):
    """Ceiling, unedited and means are worked out again with numpy; edits: see the next test."""
    effects = ["night", "fog", "rain"]
    result = measured([str(clip), *TINY, "--effects", *effects], capsys)
    assert result["model"] == "tiny"
    scores = {score["effect"]: score for score in result["scores"]}
    assert set(scores) == set(effects)

    backbone = find_model("tiny").load()
    given = bench_clips.read_bench_clip(clip, backbone.spec).frames_THWC
    for effect in effects:
        figures = scores[effect]["figures"]
        truth = render_truth(given, effect, backbone.spec.fps).numpy()
        for name, value in numpy_figures(given.numpy(), truth).items():
            assert figures["unedited"][name] == pytest.approx(value, abs=1e-4)
        video = torch.from_numpy(truth.transpose(3, 0, 1, 2)[None] / np.float32(127.5) - 1)
        decoded = backbone.decode(backbone.encode(video))[0].numpy().transpose(1, 2, 3, 0)
        passed = np.clip(np.rint((decoded.astype(float) + 1) * 127.5), 0, 255)
        assert figures["ceiling"]["psnr"] == pytest.approx(numpy_psnr(passed, truth), abs=1e-2)
        assert ("another roll" in figures) == (effect == "rain")
        # `tiny` has no adapter, so there is nothing to leave away.
        assert "no adapter" not in figures

    fixed = [scores[name]["figures"]["edit"]["psnr"] for name in ("night", "fog")]
    assert result["means"]["deterministic"]["edit"]["psnr"] == pytest.approx(
        np.mean(fixed), abs=1e-3
    )
    every = [score["figures"]["edit"]["psnr"] for score in scores.values()]
    assert result["means"]["all"]["edit"]["psnr"] == pytest.approx(np.mean(every), abs=1e-3)


def test_edits_are_those_of_the_command_before_they_are_upsampled(clip: Path):
    """Same pixels as in the manifest of `dcgrid edit`, at the size and the rate of the model."""
    effects = ["fog", "night", "noir"]
    wanted = [word for name in effects for word in ("--effect", name)]
    options = ["--model", "tiny", "--dtype", "fp32", "--num-inference-steps", "2", "--seed", "5"]
    options += ["--upsample", "none", "--fps", "model", "--duration", "0.4"]
    assert dcgrid_main(["edit", str(clip), *wanted, *options, "--device", "cpu", "--quiet"]) == 0
    manifest = json.loads(next(clip.parent.glob("*.json")).read_text())

    backbone = find_model("tiny").load()
    given = bench_clips.read_bench_clip(clip, backbone.spec).frames_THWC
    settings = EditSettings(seed=5, num_inference_steps=2)
    made = edit_clip(backbone, given, effects, settings, Silent())
    for output in manifest["outputs"]:
        frames_THWC = made[output["edit"]].frames_THWC
        pixels = hashlib.sha256(f"{tuple(frames_THWC.shape[1:])}".encode())
        pixels.update(frames_THWC.numpy().tobytes())
        assert pixels.hexdigest() == output["frames_sha256"]


def test_drift_of_a_cell_is_the_noise_that_it_starts_from(monkeypatch: pytest.MonkeyPatch):
    """Against the noise that `fill_grid` really draws."""
    backbone, drawn = find_model("tiny").load(), []
    motion = ((2, 0.0), (-1, 1.0))
    spec = replace(backbone.spec, noise_motion=motion)
    monkeypatch.setattr(NetworkBackbone, "spec", property(lambda _: spec))
    original = fill_module.sample

    def sample(velocity, cells, noise, *rest):
        drawn.append(noise)
        return original(velocity, cells, noise, *rest)

    monkeypatch.setattr(fill_module, "sample", sample)
    given = torch.randint(0, 255, (5, 32, 48, 3), dtype=torch.uint8)
    settings = EditSettings(seed=4, num_inference_steps=1)
    made = edit_clip(backbone, given, ["fog", "night", "noir"], settings, Silent())
    (noise,) = drawn
    for cell, name in enumerate(["fog", "night", "noir"], start=1):
        assert torch.equal(made[name].drift_MFYX, noise[0, cell, -2:])


def test_the_same_call_gives_the_same_figures_and_another_seed_others(
    clip: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = [str(clip), *TINY, "--effects", "night", "--duration", "0.4"]
    first = measured(arguments, capsys)
    assert measured(arguments, capsys) == first
    other = measured([*arguments, "--seed", "1"], capsys)
    both = measured([*arguments, "--seeds", "2"], capsys)
    values = [run["scores"][0]["figures"]["edit"]["psnr"] for run in (first, other, both)]
    assert values[0] != values[1]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, abs=1e-3)


def test_clips_that_training_saw_are_refused(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert not set(bench_clips.HELD_OUT) & set(TRAINING_CLIPS)
    seen = tmp_path / "stream_of_water.webm"  # training has it as .mp4
    seen.write_bytes(clip.read_bytes())
    assert main([str(seen), *TINY]) == 2
    error = capsys.readouterr().err
    assert "stream_of_water.webm" in error
    assert "--allow-seen" in error
    quick = [str(seen), *TINY, "--effects", "noir", "--allow-seen"]
    assert measured(quick, capsys)["scores"][0]["clip"] == seen.name


def save_tiny(folder: Path) -> None:
    """Write the random weights of `tiny` as files, with an adapter that changes much."""
    backbone = find_model("tiny").load()
    parts, words = backbone.parts, backbone.parts.text.tokenizer.vocabulary
    for name in ("autoencoder", "text", "dit"):
        facts = {"vocabulary": list(words)} if name == "text" else {}
        tensors = getattr(parts, name).state_dict()
        save_weights(folder / f"{name}.safetensors", tensors, facts, torch.float32)
    spec = AdapterSpec(
        name="fill", stage="fill", rank=2, alpha=2.0, targets=("query", "mlp_in"), base="tiny"
    )
    attach_adapter(parts.dit, spec)
    for name, weight in parts.dit.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(len(name)))
    save_adapter(parts.dit, spec, folder / "fill.safetensors")


def test_a_folder_of_weights_is_measured_with_and_without_its_adapter(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "weights"
    folder.mkdir()
    save_tiny(folder)
    arguments = [str(clip), *TINY, "--effects", "night", "--duration", "0.4"]
    inside = measured(arguments, capsys)["scores"][0]["figures"]
    both = measured([*arguments, "--weights-dir", str(folder)], capsys)
    figures = both["scores"][0]["figures"]
    # The base of the folder is the model for tests itself, so its row must be that one's edit.
    assert figures["no adapter"] == inside["edit"]
    assert figures["edit"]["psnr"] != figures["no adapter"]["psnr"]
    assert both["means"]["all"]["no adapter"] == figures["no adapter"]
    assert set(both["weights"]) == {"autoencoder", "text", "dit", "fill"}
    bare = measured([*arguments, "--weights-dir", str(folder), "--adapter", "none"], capsys)
    assert bare["scores"][0]["figures"]["edit"] == figures["no adapter"]
    skipped = measured([*arguments, "--weights-dir", str(folder), "--no-base"], capsys)
    assert set(skipped["scores"][0]["figures"]) == {"edit", "ceiling", "unedited"}


def test_codec_only_needs_nothing_but_the_autoencoder(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "weights"
    folder.mkdir()
    save_tiny(folder)
    for path in folder.glob("*.safetensors"):
        if path.stem != "autoencoder":
            path.unlink()
    arguments = [str(clip), *TINY, "--codec-only", "--effects", "none"]
    inside = measured(arguments, capsys)["codec"]
    assert measured([*arguments, "--weights-dir", str(folder)], capsys)["codec"] == inside


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no-such-clip.mp4"], 3, "no-such-clip.mp4"),
        (["CLIP", "--effects", "nigth"], 3, "did you mean 'night'"),
        (["CLIP", "--effects", "none"], 2, "no effect"),
        (["CLIP", "--seeds", "0"], 2, "--seeds 0"),
        (["CLIP", "--weights-dir", "nowhere"], 4, "nowhere"),
    ],
)
def test_mistakes_are_told_with_the_programs_exit_codes(
    clip: Path, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
):
    spelled = [str(clip) if word == "CLIP" else word for word in arguments]
    assert main([*spelled, "--model", "tiny"]) == code
    assert words in capsys.readouterr().err


def test_codec_only_measures_the_clip_and_the_effects(
    clip: Path, capsys: pytest.CaptureFixture[str]
):
    result = measured([str(clip), *TINY, "--codec-only", "--effects", "fog"], capsys)
    figures = result["codec"][clip.name]
    assert set(figures) == {"unedited", "fog"}
    capsys.readouterr()
    assert main([str(clip), *TINY, "--codec-only", "--effects", "fog"]) == 0
    table = capsys.readouterr().out
    assert f"{figures['unedited']['psnr']:.2f}" in table
    assert f"{figures['fog']['psnr']:.2f}" in table


def test_tables_separate_effects_with_chance(clip: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(clip), *TINY, "--effects", "rain", "fog", "--duration", "0.4"]) == 0
    table = capsys.readouterr().out
    fixed, chance = table.split("Effects with chance in them", 1)
    assert "fog" in fixed
    assert "rain" not in fixed
    assert "rain" in chance
    assert "Goal:" in fixed
    assert f"{clip.name} fog" in fixed
    assert f"{clip.name} rain" in chance
    arguments = [str(clip), *TINY, "--effects", "rain", "fog", "--duration", "0.4", "--brief"]
    assert main(arguments) == 0
    brief = capsys.readouterr().out
    # Short tables are the long ones less the rows of single clips and effects.
    long_rows = {" ".join(line.split()) for line in table.splitlines()}
    short_rows = [" ".join(line.split()) for line in brief.splitlines()]
    assert set(short_rows) < long_rows
    assert not [row for row in short_rows if row.startswith(clip.name)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the clips of ../shared/clips are not here")
def test_the_held_out_clips_are_there():
    paths = bench_clips.find_clips([], allow_seen=False)
    assert [path.name for path in paths] == list(bench_clips.HELD_OUT)
    assert len(paths) >= 12
