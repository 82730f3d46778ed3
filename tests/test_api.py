"""The Python API: what a notebook or a service gets, against the command line and the files."""

import dataclasses
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

import dcgrid
from dcgrid import options
from dcgrid.cli.main import main
from dcgrid.io.progress import NullProgress
from dcgrid.models.registry import find_model
from dcgrid.pipelines import kept
from dcgrid.pipelines.job import ComposeJob, EditJob
from dcgrid.pipelines.kept import KeptModels
from dcgrid.pipelines.loading import ModelRequest
from dcgrid.pipelines.manifest import read_manifest
from dcgrid.pipelines.script import StoryJob
from tests.pipelines.runs import decoded

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {"duration": 0.4, "num_inference_steps": 2, "upsample": "none"}
AS_OPTIONS = ["--duration", "0.4", "--num-inference-steps", "2", "--upsample", "none"]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models that are loaded, by the mode of their grid."""
    modes: list[str] = []
    real = kept.load_model

    def counted(request, progress):  # type: ignore[no-untyped-def]
        modes.append(request.job.command)
        return real(request, progress)

    monkeypatch.setattr(kept, "load_model", counted)
    return modes


def pixels(result: dcgrid.Result) -> list[str]:
    return [one["frames_sha256"] for one in result.manifest["outputs"]]


def test_importing_costs_nothing_and_a_session_no_torch() -> None:
    code = (
        "import sys, time; before = set(sys.modules); start = time.process_time(); import dcgrid;"
        "print(time.process_time() - start);"
        "print(*{one for one in sys.modules if one.startswith('dcgrid')} - before);"
        "dcgrid.Session(model='tiny'); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, modules, has_torch = done.stdout.splitlines()
    assert float(seconds) < 0.1
    assert modules == "dcgrid"
    assert has_torch == "False"


def test_every_public_name_is_there() -> None:
    for name in dcgrid.__all__:
        assert getattr(dcgrid, name) is not None
    assert set(dir(dcgrid)) == set(dcgrid.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        dcgrid.nothing  # noqa: B018
    errors = {n for n, one in vars(sys.modules["dcgrid.errors"]).items() if isinstance(one, type)}
    assert errors - set(dcgrid.__all__) <= {"AlreadyToldError", "StudyError"}


def test_an_edit_has_the_pixels_of_the_command(clip: Path, tmp_path: Path) -> None:
    main(["edit", str(clip), "-e", "rain", "--model", "tiny", *AS_OPTIONS])
    expected = read_manifest(clip.parent / "input.rain.json").outputs[0].frames_sha256
    result = dcgrid.edit(clip, ["rain"], model="tiny", out=tmp_path / "api", **SMALL)
    assert pixels(result) == [expected]
    (video,) = result.videos
    assert (video.edit, video.seed, video.path.name) == ("rain", 0, "input.rain.mp4")
    assert result.manifest_path == tmp_path / "api" / "input.rain.json"
    assert set(result.files) == set((tmp_path / "api").iterdir())
    again = dcgrid.edit(str(clip), ("rain",), model="tiny", out=str(tmp_path / "api"), **SMALL)
    assert again.already_there
    assert not result.already_there


def test_frames_are_those_of_the_file(clip: Path) -> None:
    (video,) = dcgrid.edit(clip, ["night"], model="tiny", **SMALL).videos
    frames_THWC = video.frames()
    assert frames_THWC.dtype == np.uint8
    assert torch.equal(torch.from_numpy(frames_THWC), video.frames("torch"))
    oracle_THWC = decoded(video.path).numpy()
    assert frames_THWC.shape == oracle_THWC.shape
    # Of noise; decoders enlarge colour in their own ways, so brightness is compared.
    luma = np.array([0.2126, 0.7152, 0.0722])
    assert np.abs(frames_THWC @ luma - oracle_THWC @ luma).mean() < 3


def test_a_session_loads_once(clip: Path, tmp_path: Path, loads: list[str]) -> None:
    with dcgrid.Session(model="tiny") as session:
        first = session.edit(clip, ["rain"], out=tmp_path / "a", **SMALL)
        second = session.edit(clip, ["rain"], out=tmp_path / "b", seed=1, **SMALL)
        third = session.edit(clip, ["rain"], out=tmp_path / "c", **SMALL)
        story = session.story(["rain", "made of glass"], source=clip, out=tmp_path / "d", **SMALL)
    assert loads == ["edit"]
    assert pixels(first) == pixels(third) != pixels(second)
    assert [one.edit for one in story.videos] == ["1-rain", "2-made-of-glass"]
    with pytest.raises(RuntimeError, match="closed"):
        session.edit(clip, ["rain"], out=tmp_path / "e", **SMALL)


@pytest.mark.parametrize(("most", "expected"), [(1, 2), (2, 1)])
def test_more_models_stay_where_asked(
    clip: Path, tmp_path: Path, loads: list[str], most: int, expected: int
) -> None:
    with dcgrid.Session(model="tiny", max_models=most) as session:
        for folder, dtype in (("a", "fp32"), ("b", "bf16"), ("c", "fp32")):
            session._options["dtype"] = dtype
            session.edit(clip, ["rain"], out=tmp_path / folder, **SMALL)
    assert len(loads) == 1 + expected


def test_a_layout_leaves_no_trace_in_a_kept_model(clip: Path) -> None:
    """A layout may let given cells enter in another way than the next one."""
    models = KeptModels()
    request = ModelRequest(
        job=EditJob(input=clip, effects=("rain",), model="tiny"),
        model=find_model("tiny"),
        mode="consistent",
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    first = models.load(request, NullProgress())
    usual = first.backbone.spec
    first.backbone.use_given(clean=not usual.per_cell_time, first=False)
    assert first.backbone.spec != usual
    assert models.load(request, NullProgress()).backbone is first.backbone
    assert first.backbone.spec == usual


def test_threads_share_a_session(clip: Path, tmp_path: Path, loads: list[str]) -> None:
    found: dict[int, dcgrid.Result] = {}
    with dcgrid.Session(model="tiny") as session:

        def work(seed: int) -> None:
            found[seed] = session.edit(clip, ["fog"], out=tmp_path / f"{seed}", seed=seed, **SMALL)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        alone = session.edit(clip, ["fog"], out=tmp_path / "alone", seed=1, **SMALL)
    assert pixels(found[1]) == pixels(alone) != pixels(found[0])
    assert len(loads) == 1


def test_a_composition_with_a_clip_of_the_program(clip: Path, tmp_path: Path) -> None:
    result = dcgrid.compose(clip, concept="sparks", model="tiny", out=tmp_path / "a", **SMALL)
    assert [one.edit for one in result.videos] == ["fusion", "fusion-2"]
    assert result.manifest["job"]["concept"] == "a shower of golden sparks"


BAD = [
    ({"sed": 1}, "UsageError", "key 'sed' is unknown; did you mean 'seed'?"),
    ({"seed": "1"}, "UsageError", "key 'seed' must be an integer of 0 or more, not '1'"),
    ({"seed": -1, "fps": "modl"}, "UsageError", "did you mean 'model'"),
    ({"seed": -1, "fps": "modl"}, "UsageError", "not -1"),
    ({"size": "big"}, "UsageError", "must be of the form WIDTHxHEIGHT, not 'big'"),
    ({"effects": "rain"}, "UsageError", "key 'effects' must be a list of strings, not 'rain'"),
    ({"effects": ["rian"]}, "RecipeError", "rian"),
    ({"effects": []}, "UsageError", ""),
    ({"duration": 0}, "UsageError", "key 'duration' must be a number above 0"),
    ({"model": "minni"}, "UsageError", "minni"),
    ({"dtype": "fp8"}, "UsageError", "key 'dtype' must be one of auto"),
    ({"input": "gone.mp4"}, "InputVideoError", "gone.mp4 does not exist"),
    ({"out": "a.mov"}, "OutputError", "a.mov"),
    ({"prompt": "a\x1bb"}, "UsageError", "control character U+001B"),
]


@pytest.mark.parametrize(("values", "kind", "part"), BAD)
def test_what_is_wrong_is_said(
    values: dict[str, Any], kind: str, part: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip.parent)
    asked: dict[str, Any] = {"input": clip, "effects": ["rain"], "model": "tiny", **values}
    with pytest.raises(dcgrid.DcgridError) as caught:
        dcgrid.edit(asked.pop("input"), **asked)
    assert type(caught.value).__name__ == kind
    assert part in caught.value.message
    assert [path.name for path in clip.parent.iterdir()] == ["input.mp4"]


def test_a_session_is_refused_when_it_is_made() -> None:
    with pytest.raises(dcgrid.UsageError, match="did you mean 'offload'"):
        dcgrid.Session(ofload="none")  # type: ignore[call-arg]
    with pytest.raises(dcgrid.UsageError, match="did you mean 'concept'"):
        dcgrid.compose("a.mp4", concpt="fire")  # type: ignore[call-arg]
    with pytest.raises(dcgrid.UsageError, match="key 'scenes' must be a list"):
        dcgrid.story("rain")


@pytest.mark.parametrize(
    ("request_", "job"),
    [
        (options.EditRequest, EditJob),
        (options.ComposeRequest, ComposeJob),
        (options.StoryRequest, StoryJob),
    ],
)
def test_every_field_of_a_job_is_an_option(request_: type, job: type) -> None:
    """`folder` follows from the clip; what a story cannot have stands in its base class."""
    named = {options._JOB_FIELDS.get(name, name) for name in get_type_hints(request_)}
    named = {"cell_size" if name == "size" else name for name in named}
    fields = {one.name for one in dataclasses.fields(job)} - {"folder", "origins"}
    assert named <= fields
    without = {"keep", "candidates", "rank", "save_grid"} if job is StoryJob else set()
    assert fields - named <= without | ({"keep"} if job is ComposeJob else set())


def test_the_examples_of_the_page_run(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 4
    monkeypatch.chdir(clip.parent)
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clip, name)
    space: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace('"mini"', '"tiny"'), space)
    assert Path("results/a.rain.mp4").exists()
