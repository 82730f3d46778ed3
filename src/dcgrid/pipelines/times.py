"""How long a run will take, by what earlier runs of the same model took on this machine.

    seconds = (set-up) + (to generate) * steps * windows + (to write) * pixels of the results

Each run leaves its rates in the cache folder; the next plan multiplies. Nothing is guessed: before
the first run of a model the time is not known.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dcgrid import hub
from dcgrid.io.progress import RATES_NAME, duration_words, read_rates
from dcgrid.io.progress import keep_rates as store_rates

LONG_S = 20.0
"""A run that takes longer is told what half of the clip would take."""
_UNKNOWN = {"setup": 0.15, "token": 0.4, "pixel": 0.45}
"""Shares of a run whose times are not known, as `mini` has them on two cores."""
_SETUP = {"reading the clip": 0.3, "loading the model": 0.7}
_WINDOW = {"encoding the clip": 0.1, "sampling": 0.7, "decoding": 0.2}
DECODE_STAGE = "decoding the clip"
"""What the stage is called that prepares the guide of the upsampler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How much a run has to do."""

    setting: str
    """Model, device and number format: what rates are kept by."""
    tokens: int
    """Tokens to generate: of a grid, times steps, times windows, times candidates."""
    pixels: int
    """Pixels of all frames of all results."""
    duration_s: float
    """Seconds of the clip."""


def keep_rates(work: Work, timings_s: Mapping[str, float]) -> None:
    """Keep what a run took, for the plans of the next; a cache that cannot be written is no error.

    Args:
        work: What it did.
        timings_s: Seconds of its stages "read", "load", "fill" and "write".
    """
    rates = {
        "setup": timings_s.get("read", 0.0) + timings_s.get("load", 0.0),
        "token": timings_s.get("fill", 0.0) / work.tokens,
        "pixel": timings_s.get("write", 0.0) / work.pixels,
    }
    store_rates(_path(), work.setting, rates)


def expected_seconds(work: Work, share: float = 1.0) -> float | None:
    """Return how long a run of this share of the clip will take; None: not known."""
    rates = _kept(work.setting)
    if rates is None:
        return None
    return rates["setup"] + share * (rates["token"] * work.tokens + rates["pixel"] * work.pixels)


def window_label(number: int, count: int, grid: int = 0, grids: int = 1) -> str:
    """Return which grid and window of several a stage belongs to; empty: there is one of each.

    Args:
        number: The window, from 0.
        count: Windows of a grid.
        grid: The grid, from 0.
        grids: Grids of the run.
    """
    labels = [f"grid {grid + 1} of {grids}"] if grids > 1 else []
    labels += [f"window {number + 1} of {count}"] if count > 1 else []
    return ", ".join(labels)


def run_stages(
    work: Work, *, windows: int, writing: str, grids: int = 1, candidates: int = 1
) -> list[tuple[str, float]]:
    """Return the stages of a run in their order, each with about how long it takes.

    Args:
        work: What there is to do; where its rates are known, the weights are seconds.
        windows: Windows of a grid.
        writing: What the last stage is called.
        grids: Grids of the run.
        candidates: How often each is generated.
    """
    rates = _kept(work.setting)
    parts = _UNKNOWN
    if rates is not None:
        token, pixel = rates["token"] * work.tokens, rates["pixel"] * work.pixels
        parts = {"setup": rates["setup"], "token": token, "pixel": pixel}
    stages = [(name, share * parts["setup"]) for name, share in _SETUP.items()]
    of_window = parts["token"] / (windows * grids * candidates)
    for _ in range(candidates):
        for grid in range(grids):
            for number in range(windows):
                label = window_label(number, windows, grid, grids)
                before = f"{label}: " if label else ""
                stages += [(before + one, share * of_window) for one, share in _WINDOW.items()]
    # Of four decoded cells it is one, where there is one at all.
    stages.append((DECODE_STAGE, _WINDOW["decoding"] / 3 * parts["token"] / (grids * candidates)))
    return [*stages, (writing, parts["pixel"])]


def time_line(work: Work) -> str:
    """Return what a plan says of the time, as a sentence."""
    seconds = expected_seconds(work)
    if seconds is None:
        return f"Time: unknown yet, before the first run with {work.setting}."
    line = f"Time: about {duration_words(seconds)}, by the last run with {work.setting}"
    shorter = expected_seconds(work, 0.5)
    if seconds > LONG_S and shorter is not None:
        half = f"--duration {work.duration_s / 2:.1f}"
        return f"{line}; {half} would take about {duration_words(shorter)}."
    return f"{line}."


def _path() -> Path:
    return hub.cache_dir() / RATES_NAME


def _kept(setting: str) -> dict[str, float] | None:
    """Return the rates of a setting; None: no run has left any."""
    rates = read_rates(_path(), setting)
    return rates if {"setup", "token", "pixel"} <= set(rates) else None


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
