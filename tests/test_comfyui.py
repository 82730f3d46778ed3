"""The ComfyUI nodes against the node interface, with stubs of what ComfyUI itself gives."""

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch

import dcgrid

FILE = Path(__file__).parents[1] / "examples" / "comfyui" / "dcgrid_nodes.py"


class StoppedError(Exception):
    """As ComfyUI's button raises."""


class Comfy:
    """What the nodes take from ComfyUI, and what they did with it."""

    def __init__(self, temporary: Path) -> None:
        self.bars: list[list[int]] = []
        self.is_stopped = False
        comfy = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                comfy.bars.append([])

            def update_absolute(self, value: int, total: int | None = None) -> None:
                comfy.bars[-1].append(value)

        def stop_if_asked() -> None:
            if comfy.is_stopped:
                raise StoppedError

        class VideoFromFile:
            def __init__(self, file: str) -> None:
                self.file = file

            def save_to(self, path: str) -> None:
                Path(path).write_bytes(Path(self.file).read_bytes())

        self.video_type = VideoFromFile
        self.modules = {
            "comfy": SimpleNamespace(),
            "comfy.utils": SimpleNamespace(ProgressBar=ProgressBar),
            "comfy.model_management": SimpleNamespace(
                throw_exception_if_processing_interrupted=stop_if_asked
            ),
            "comfy_api": SimpleNamespace(),
            "comfy_api.latest": SimpleNamespace(
                InputImpl=SimpleNamespace(VideoFromFile=VideoFromFile)
            ),
            "folder_paths": SimpleNamespace(get_temp_directory=lambda: str(temporary)),
        }


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comfy:
    made = Comfy(tmp_path / "temporary")
    for name, module in made.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.fixture(scope="module")
def nodes() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("dcgrid_nodes", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def session(nodes: ModuleType) -> Iterator[dcgrid.Session]:
    loader = nodes.NODE_CLASS_MAPPINGS["DcgridLoadSession"]()
    (made,) = loader.load("tiny", "default", "cpu")
    yield made
    made.close()


def smooth_pictures(count: int) -> torch.Tensor:
    """A gradient that moves: [N, H, W, C] float in [0, 1]."""
    rows, cols = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    frames = [
        torch.stack([rows / 63, (cols + 3 * n) % 96 / 95, cols / 95], -1) for n in range(count)
    ]
    return torch.stack(frames)


def test_classes_are_as_comfyui_calls_them(nodes: ModuleType) -> None:
    assert set(nodes.NODE_DISPLAY_NAME_MAPPINGS) == set(nodes.NODE_CLASS_MAPPINGS)
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        types = node.INPUT_TYPES()
        assert set(types) <= {"required", "optional", "hidden"}
        named = inspect.signature(getattr(node, node.FUNCTION)).parameters
        takes_more = any(one.kind is one.VAR_KEYWORD for one in named.values())
        for name, declared in {**types["required"], **types.get("optional", {})}.items():
            assert name in named or takes_more, name
            kind = declared[0]
            assert isinstance(kind, (str, list)), name
            if isinstance(kind, list):
                assert declared[1]["default"] in kind
        assert isinstance(node.RETURN_TYPES, tuple)
        assert isinstance(node.CATEGORY, str)
        node()


def test_pictures_go_in_and_out(
    nodes: ModuleType, comfy: Comfy, session: dcgrid.Session, tmp_path: Path
) -> None:
    images = smooth_pictures(12)
    made = nodes.Edit().run(
        session=session, effect="rain", prompt="", seed=3, images=images, fps=12.0
    )
    assert len(made) == len(nodes.Edit.RETURN_TYPES)
    video, pictures = made
    assert pictures.shape == images.shape
    assert pictures.dtype == torch.float32
    assert 0 <= pictures.min() <= pictures.max() <= 1
    with av.open(video.file) as container:
        frames = [one.to_ndarray(format="rgb24") for one in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 12
    assert np.abs(np.stack(frames) / 255 - pictures.numpy()).mean() < 0.03
    # What went in was written without loss, and the edit is that of the API.
    (source,) = (tmp_path / "temporary").glob("*/input.mkv")
    with av.open(str(source)) as container:
        given = [one.to_ndarray(format="rgb24") for one in container.decode(video=0)]
    assert (np.stack(given) == (images * 255).round().byte().numpy()).all()
    same = dcgrid.edit(source, ["rain"], model="tiny", seed=3, device="cpu", out=tmp_path / "api")
    assert (same.videos[0].frames() == (pictures * 255).round().byte().numpy()).all()
    assert [bar for bar in comfy.bars if bar]


def test_videos_go_in_with_their_sound(
    nodes: ModuleType, comfy: Comfy, session: dcgrid.Session, clip: Path
) -> None:
    given = comfy.video_type(str(clip))
    call = {"session": session, "subject": "a square", "concept": "sparks", "seed": 0}
    video, pictures = nodes.Compose().run(**call, video=given)
    with av.open(video.file) as container:
        assert container.streams.audio
    assert pictures.shape[1:] == (64, 96, 3)
    second = nodes.Compose().run(**call | {"concept": "(none)"}, video=given, second=given)
    assert (second[1] != pictures).any()


def test_the_stop_button_ends_a_run_and_mistakes_are_readable(
    nodes: ModuleType, comfy: Comfy, session: dcgrid.Session, tmp_path: Path
) -> None:
    call = {"session": session, "effect": "(none)", "prompt": "in the rain", "seed": 0}
    with pytest.raises(RuntimeError, match="either video or images"):
        nodes.Edit().run(**call)
    with pytest.raises(RuntimeError, match=r"effect.*\("):
        nodes.Edit().run(**call | {"prompt": ""}, images=smooth_pictures(5), fps=12.0)
    comfy.is_stopped = True
    with pytest.raises(StoppedError):
        nodes.Edit().run(**call, images=smooth_pictures(5), fps=12.0)
    left = {path.suffix for path in (tmp_path / "temporary").rglob("*.*")}
    assert left == {".mkv"}


def test_a_new_model_lets_go_of_the_one_before(nodes: ModuleType) -> None:
    loader = nodes.LoadSession()
    (first,) = loader.load("tiny", "default", "cpu")
    loader.load("mini", "default", "cpu")
    with pytest.raises(RuntimeError, match="closed"):
        first.edit("a.mp4", ["rain"])
