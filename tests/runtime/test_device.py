import re
from pathlib import Path

import pytest
import torch

from dcgrid.errors import DeviceError, UsageError
from dcgrid.runtime import device as runtime

CPU = torch.device("cpu")


def test_auto_takes_the_first_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.available_devices() == ("cuda", "cpu")
    assert runtime.choose_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.choose_device("auto") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cpu0"])
def test_unknown_device_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        runtime.choose_device(name)


def test_missing_cuda_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"it has: .*cpu"):
        runtime.choose_device("cuda")


def test_cuda_number_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="2 CUDA"):
        runtime.choose_device("cuda:2")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_auto_dtype_follows_the_cpu(
    capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert runtime.choose_dtype("auto", CPU) == expected


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx2": True}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16)],
)
def test_a_training_runs_in_bf16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert runtime.training_dtype("bf16", CPU) is dtype
    assert runtime.training_dtype("fp32", CPU) is torch.float32


def test_named_dtypes() -> None:
    assert runtime.choose_dtype("fp32", CPU) == torch.float32
    assert runtime.choose_dtype("bf16", CPU) == torch.bfloat16
    assert runtime.dtype_name(torch.bfloat16) == "bf16"
    with pytest.raises(UsageError, match="fp16 does not run on a CPU"):
        runtime.choose_dtype("fp16", CPU)
    with pytest.raises(UsageError, match="unknown dtype 'int8'"):
        runtime.choose_dtype("int8", CPU)


def test_memory_figures_agree_with_the_kernel() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc on this system")
    high_water_kib = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    assert runtime.peak_memory_bytes(CPU) == pytest.approx(high_water_kib * 1024, rel=0.05)
    free, total = runtime.available_host_memory_bytes(), runtime.physical_memory_bytes()
    assert 0 < free <= total
    assert 1 <= runtime.usable_cores() <= 4096


def test_a_gpu_without_bfloat16_is_refused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    old = torch.device("cuda")
    with pytest.raises(UsageError, match="Tesla T4 has no bfloat16"):
        runtime.choose_dtype("bf16", old)
    assert runtime.choose_dtype("auto", old) is torch.float32
    assert runtime.choose_dtype("fp16", old) is torch.float16


def test_cuda_says_itself_why_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Go")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    with pytest.raises(DeviceError, match=r"driver on your system is too old \(found version"):
        runtime.choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="built without CUDA"):
        runtime.choose_device("cuda")
