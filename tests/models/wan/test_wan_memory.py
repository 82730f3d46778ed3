"""What the planner says of the named models, what it picks, and what it advises."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from dcgrid.errors import DeviceError
from dcgrid.models.wan.counts import WanSizes, block_numbers
from dcgrid.models.wan.memory import (
    GIB,
    MODES,
    MemoryJob,
    choose_offload,
    out_of_memory,
    predict_memory,
)

SIZES = WanSizes.known("wan2.1-14b")
JOB = MemoryJob(cells=4, frames=81, height=240, width=416)


def plan(**changes: Any) -> Any:
    return predict_memory(SIZES, replace(JOB, **changes))


def test_a_plan_loads_no_torch() -> None:
    code = "import sys, dcgrid.models.wan.memory; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_blocks_and_the_rest_take_the_place_of_all() -> None:
    block = block_numbers(SIZES).stored(2)
    assert plan(offload="model").sample - plan(offload="block").sample == 38 * block
    assert plan(offload="block").sample == plan(offload="disk").sample
    assert plan().sample > plan(offload="model").sample > plan(offload="block").sample


def test_rounding_halves_the_blocks() -> None:
    block = block_numbers(SIZES)
    saved = 40 * (block.stored(2) - block.stored(2, rounded=True))
    spread = plan(quantize="int8").sample - plan().sample + saved
    assert 0 <= spread <= SIZES.width * 13824 * 2
    assert block.stored(2, rounded=True) < 0.51 * block.stored(2)


def test_only_disk_spares_the_host_and_only_rings_pin() -> None:
    assert plan(offload="disk").host_bytes < 0.1 * plan(offload="model").host_bytes
    assert plan(offload="disk").disk_bytes == 40 * block_numbers(SIZES).stored(2)
    assert [plan(offload=mode).pinned_bytes // GIB for mode in MODES] == [0, 0, 40, 1]


@pytest.mark.parametrize(
    ("device", "host", "mode"),
    [(80, 64, "none"), (40, 64, "model"), (24, 64, "block"), (24, 16, "disk"), (0, 0, "none")],
)
def test_the_fastest_mode_that_fits(device: int, host: int, mode: str) -> None:
    chosen = choose_offload(SIZES, JOB, free_device_bytes=device * GIB, free_host_bytes=host * GIB)
    assert chosen == mode
    fits = predict_memory(SIZES, replace(JOB, offload=mode))
    assert not device or fits.device_peak_bytes < device * GIB


def test_what_fits_nowhere_is_told_with_numbers() -> None:
    with pytest.raises(
        DeviceError, match=r"wan2.1-14b needs \d+\.\d GiB on the device \(to text"
    ) as e:
        choose_offload(SIZES, JOB, free_device_bytes=6 * GIB, free_host_bytes=64 * GIB)
    assert "free are 6.0 and 64.0" in e.value.message
    assert "--model wan2.1-1.3b" in e.value.hint
    assert e.value.exit_code == 5
    big = replace(JOB, frames=1601, height=480, width=832)
    room = predict_memory(SIZES, replace(big, offload="disk", quantize="int8"))
    with pytest.raises(DeviceError) as e:
        choose_offload(
            SIZES, big, free_device_bytes=round(room.device_peak_bytes * 1.1) + 1, free_host_bytes=0
        )
    assert e.value.hint == "try --offload disk --quantize int8"


@pytest.mark.parametrize(
    ("offload", "quantize", "hint"),
    [
        ("none", "none", "try --offload model"),
        ("model", "int8", "try --offload block"),
        ("block", "none", "try --offload block --quantize int8"),
        ("block", "int8", "try a shorter --duration"),
    ],
)
def test_a_full_device_names_the_next_setting(offload: str, quantize: str, hint: str) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    told = out_of_memory(error, model="wan2.2-5b", offload=offload, quantize=quantize)
    assert told is not None
    assert told.hint.startswith(hint)
    assert "device's memory is full" in told.message


def test_a_full_host_is_recognised_by_torchs_own_error() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    told = out_of_memory(caught.value, model="wan2.2-5b", offload="block", quantize="none")
    assert told is not None
    assert "host's memory is full" in told.message
    assert told.hint.startswith("try --offload disk")
    again = out_of_memory(MemoryError(), model="wan2.1-1.3b", offload="disk", quantize="int8")
    assert again is not None
    assert "--model" not in again.hint
    other = RuntimeError("shapes do not match")
    assert out_of_memory(other, model="x", offload="none", quantize="none") is None
