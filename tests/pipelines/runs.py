"""Runs and stories with `tiny`, for the tests of this folder."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dcgrid.pipelines import generate
from dcgrid.pipelines.job import EditJob, GridJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import Prepared, prepare_run
from dcgrid.pipelines.run import RunResult, run_plan
from dcgrid.pipelines.sampling import GridRequest
from dcgrid.pipelines.script import StoryJob, scene_of


class Silence:
    """Collects what a pipeline tells."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        self.stages.append((stage, total))

    def update(self, done: int, total: int | None = None) -> None:
        del total
        limit = self.stages[-1][1]
        assert limit is None or done <= limit

    def note(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)


SHORT_S = 0.4
"""Seconds of five frames at the rate of `tiny`: one window."""


def job(clip: Path, **values: object) -> EditJob:
    settings = {
        "effects": ("rain",),
        "num_inference_steps": 2,
        "duration_s": SHORT_S,
        **values,
    }
    return EditJob(input=clip, model="tiny", dtype="fp32", **settings)  # type: ignore[arg-type]


def run(prepared: Prepared | GridJob, progress: Silence | None = None) -> RunResult:
    if isinstance(prepared, GridJob):
        prepared = prepare_run(prepared)
    return run_plan(plan_run(prepared), progress or Silence())


def story_job(folder: Path, *scenes: str, **values: object) -> StoryJob:
    chosen = tuple(scene_of(text, None) for text in scenes)
    settings = {
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "duration_s": SHORT_S,
        **values,
    }
    settings = {"name": "tale", "dtype": "fp32", **settings}
    return StoryJob(folder=folder, scenes=chosen, model="tiny", **settings)  # type: ignore[arg-type]


tell = run


def spy_on_grids(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[GridRequest], list[dict[int, torch.Tensor]]]:
    """Collect what is asked of the model and what it generates."""
    requests: list[GridRequest] = []
    made: list[dict[int, torch.Tensor]] = []
    real = generate.fill_grid

    def spy(backbone, request, progress):  # type: ignore[no-untyped-def]
        requests.append(request)
        made.append(real(backbone, request, progress))
        return made[-1]

    monkeypatch.setattr(generate, "fill_grid", spy)
    return requests, made


def interrupt_grid(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Interrupt the generating of the grid of this number, counted from 1; return all calls."""
    calls: list[int] = []
    real = generate.fill_grid

    def breaks(*arguments):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(generate, "fill_grid", breaks)
    return calls


def decoded(path: Path) -> torch.Tensor:
    with av.open(str(path)) as container:
        return torch.stack(
            [
                torch.from_numpy(frame.to_ndarray(format="rgb24"))
                for frame in container.decode(video=0)
            ]
        )


def moving_square(path: Path, frames: int, size: tuple[int, int] = (64, 96), fps: int = 12) -> Path:
    """Write a clip of a square that walks over a gradient."""
    height, width = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        rows, cols = np.mgrid[0:height, 0:width]
        for index in range(frames):
            picture = np.stack([rows * 2, cols * 2, rows + cols], axis=-1).astype(np.uint8)
            left = (3 * index) % (width - 20)
            picture[20:40, left : left + 20] = (250, 240, 60)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
