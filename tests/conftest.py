"""Clips that many tests need, made once, and a home for config and cache of their own."""

import signal
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.wan_checkout import write_checkout

pytest_plugins = ["tests.tools"]

CLIP_FPS = 12
CLIP_FRAMES = 12


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's own recipes, cache and switches out of the tests."""
    home = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("DCGRID_CONFIG_DIR", str(home / "no-config"))
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(home / "no-cache"))
    for name in ("DCGRID_CONFIG", "DCGRID_TRACEBACK", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")


@pytest.fixture(scope="session")
def shared_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of a bright square that moves over a gradient, 96x64, 12 fps, with a tone."""
    path = tmp_path_factory.mktemp("clips") / "square.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        rows, cols = np.mgrid[0:64, 0:96]
        for index in range(CLIP_FRAMES):
            picture = np.stack([rows * 2, cols * 2, rows + cols], axis=-1).astype(np.uint8)
            picture[20:40, 5 + 4 * index : 25 + 4 * index] = (250, 240, 60)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, CLIP_FPS)
            container.mux(stream.encode(frame))
        for start in range(0, 16_000, 1024):
            wave = np.sin(np.arange(start, start + 1024) * (2 * np.pi * 440 / 16_000))
            samples = av.AudioFrame.from_ndarray(
                (wave * 0.3).astype(np.float32)[None], format="fltp", layout="mono"
            )
            samples.sample_rate, samples.pts = 16_000, start
            container.mux(sound.encode(samples))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))
    return path


@pytest.fixture
def clip(shared_clip: Path, tmp_path: Path) -> Path:
    """A copy of the shared clip in a folder of its own, named input.mp4."""
    copy = tmp_path / "input.mp4"
    copy.write_bytes(shared_clip.read_bytes())
    return copy


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a world with two photos, two sprites and one piece of footage."""
    from benchmarks.small_world import write_small_world

    return write_small_world(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkout like Wan2.1's: 8 pixels a latent, one time for all frames."""
    pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")
    folder = tmp_path_factory.mktemp("hub") / "small-wan"
    write_checkout(folder)
    return folder


@pytest.fixture
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 GiB of free memory: a plan for a large model refuses a machine that is too small."""
    from dcgrid.runtime import device

    monkeypatch.setattr(device, "available_host_memory_bytes", lambda: 128 << 30)
    monkeypatch.setattr(device, "available_memory_bytes", lambda _: 128 << 30)


@pytest.fixture(scope="session", autouse=True)
def _signals_reach_children() -> None:
    """A shell that runs the tests in the background ignores Ctrl-C, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
