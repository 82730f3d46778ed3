"""Time several ways of doing one thing in turn, so that other work slows them alike."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Way = Callable[[], object]
"""Something to time."""
Times = Mapping[str, list[float]]
"""Seconds of every repeat, by way."""


def seconds(way: Way, device: torch.device) -> float:
    """Return how long it takes: time of the processor on a CPU, of the clock on a GPU."""
    if device.type != "cuda":
        started = time.process_time()
        way()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    way()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def in_turn(ways: Mapping[str, Way], device: torch.device, repeats: int) -> Times:
    """Time each way so many times, after once that does not count."""
    for way in ways.values():
        way()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, way in ways.items():
                spent[name].append(seconds(way, device))
    finally:
        gc.enable()
    return spent


def ratio(times: Times, slow: str, fast: str) -> float:
    """Return how many times longer one takes than another: the median over the repeats."""
    return statistics.median(s / f for s, f in zip(times[slow], times[fast], strict=True))


def tell(title: str, times: Times, against: str) -> None:
    """Print the ratio of one way to each of the others, and medians for the record."""
    print(title)
    for name, spent in times.items():
        middle = statistics.median(spent) * 1000
        print(f"  {name:28} {ratio(times, against, name):6.2f}x  ({middle:.1f} ms)")


def same(found: Tensor, expected: Tensor, limit: float) -> float:
    """Return the relative error.

    Raises:
        SystemExit: It is above the limit: a comparison of speeds would mean nothing.
    """
    error = float((found.float() - expected.float()).norm() / expected.float().norm())
    if not error <= limit:
        raise SystemExit(f"the outputs differ by {error:.2g}, more than {limit:.2g}")
    return error


def product_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Return operations a second of a plain linear layer, on random numbers."""
    rows, inputs, outputs = (1536, 384, 1536) if device.type == "cpu" else (16384, 5120, 5120)
    left = torch.randn(rows, inputs, device=device).to(dtype)
    right = torch.randn(outputs, inputs, device=device).to(dtype)
    times = in_turn({"product": lambda: left @ right.T}, device, repeats)
    return 2 * rows * inputs * outputs / statistics.median(times["product"])
