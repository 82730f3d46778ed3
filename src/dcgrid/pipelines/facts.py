"""What every manifest tells of a run: versions, clips, machine, sampler, seconds."""

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

import torch

from dcgrid import __version__
from dcgrid.pipelines.fill import sample_settings
from dcgrid.pipelines.manifest import Machine
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.windows import Window
from dcgrid.runtime import device as runtime
from dcgrid.video.clip import ClipPlan

if TYPE_CHECKING:
    from dcgrid.models.base import ModelSpec


@dataclass(slots=True, kw_only=True)
class Stopwatch:
    """Collects the seconds of each stage; a stage may come more than once."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by stage."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what the context does."""
        started = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add to a stage what was measured elsewhere."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)


def versions() -> Mapping[str, str]:
    """Return the versions of what pixels depend on."""
    return {
        "dcgrid": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: metadata.version(name) for name in ("torch", "av", "peft")},
    }


def now() -> str:
    """Return date and time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def clip_facts(clips: Sequence[ClipPlan]) -> tuple[Mapping[str, Any], ...]:
    """Return what of each input was used."""
    return tuple(
        {
            "frames": clip.num_frames,
            "fps": clip.fps,
            "cell_size": list(clip.cell_size),
            "start_s": clip.start_s,
            "duration_s": clip.duration_s,
        }
        for clip in clips
    )


def machine_facts(device: str, dtype: str, offload: str, processes: int, attention: str) -> Machine:
    """Return where it ran, on how many processes, where weights were, and what attended."""
    return Machine(
        device=device,
        dtype=dtype,
        threads=torch.get_num_threads(),
        offload=cast(Any, offload),
        processes=processes,
        attention=cast(Any, attention),
    )


def sampler_facts(
    spec: "ModelSpec", grid: ResolvedGrid, windows: Sequence[Window]
) -> Mapping[str, Any]:
    """Return how a grid was sampled."""
    settings = sample_settings(spec, grid.num_inference_steps, grid.noise_scale)
    return {
        "solver": settings.solver,
        "num_inference_steps": settings.schedule.num_inference_steps,
        "time_shift": settings.schedule.shift,
        "noise_scale": settings.noise_scale,
        "given": settings.given,
        "self_conditioning": spec.self_conditioning,
        # Both 0: nothing is left out.
        "guidance_until": grid.shortcuts.guidance_until,
        "cache_threshold": grid.shortcuts.cache_threshold,
        "windows": len(windows),
        "carried_frames": windows[-1].head,
        "blended_frames": windows[-1].blend,
    }


def peak_memory_bytes(device: str) -> int:
    """Return the most memory of the process (on CUDA: of the GPU) so far."""
    return runtime.peak_memory_bytes(torch.device(device))
