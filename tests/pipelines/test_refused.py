"""What a run would refuse, its plan refuses: with the same exit code, before anything is loaded."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from safetensors.torch import save_file

from dcgrid.cli.main import main
from dcgrid.errors import LayoutError, UsageError
from dcgrid.grid.layout import GridLayout
from dcgrid.models.native.model import weights_folder
from dcgrid.models.native.presets import MINI_SPEC
from dcgrid.models.registry import find_model
from dcgrid.models.wan.checkpoint import known_spec
from dcgrid.pipelines import footage
from dcgrid.pipelines import run as run_module
from dcgrid.pipelines.clips import check_cells
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.sampling import token_places
from dcgrid.runtime import device as runtime
from tests.pipelines.runs import job


@pytest.mark.parametrize(("rows", "cols"), [(2, 2), (1, 3), (1, 1)])
def test_sizes_are_refused_exactly_where_cells_would_overlap(
    clip: Path, rows: int, cols: int
) -> None:
    """The oracle is what the sampler does with cells of that size."""
    grid = replace(prepare_run(job(clip)).grid, rows=rows, cols=cols)
    shape = GridLayout(rows=rows, cols=cols)
    for height in (96, 240, 256, 272):
        for width in (96, 240, 256, 272):
            sides = [side // MINI_SPEC.stride_HW for side in (height, width)]
            fits = True
            for more in (0, MINI_SPEC.patch[1]):  # the plain grid and the offset one
                try:
                    size = (2, sides[0] + more, sides[1] + more)
                    token_places(shape, size, MINI_SPEC.patch, MINI_SPEC.cell_pitch)
                except LayoutError:
                    fits = False
            try:
                check_cells(job(clip), MINI_SPEC, grid, (height, width))
                planned = True
            except UsageError as error:
                planned = False
                named = re.search(r"--size (\d+)x(\d+)", error.hint)
                assert named is not None
                check_cells(job(clip), MINI_SPEC, grid, (int(named[2]), int(named[1])))
            assert planned == fits, (height, width)


@pytest.mark.parametrize(("rows", "cols"), [(2, 2), (1, 5), (1, 1)])
def test_sizes_are_refused_exactly_where_the_position_table_ends(
    clip: Path, rows: int, cols: int
) -> None:
    """The oracle are the places that the sampler looks up."""
    spec = replace(known_spec("wan2.2-5b"), most_places=16)
    grid = replace(prepare_run(job(clip)).grid, rows=rows, cols=cols)
    unit = spec.stride_HW * spec.patch[1]

    def fits(height: int, width: int) -> bool:
        size = (2, height // spec.stride_HW, width // spec.stride_HW)
        places = token_places(GridLayout(rows=rows, cols=cols), size, spec.patch, spec.cell_pitch)
        return int(places.coordinates_S3.max()) < 16

    for height in range(unit, 18 * unit, 3 * unit):
        for width in range(unit, 18 * unit, 2 * unit):
            try:
                check_cells(job(clip), spec, grid, (height, width))
                planned = True
            except UsageError as error:
                planned = False
                named = re.search(r"--size (\d+)x(\d+)", error.hint)
                assert named is not None
                assert fits(int(named[2]), int(named[1]))
                # The longer side is as long as it can be: one step more does not fit.
                assert not fits(int(named[2]) + unit, int(named[1]) + unit)
            assert planned == fits(height, width), (height, width)


Maker: TypeAlias = Callable[[Path], list[str]]
OTHER_ADAPTER = str(weights_folder("mini") / "fill.safetensors")

SHAPES = find_model("tiny").parameter_shapes()
LAYER = next(
    name.removesuffix(".weight")
    for name, shape in SHAPES.items()
    if name.endswith("query.weight") and len(shape) == 2
)
WIDTH = SHAPES[f"{LAYER}.weight"][1]


def foreign(layer: str, outputs: int, inputs: int, ranks: tuple[int, int] = (2, 2)) -> Maker:
    """Return what writes a LoRA file of another program and names it as an option."""

    def make(folder: Path) -> list[str]:
        path = folder.parent / f"{folder.name}.theirs.safetensors"
        sides = {"lora_A": torch.ones(ranks[0], inputs), "lora_B": torch.ones(outputs, ranks[1])}
        save_file({f"transformer.{layer}.{key}.weight": t for key, t in sides.items()}, path)
        return ["--lora", str(path)]

    return make


FOREIGN = {
    "LoRA of other layers": (foreign("blocks.0.attn1.to_q", 8, 8), 4, "which this model lacks"),
    "LoRA of another width": (foreign(LAYER, WIDTH, WIDTH + 8), 4, "does not fit this model"),
    "LoRA of more outputs": (foreign(LAYER, WIDTH + 8, WIDTH), 4, "does not fit this model"),
    "LoRA of two ranks": (foreign(LAYER, WIDTH, WIDTH, (2, 3)), 4, "have no product"),
    "LoRA of rank 0": (foreign(LAYER, WIDTH, WIDTH, (0, 0)), 4, "rank 0"),
}
CASES: dict[str, tuple[Maker, int, str]] = {
    "overlap": (lambda _: ["--model", "mini", "--size", "320x192"], 2, "at most 240 wide"),
    "no tokens": (lambda _: ["--size", "50x50"], 2, "does not divide"),
    "unknown words": (lambda _: ["--model", "mini", "-p", "xyzzy florbs"], 3, "knows no word"),
    "long prompt": (lambda _: ["-p", "rain " * 300], 3, "tokens"),
    "long name": (lambda f: ["--out", str(f / f"{'a' * 251}.mp4")], 3, "too long"),
    "no adapter": (lambda f: ["--adapter", str(f / "no.safetensors")], 4, "no.safetensors"),
    "no LoRA": (lambda f: ["--lora", str(f / "no.safetensors")], 4, "no.safetensors"),
    "adapter of another model": (lambda _: ["--adapter", OTHER_ADAPTER], 4, "not for 'tiny'"),
    "LoRA of another model": (lambda _: ["--lora", OTHER_ADAPTER], 4, "not for 'tiny'"),
    **FOREIGN,
    "no metric": (lambda _: ["--candidates", "2", "--rank", "nonsense"], 2, "nonsense"),
    "no device": (lambda _: ["--device", "cuda:7"], 5, "cuda"),
    "no such number format": (lambda _: ["--dtype", "fp16"], 2, "fp16"),
    "past the end": (lambda _: ["--start", "99"], 3, "99"),
    "too long for a baseline": (lambda _: ["--method", "flowedit", "--duration", "1"], 2, "use"),
}


@pytest.mark.parametrize("name", CASES)
def test_plan_and_run_refuse_alike_and_nothing_is_loaded(
    name: str, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loads(*_: object, **__: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr(run_module, "load_model", loads)
    monkeypatch.setattr(footage, "read_clip", loads)
    arguments, code, said = CASES[name]
    command = ["edit", str(clip), "--model", "tiny", *arguments(clip.parent)]
    if "-p" not in command:
        command += ["-e", "rain"]
    for more in (["--dry-run"], []):
        assert main([*command, *more]) == code
        shown = capsys.readouterr().err
        assert said in shown
        assert "hint: " in shown
    assert [path.name for path in clip.parent.iterdir()] == ["input.mp4"]


@pytest.mark.parametrize("kind", ["story", "compose"])
def test_a_foreign_lora_that_does_not_fit_is_refused_in_every_plan(
    kind: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {"story": ["--from", str(clip), "-s", "rain"], "compose": [str(clip), str(clip)]}
    lora = foreign(LAYER, WIDTH, WIDTH + 8)(clip.parent)
    command = [kind, *inputs[kind], "--model", "tiny", *lora, "--dry-run"]
    assert main(command) == 4
    assert "does not fit this model" in capsys.readouterr().err
    lora = foreign(LAYER, WIDTH, WIDTH)(clip.parent)
    assert main([*command[:-3], *lora, "--dry-run"]) == 0


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_memory_that_is_not_there_is_refused(
    clip: Path,
    more: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(runtime, "available_memory_bytes", lambda _: 300_000_000)
    assert main(["edit", str(clip), "-e", "rain", "--model", "tiny", *more]) == 5
    shown = capsys.readouterr().err
    said = r"tiny needs about 0\.\d GB of memory for cells of 48x32 .* 0\.3 GB are free"
    assert re.search(said, shown)
    assert "a smaller --size or a shorter --duration" in shown
    assert main(["story", "--from", str(clip), "-s", "rain", "--model", "tiny", *more]) == 5
    monkeypatch.setattr(runtime, "available_memory_bytes", lambda _: 0)  # unknown
    assert main(["edit", str(clip), "-e", "rain", "--model", "tiny", "--dry-run"]) == 0


def test_memory_of_a_setting_that_was_asked_for_is_refused(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(runtime, "available_memory_bytes", lambda _: 21_600_000_000)
    command = ["edit", str(clip), "-e", "rain", "--model", "wan2.2-5b", "--offload", "none"]
    assert main([*command, "--dry-run"]) == 5
    assert "--offload auto takes the fastest way that fits" in capsys.readouterr().err


def test_a_plan_has_size_length_rate_time_and_downloads(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))
    plan = plan_run(prepare_run(job(clip, duration_s=None)))
    text = "\n".join(plan.lines())
    assert "Result: 96x64, 12 frames, 12 fps, each at its own time in the input;" in text
    assert "Time: unknown yet, before the first run with tiny on cpu, fp32." in text
    assert "Download: nothing." in text
    assert plan.as_json()["result"] == {"width": 96, "height": 64, "frames": 12, "fps": 12.0}
    json.dumps(plan.as_json(), allow_nan=False)
    small = plan_run(prepare_run(job(clip, upsample="none", fps="model")))
    assert "Result: 48x32, 5 frames, 12 fps, the model's rate; as the model" in "\n".join(
        small.lines()
    )
