"""Damaged files by the hundred, seeded: a user never sees a traceback or a partial result."""

import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.reading import read_adapter, read_spec
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.cli.main import main
from dcgrid.errors import WeightsError
from dcgrid.models.registry import find_model
from dcgrid.pipelines import run, upsampling

EDIT = ("--effect", "rain", "--model", "tiny", "--num-inference-steps", "1", "--duration", "0.3")
FEW, MANY = range(12), range(12, 200)
VIDEOS = 2000


def mutated(content: bytes, seed: int) -> bytes:
    """Cut, overwrite, repeat or drop a part; always the same for a seed."""
    chance = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        start = chance.randrange(len(damaged))
        length = chance.choice([1, 4, 16, 200])
        match chance.randrange(5):
            case 0:
                damaged[start : start + length] = chance.randbytes(length)
            case 1:
                damaged[start : start + length] = b"\xff" * length
            case 2:
                del damaged[start : start + length]
            case 3:
                damaged[start:start] = damaged[start : start + length]
            case _:
                del damaged[max(8, start) :]
        damaged = damaged or bytearray(b"\0")
    return bytes(damaged)


@pytest.fixture(scope="session")
def adapter_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A valid adapter file for the tiny model."""
    network = find_model("tiny").load().network
    name = next(n for n, m in network.named_modules() if isinstance(m, torch.nn.Linear))
    spec = AdapterSpec(name="x", stage="fill", rank=2, alpha=2.0, targets=(name,), base="tiny")
    attach_adapter(network, spec)
    path = tmp_path_factory.mktemp("adapter") / "x.safetensors"
    save_adapter(network, spec, path)
    return path.read_bytes()


def check(
    folder: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    *,
    sheet: bool = True,
) -> int:
    """Run, and check that the end is a whole result or one error with nothing left."""
    code = main(["edit", *arguments, "--out", str(folder), "--quiet"])
    err = capsys.readouterr().err
    assert code in (0, 3, 4), err
    assert "internal error" not in err
    assert "Traceback" not in err
    names = sorted(path.name.split(".")[-1] for path in folder.iterdir())
    whole = ["json", "mp4", "png"] if sheet else ["json", "mp4"]
    assert names == (whole if code == 0 else [])
    return code


def run_video(seed: int, clip: Path, capsys: pytest.CaptureFixture[str]) -> int:
    clip.write_bytes(mutated(clip.read_bytes(), seed))
    folder = clip.parent / "out"
    folder.mkdir()
    return check(folder, [str(clip), *EDIT], capsys)


def run_adapter(seed: int, content: bytes, clip: Path, capsys: pytest.CaptureFixture[str]) -> int:
    path = clip.parent / "x.safetensors"
    path.write_bytes(mutated(content, seed))
    folder = clip.parent / "out"
    folder.mkdir()
    return check(folder, [str(clip), *EDIT, "--adapter", str(path)], capsys)


@pytest.mark.parametrize("seed", FEW)
def test_damaged_videos(seed: int, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_video(seed, clip, capsys)


@pytest.mark.parametrize("seed", FEW)
def test_damaged_adapters(
    seed: int, adapter_bytes: bytes, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The file carries a hash of all that is in it, so no damage may go unnoticed.
    code = run_adapter(seed, adapter_bytes, clip, capsys)
    assert (code == 4) == (mutated(adapter_bytes, seed) != adapter_bytes)


def test_the_undamaged_adapter_works(
    adapter_bytes: bytes, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = clip.parent / "x.safetensors"
    path.write_bytes(adapter_bytes)
    assert main(["edit", str(clip), *EDIT, "--adapter", str(path), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def kept(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return what loads once, whatever it is called with."""
    found: list[Any] = []

    def loaded(*arguments: object, **options: object) -> Any:
        if not found:
            found.append(load(*arguments, **options))
        return found[0]

    return loaded


@pytest.fixture
def kept_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the tiny model and the upsampler once: neither changes without an adapter."""
    for module, name in ((run, "load_model"), (upsampling, "load_upsampler")):
        monkeypatch.setattr(module, name, kept(getattr(module, name)))


@pytest.mark.slow
@pytest.mark.usefixtures("kept_model")
def test_two_thousand_damaged_videos(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, folder, codes = clip.read_bytes(), clip.parent / "out", Counter[int]()
    for seed in range(VIDEOS):
        clip.write_bytes(mutated(content, seed))
        folder.mkdir()
        # A sheet takes as long as the rest: one in ten makes it.
        sheet = seed % 10 == 0
        more = [] if sheet else ["--no-contact-sheet"]
        codes[check(folder, [str(clip), *EDIT, *more], capsys, sheet=sheet)] += 1
        shutil.rmtree(folder)
    assert sorted(path.name for path in clip.parent.iterdir()) == [clip.name]
    with capsys.disabled():
        sys.stdout.write(f"\n{VIDEOS} damaged videos through edit, by exit code: {dict(codes)}\n")
    assert codes[0] > VIDEOS // 20
    assert codes[3] > VIDEOS // 20


@pytest.mark.slow
def test_a_thousand_damaged_adapters_are_refused(adapter_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for seed in range(1000):
        content = mutated(adapter_bytes, seed)
        path.write_bytes(content)
        for read in (read_adapter, read_spec):
            try:
                read(path)
                # A description alone vouches for less than the whole.
                assert read is read_spec or content == adapter_bytes, seed
            except WeightsError as error:
                assert str(path) in error.message, seed


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_many_damaged_adapters(
    seed: int, adapter_bytes: bytes, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_adapter(seed, adapter_bytes, clip, capsys)
