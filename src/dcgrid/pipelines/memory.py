"""How much memory a grid takes, and where a model's weights are meanwhile. Read `plan_memory`.

Small models are whole in memory; a checkout may visit the device in parts (`--offload`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dcgrid.errors import DeviceError, UsageError
from dcgrid.io.progress import counted
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.resolve import ResolvedGrid

if TYPE_CHECKING:
    import torch

    from dcgrid.models.base import ModelSpec
    from dcgrid.models.model import Model
    from dcgrid.models.wan.counts import WanSizes

_MIB = 1024 * 1024
# Measured on `mini`, see native_bytes.
_BASE_BYTES = 350 * _MIB
_BYTES_PER_PIXEL = 1100
_WAN_BASE_BYTES = 550 * _MIB
"""Python, torch, diffusers and transformers, as runs of a small checkout held them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSize:
    """What decides how much memory a grid takes."""

    cells: int
    given: int
    """Given cells."""
    frames: int
    """Pixel frames of a cell."""
    height: int
    width: int
    guided: bool
    """True: some cell is guided, so there are two texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What a run takes, and how its model is loaded."""

    device_bytes: int
    """Peak on the device; on a CPU of all."""
    host_bytes: int = 0
    """Peak of the host's memory beside a GPU; 0: not worth a word."""
    offload: str = "none"
    """none, model, block or disk."""
    quantize: str = "none"
    """none, fp8 or int8."""

    @property
    def settings(self) -> str:
        """What a plan says of it; empty where all is as usual."""
        words = [f"--offload {self.offload}"] if self.offload != "none" else []
        words += [f"--quantize {self.quantize}"] if self.quantize != "none" else []
        return " ".join(words)


def grid_size(
    grid: ResolvedGrid, spec: "ModelSpec", frames: int, size: tuple[int, int]
) -> GridSize:
    """Return the size of a grid whose sampler values are settled.

    Args:
        grid: Its cells and edits.
        spec: Says what of given cells is kept.
        frames: Pixel frames of a window.
        size: Height and width of a cell.
    """
    return GridSize(
        cells=grid.rows * grid.cols,
        given=len(grid.given) if spec.given_first else 0,
        frames=frames,
        height=size[0],
        width=size[1],
        guided=any(edit.guidance_scale != 1 for edit in grid.edits),
    )


def plan_memory(
    job: GridJob, model: "Model", size: GridSize, device: "torch.device", dtype: "torch.dtype"
) -> MemoryNeed:
    """Return what a run takes; where `--offload auto` is asked, with the fastest mode that fits.

    Args:
        job: Names offload and quantize.
        model: The model.
        size: Of the grid.
        device: Where it runs.
        dtype: Number format.

    Raises:
        UsageError: What is for large models is asked of a small one.
        DeviceError: It is more than is free.
    """
    from dcgrid.runtime.device import available_host_memory_bytes, available_memory_bytes

    free, free_host = available_memory_bytes(device), available_host_memory_bytes()
    if model.sizes is None:
        _refuse_settings(job, model)
        pixels = native_bytes(size.frames, size.height, size.width)
        need = MemoryNeed(device_bytes=pixels + trained_bytes(model))
    else:
        need = _wan_memory(job, model.sizes, size, device, dtype, (free, free_host))
    for taken, there, whose in (
        (need.device_bytes, free, "memory"),
        (need.host_bytes, free_host, "the host's memory"),
    ):
        if 0 < there < taken:
            settings = f" with {need.settings}" if need.settings else ""
            raise DeviceError(
                f"{model.name}{settings} needs about {taken / 1e9:.1f} GB of {whose} for cells of "
                f"{size.width}x{size.height} and {counted(size.frames, 'frame')}; "
                f"{there / 1e9:.1f} GB are free",
                hint=_less_memory(job),
            )
    return need


def _less_memory(job: GridJob) -> str:
    """Return what to try where a setting that was asked for takes more than there is."""
    chosen = job.offload not in ("auto", "disk")
    return ("--offload auto takes the fastest way that fits; " if chosen else "") + (
        "a smaller --size or a shorter --duration needs less"
    )


def _wan_memory(
    job: GridJob,
    sizes: "WanSizes",
    size: GridSize,
    device: "torch.device",
    dtype: "torch.dtype",
    free_bytes: tuple[int, int],
) -> MemoryNeed:
    """Return what a run of a checkout takes; see `plan_memory`.

    Args:
        job: Names offload and quantize.
        sizes: Of the model's networks.
        size: Of the grid.
        device: Where it runs.
        dtype: Number format.
        free_bytes: Of the device and of the host; 0: unknown.
    """
    from dcgrid.models.wan.memory import MemoryJob, choose_offload, predict_memory

    on_cpu = device.type == "cpu"
    asked = MemoryJob(
        cells=size.cells,
        frames=size.frames,
        height=size.height,
        width=size.width,
        quantize=job.quantize,
        guided=size.guided,
        wide=dtype.itemsize == 4,
        given_cells=size.given,
        on_cpu=on_cpu,
    )
    mode: str = job.offload
    if mode == "auto":
        mode = choose_offload(
            sizes,
            asked,
            free_device_bytes=free_bytes[0],
            free_host_bytes=free_bytes[1],
        )
    plan = predict_memory(sizes, replace(asked, offload=mode))
    device_bytes, host_bytes = plan.device_peak_bytes, plan.host_bytes
    if on_cpu:
        # Device and host are one there; weights that are always on the device are not there twice.
        device_bytes += _WAN_BASE_BYTES + (host_bytes if mode != "none" else 0)
        host_bytes = 0
    return MemoryNeed(
        device_bytes=device_bytes, host_bytes=host_bytes, offload=mode, quantize=job.quantize
    )


def _refuse_settings(job: GridJob, model: "Model") -> None:
    """Refuse what is for large models; it would do nothing."""
    if job.offload not in ("auto", "none") or job.quantize != "none":
        raise UsageError(
            f"{model.name} is small enough to be whole in memory",
            hint="leave out --offload and --quantize",
        )
    if job.attention != "auto" or job.compile:
        raise UsageError(
            f"{model.name} computes in one way only",
            hint="leave out --attention and --compile: they are for Wan models",
        )


def native_bytes(frames: int, height: int, width: int) -> int:
    """Estimate what a native model takes: the program itself, and the decoder, its widest part.

    Args:
        frames: Pixel frames of a window.
        height: Pixel rows of a cell.
        width: Pixel columns of a cell.

    Returns:
        Bytes; measured with `mini` on a CPU, within about a third there, rougher elsewhere.
    """
    return _BASE_BYTES + frames * height * width * _BYTES_PER_PIXEL


def trained_bytes(model: "Model") -> int:
    """Return what the weights of a model that was trained into a folder take, in float32.

    Those of the package are among what `native_bytes` has measured: 0.
    """
    from dcgrid.models.native.model import PART_NAMES

    if model.in_package:
        return 0
    files = model.files
    # Stored in half of that, unless a recipe says otherwise.
    return sum(2 * files[part].stat().st_size for part in PART_NAMES if part in files)


@contextmanager
def next_setting_if_full(model: "Model", need: MemoryNeed) -> Iterator[None]:
    """Name the next setting to try where memory runs out with a checkout.

    Raises:
        DeviceError: It did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if model.sizes is None:
            raise
        from dcgrid.models.wan.memory import out_of_memory

        explained = out_of_memory(
            error, model=model.name, offload=need.offload, quantize=need.quantize
        )
        if explained is None:
            raise
        raise explained from error
