"""What a model runs on: device, number format, threads, and how much memory it took.

Devices and dtypes are decided here and nowhere else. Start at `choose_device`.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dcgrid.errors import DeviceError, UsageError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """Return the device that a name means; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        UsageError: No such kind of device.
        DeviceError: The kind exists, this machine (or this torch) does not have it.
    """
    if name == "auto":
        return torch.device(available_devices()[0])
    kind, _, number = name.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (number and not number.isdecimal()):
        raise UsageError(
            f"unknown device {name!r}", hint="use auto, cpu, cuda, cuda:N or mps (--device)"
        )
    available = available_devices()
    if kind not in available:
        raise DeviceError(
            f"device {name!r} is not on this machine (it has: {', '.join(available)})"
            f"{_why_no_cuda() if kind == 'cuda' else ''}",
            hint="use --device auto, or run `dcgrid doctor` to see what there is",
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s)",
            hint="count from cuda:0",
        )
    return torch.device(name)


def available_devices() -> tuple[str, ...]:
    """Return the kinds of device this machine has, best first; the last is always "cpu"."""
    found = ["cuda"] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return (*found, "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format that a name means on a device.

    "auto" is bfloat16 where the hardware multiplies it fast (CUDA from Ampere on, a CPU with
    AVX512-BF16 or AMX) and float32 elsewhere.

    Args:
        name: "auto", "fp32", "bf16" or "fp16".
        device: Where the model will run.

    Raises:
        UsageError: No such format, fp16 on a CPU (its kernels are missing or slow), or bf16 on a
            GPU that does not have it.
    """
    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    if name not in _DTYPES:
        raise UsageError(f"unknown dtype {name!r}", hint="use auto, fp32, bf16 or fp16 (--dtype)")
    if name == "fp16" and device.type == "cpu":
        raise UsageError("fp16 does not run on a CPU", hint="use --dtype bf16 or fp32")
    if name == "bf16" and device.type == "cuda" and not has_fast_bf16(device):
        raise UsageError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16 (Ampere and newer have)",
            hint="use --dtype fp16 or fp32",
        )
    return _DTYPES[name]


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the number format that products of a training run in.

    A recipe's "bf16" is float32 on a CPU that does not multiply bfloat16 fast: emulated, a step of
    `mini` takes several times as long (measured on an AVX2 processor).

    Args:
        precision: "bf16" or "fp32", as the recipe says.
        device: Where it trains.

    Raises:
        UsageError: bf16 on a GPU that does not have it.
    """
    slow = device.type == "cpu" and not has_fast_bf16(device)
    return choose_dtype("fp32" if slow else precision, device)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which products on a device run in a number format; float32: as they are.

    Args:
        device: Where the tensors are.
        dtype: From `choose_dtype`.
    """
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the short name of a dtype: fp32, bf16 or fp16; torch's own name for others."""
    return next((short for short, known in _DTYPES.items() if known == dtype), str(dtype))


def has_fast_bf16(device: torch.device) -> bool:
    """Return True if bfloat16 arithmetic is done by the hardware of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # Public from torch 2.10 or so on; older ones are taken to lack it and use float32.
    read: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = read()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def physical_memory_bytes() -> int:
    """Return the memory of this machine in bytes, a container's limit included; 0 if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
    limit = _read_number(Path("/sys/fs/cgroup/memory.max"))
    return min(total, limit) if limit else total


def available_memory_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes; 0 if it cannot be known.

    What this process holds of a GPU counts as free: the next run uses a model that is kept, or the
    memory that it leaves.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)
    return available_host_memory_bytes() if device.type == "cpu" else 0


def available_host_memory_bytes() -> int:
    """Return how much memory programs may still take, in bytes; 0 if unknown (not Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    kibibytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), "0")
    free = int(kibibytes) * 1024
    limit = _read_number(Path("/sys/fs/cgroup/memory.max"))
    used = _read_number(Path("/sys/fs/cgroup/memory.current"))
    return min(free, max(0, limit - used)) if limit and used else free


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory this process has held so far: of the GPU, or of the host.

    0 where the system does not say (Windows).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in kibibytes, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _why_no_cuda() -> str:
    """Return what CUDA itself says of why it is not there, such as a driver that is too old."""
    if torch.version.cuda is None:
        return ": this torch was built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f": {str(error).split('. ')[0].splitlines()[0]}"
    return ""


def _read_number(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
