"""What a job of a Wan model needs of device and host, said before it is loaded; no torch.

Weights are counted (counts.py), what networks take beside them is followed (working.py). Read
`predict_memory`, then `choose_offload`.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dcgrid.errors import DeviceError
from dcgrid.models.wan.counts import (
    WanSizes,
    block_numbers,
    rest_numbers,
    table_bytes,
    text_numbers,
    vae_numbers,
)
from dcgrid.models.wan.working import (
    TEXT_LENGTH,
    Grid,
    decoding_bytes,
    encoding_bytes,
    sampling_bytes,
    text_bytes,
)

if TYPE_CHECKING:
    from dcgrid.runtime.offload import Offload

MODES: "tuple[Offload, ...]" = ("none", "model", "block", "disk")
"""Offload modes, fastest first."""
SPARE = 1.1
"""What is free must be this many times the prediction: libraries take room, memory is cut up."""
GIB = 1 << 30
_HOST_SIGNS = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory", "cudaHostAlloc")
_DEVICE_SIGNS = ("CUDA out of memory", "MPS backend out of memory", "CUDA error: out of memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryJob:
    """What decides how much memory a grid takes."""

    cells: int
    """Cells of the grid, >= 1."""
    frames: int
    """Pixel frames of a cell."""
    height: int
    """Pixel rows of a cell."""
    width: int
    """Pixel columns of a cell."""
    offload: str = "none"
    quantize: str = "none"
    guided: bool = True
    """True: there are two texts, one to steer towards and one away from."""
    wide: bool = False
    """True: float32; else two bytes a number."""
    given_cells: int = 0
    """Given cells of which keys and values are kept: 0 unless attention is given-first."""
    adapter_bytes: int = 0
    """Of adapters that are attached beside the weights."""
    text_tokens: int = TEXT_LENGTH
    """Tokens of the longest segment."""
    on_cpu: bool = False
    """True: the device is the CPU, whose attention in bfloat16 is another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What a job will take, in bytes."""

    text: int
    """Peak on the device while texts are encoded."""
    encode: int
    """While clips are."""
    sample: int
    """While the grid is filled."""
    decode: int
    """While clips are decoded."""
    host_bytes: int
    """Peak of the host's memory for weights; loading passes through it in every mode but disk."""
    pinned_bytes: int
    """Of it page-locked, in steps of powers of two, as torch allocates it."""
    disk_bytes: int
    """Read from the weight files again at every call of the transformer."""

    @property
    def device_peak_bytes(self) -> int:
        """The most on the device, over all stages."""
        return max(self.text, self.encode, self.sample, self.decode)

    @property
    def largest_stage(self) -> str:
        """Name of the stage with that peak."""
        stages = {name: getattr(self, name) for name in ("text", "encode", "sample", "decode")}
        return max(stages, key=lambda name: stages[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """Bytes of the networks."""

    text: int
    vae: int
    block: int
    """One block as it is used, rounded or not."""
    rest: int
    """The transformer without its blocks."""
    loaded: int
    """The transformer as it is read, before anything is rounded."""


def predict_memory(sizes: WanSizes, job: MemoryJob) -> MemoryPlan:
    """Return what a job takes.

    Args:
        sizes: Of the model.
        job: The grid, and how the model is loaded.
    """
    width = 4 if job.wide else 2
    weights = _weights(sizes, job, width)
    whole = sizes.layers * weights.block + weights.rest
    shown = 2 * weights.block + weights.rest if job.offload in ("block", "disk") else whole
    everything = weights.text + whole + weights.vae
    resident = job.offload == "none"
    grid = _grid(sizes, job)
    texts = grid.texts * job.cells * TEXT_LENGTH * int(sizes.text["d_model"]) * width
    # Latents of the grid and noise; clips visit the autoencoder one by one.
    latents = 2 * grid.latent_bytes
    clip = (job.frames, job.height, job.width)
    sampled = sampling_bytes(
        sizes,
        grid,
        width=width,
        rounded=job.quantize != "none",
        chunked=job.on_cpu and not job.wide,
    )
    beside = job.adapter_bytes
    encoded = encoding_bytes(sizes, *clip) + texts + beside
    decoded = decoding_bytes(sizes, *clip) + texts + latents + beside
    # The last text stands there as rows, and put together.
    filled = texts + texts // grid.texts
    encoding = text_bytes(sizes, job.text_tokens, width=width) + filled + beside
    return MemoryPlan(
        text=encoding + (everything if resident else weights.text),
        encode=encoded + (everything if resident else weights.vae),
        sample=sampled + beside + (everything if resident else shown),
        decode=decoded + (everything if resident else weights.vae),
        host_bytes=_host_bytes(sizes, job, weights),
        pinned_bytes=_pinned_bytes(sizes, job, weights),
        disk_bytes=sizes.layers * block_numbers(sizes).stored(width)
        if job.offload == "disk"
        else 0,
    )


def _weights(sizes: WanSizes, job: MemoryJob, width: int) -> _Weights:
    block = block_numbers(sizes)
    rest = rest_numbers(sizes).stored(width) + table_bytes(sizes)
    return _Weights(
        text=text_numbers(sizes).stored(width),
        vae=vae_numbers(sizes).stored(width),
        block=block.stored(width, rounded=job.quantize != "none"),
        rest=rest,
        loaded=sizes.layers * block.stored(width) + rest,
    )


def _grid(sizes: WanSizes, job: MemoryJob) -> Grid:
    factor, steps = int(sizes.vae.get("scale_factor_spatial", 8)), (job.frames - 1) // 4 + 1
    frames, rows, cols = sizes.patch
    places = steps * (job.height // factor) * (job.width // factor)
    tokens = places // (frames * rows * cols)
    return Grid(
        cells=job.cells,
        tokens=job.cells * tokens,
        latent_bytes=4 * job.cells * int(sizes.vae["z_dim"]) * places,
        texts=2 if job.guided else 1,
        kept_tokens=job.given_cells * tokens,
    )


def _host_bytes(sizes: WanSizes, job: MemoryJob, weights: _Weights) -> int:
    if job.offload == "disk":
        return weights.rest + weights.vae + _pinned_bytes(sizes, job, weights)
    loading = weights.text + weights.vae + weights.loaded
    if job.offload != "block":
        return loading
    packed = weights.text + weights.vae + weights.rest + _pinned_bytes(sizes, job, weights)
    return max(loading, packed)


def _pinned_bytes(sizes: WanSizes, job: MemoryJob, weights: _Weights) -> int:
    if job.on_cpu or job.offload not in ("block", "disk"):
        return 0
    one = 1 << (weights.block - 1).bit_length()
    return one * (sizes.layers if job.offload == "block" else 1)


def choose_offload(
    sizes: WanSizes, job: MemoryJob, *, free_device_bytes: int, free_host_bytes: int
) -> "Offload":
    """Return the fastest offload mode that fits; how weights are rounded stays as asked for.

    Args:
        sizes: Of the model.
        job: What is to be made; its own offload is not read.
        free_device_bytes: Free on the device; 0: unknown, taken to be enough.
        free_host_bytes: Free on the host; 0: unknown, taken to be enough.

    Raises:
        DeviceError: None fits.
    """
    for mode in MODES:
        plan = predict_memory(sizes, replace(job, offload=mode))
        device, host = plan.device_peak_bytes * SPARE, plan.host_bytes * SPARE
        # On a CPU device and host are one.
        host = host + device if job.on_cpu and mode != "none" else host
        fits_device = not free_device_bytes or device <= free_device_bytes
        if fits_device and (not free_host_bytes or host <= free_host_bytes):
            return mode
    raise _too_large(sizes, job, free_device_bytes, free_host_bytes)


def _too_large(
    sizes: WanSizes, job: MemoryJob, free_device_bytes: int, free_host_bytes: int
) -> DeviceError:
    plan = predict_memory(sizes, replace(job, offload="disk"))
    smaller = replace(job, offload="disk", quantize="int8")
    device = predict_memory(sizes, smaller).device_peak_bytes * SPARE
    helps = job.quantize == "none" and free_device_bytes >= device
    hint = "try --offload disk --quantize int8" if helps else _smaller_job(sizes.name)
    return DeviceError(
        f"{sizes.name} needs {plan.device_peak_bytes / GIB:.1f} GiB on the device "
        f"(to {plan.largest_stage}) and {plan.host_bytes / GIB:.1f} GiB on the host even with "
        f"--offload disk; free are {free_device_bytes / GIB:.1f} and {free_host_bytes / GIB:.1f}",
        hint=hint,
    )


def _smaller_job(name: str) -> str:
    smaller = "" if name == "wan2.1-1.3b" else ", or --model wan2.1-1.3b"
    return f"try a shorter --duration or a smaller --size{smaller}"


def out_of_memory(
    error: BaseException, *, model: str, offload: str, quantize: str
) -> DeviceError | None:
    """Return what to tell of an error if memory ran out, with the next setting to try; else None.

    Args:
        error: What a model raised: torch's OutOfMemoryError, the CPU allocator's RuntimeError,
            a MemoryError.
        model: Its name.
        offload: The mode it ran in.
        quantize: How its weights were stored.
    """
    text = str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    on_host = isinstance(error, MemoryError) or any(sign in text for sign in _HOST_SIGNS)
    on_device = "OutOfMemoryError" in kinds or any(sign in text for sign in _DEVICE_SIGNS)
    if not on_host and not on_device:
        return None
    where = "host" if on_host else "device"
    settings = f"--offload {offload} --quantize {quantize}"
    return DeviceError(
        f"the {where}'s memory is full: {model} with {settings}",
        hint=_next_setting(model, offload, quantize, on_host=on_host),
    )


def _next_setting(model: str, offload: str, quantize: str, *, on_host: bool) -> str:
    if on_host and offload != "disk":
        return "try --offload disk, which keeps the weights in their files"
    if not on_host and offload in ("none", "model"):
        return f"try --offload {'model' if offload == 'none' else 'block'}"
    if not on_host and quantize == "none":
        return f"try --offload {offload} --quantize int8"
    return _smaller_job(model)
