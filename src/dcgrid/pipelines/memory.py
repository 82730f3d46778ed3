"""How much memory a grid takes, checked against what is free; models know what they need."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dcgrid.errors import DeviceError
from dcgrid.io.progress import counted
from dcgrid.models.model import GridSize, MemoryNeed, Model, Placement
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.resolve import ResolvedGrid

if TYPE_CHECKING:
    import torch

    from dcgrid.models.base import ModelSpec


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
        guided=grid.texts > 1,
    )


def plan_memory(
    job: GridJob, model: Model, size: GridSize, device: "torch.device", dtype: "torch.dtype"
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
    placement = Placement(
        offload=job.offload, quantize=job.quantize, attention=job.attention, compiled=job.compile
    )
    need = model.memory_need(size, placement, device, dtype, (free, free_host))
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


@contextmanager
def next_setting_if_full(model: Model, need: MemoryNeed) -> Iterator[None]:
    """Name the next setting to try where memory runs out.

    Raises:
        DeviceError: It did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        explained = model.explain_full(error, need)
        if explained is None:
            raise
        raise explained from error
