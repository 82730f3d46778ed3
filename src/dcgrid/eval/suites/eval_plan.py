"""What an evaluation will do, before it does it: clips, units, columns, downloads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dcgrid import hub
from dcgrid.errors import InputVideoError, OutputError, UsageError
from dcgrid.eval.results import MetricColumn
from dcgrid.eval.scoring import METRICS, Encoders
from dcgrid.eval.suites import compared_frames
from dcgrid.eval.suites.suite import (
    CEILING,
    EvalRequest,
    Suite,
    Unit,
    check_seeds,
    item_names,
    units_of,
)
from dcgrid.grid.routing import Mode
from dcgrid.io.progress import RATES_NAME, counted, duration_words, read_rates
from dcgrid.models.base import ModelSpec
from dcgrid.models.model import Model
from dcgrid.models.registry import find_model
from dcgrid.pipelines.baselines import method_of
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.loading import adapter_reference
from dcgrid.pipelines.plan import download_lines, find_downloads, refuse_downloads
from dcgrid.recipes import load_effect
from dcgrid.runtime import device as runtime

SCORING = "scoring"
"""Under which the seconds that a video takes to score are kept, beside those of methods."""
_OF_COMPOSITIONS = ("grid", "inpaint", CEILING, "codec", "unedited")
"""Methods that know what to do with two clips."""
_OF_STORIES = ("grid", "inpaint")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPlan:
    """A checked request."""

    request: EvalRequest
    """What was asked."""
    columns: tuple[MetricColumn, ...]
    """Metrics; those that cannot be measured here say why."""
    devices: tuple[str, ...]
    """Devices that processes are dealt out to."""
    results: int
    """Videos that there should be."""
    downloads: Mapping[str, int | None]
    """Bytes to download by reference; None: unknown size."""
    units: tuple[Unit, ...]
    """What is generated in one go each."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths of the results."""

    def lines(self) -> list[str]:
        """Return the plan as sentences, one a line."""
        request, suite = self.request, self.request.suite
        methods = [*suite.methods, *request.external]
        lines = [
            f"Suite {suite.name}: {suite.title}.",
            f"{counted(len(request.clips), 'clip')} x {counted(len(suite.tasks), 'task')} x "
            f"{counted(len(methods), 'method')} ({', '.join(methods)}): "
            f"{counted(self.results, 'video')} of "
            f"{', '.join(f'{width}x{height}' for height, width in self.sizes)}.",
            f"Model: {request.model} on {', '.join(dict.fromkeys(self.devices))}"
            f"{f', {request.jobs} processes' if request.jobs > 1 else ''}.",
            f"Results: {request.out}.",
            self._time_line(),
        ]
        lines += [f"Left out: {one}" for one in request.left_out]
        lines += [f"{one.label} will be blank: {one.unavailable}." for one in self.blank]
        return [*lines, *download_lines(self.downloads)]

    def expected_seconds(self) -> tuple[float, tuple[str, ...]]:
        """Return how long it takes by the last runs here, and the methods that none is known of.

        What an earlier run has made takes no time; so it is at most this, loading aside.
        """
        rates = read_rates(hub.cache_dir() / RATES_NAME, self.rate_setting)
        methods = [unit.method for unit in self.units if unit.method not in self.request.external]
        unknown = tuple(dict.fromkeys(one for one in methods if one not in rates))
        seconds = sum(rates.get(one, 0.0) for one in methods)
        return seconds / self.request.jobs + rates.get(SCORING, 0.0) * self.results, unknown

    @property
    def rate_setting(self) -> str:
        """What the times of methods hold for."""
        request = self.request
        length = "whole clips" if request.duration_s is None else f"{request.duration_s:g} s"
        where = f"{self.devices[0]}, {request.dtype}"
        return f"eval {request.suite.kind} of {request.model} on {where}, {length}, {self.sizes}"

    def _time_line(self) -> str:
        seconds, unknown = self.expected_seconds()
        if unknown:
            return f"Time: unknown yet, before the first run here of {', '.join(unknown)}."
        return f"Time: about {duration_words(seconds)} at most, by the last run here."

    @property
    def blank(self) -> tuple[MetricColumn, ...]:
        """Columns that cannot be measured here."""
        return tuple(one for one in self.columns if one.unavailable)

    def as_json(self) -> dict[str, Any]:
        """Return the plan for programs."""
        suite = self.request.suite
        return {
            "suite": suite.name,
            "clips": [clip.key for clip in self.request.clips],
            "left_out": list(self.request.left_out),
            "tasks": [task.key for task in suite.tasks],
            "methods": [*suite.methods, *self.request.external],
            "seeds": list(suite.seeds),
            "results": self.results,
            "metrics": [one.key for one in self.columns],
            "blank": {one.key: one.unavailable for one in self.blank},
            "out": str(self.request.out.absolute()),
            "downloads": dict(self.downloads),
            "sizes": [list(size) for size in self.sizes],
            "expected_s": None if self.expected_seconds()[1] else self.expected_seconds()[0],
        }


def plan_eval(request: EvalRequest, *, dry_run: bool = False) -> EvalPlan:
    """Check a request as far as that goes without generating.

    Args:
        request: What is asked.
        dry_run: True: nothing is downloaded, whatever `pull` says.

    Raises:
        UsageError: An unknown method or metric, or one that the suite cannot have.
        RecipeError: An effect is unknown.
        InputVideoError: A clip is no video.
        OutputError: The folder cannot be written.
        NetworkError: Something would be downloaded and the network is off.
    """
    model = find_model(request.model)
    request = _readable(replace(request, suite=_with_masks(request)), model.spec)
    _check_suite(request)
    devices = _devices(request)
    encoders = Encoders(
        request.weights_dir, devices[0], offline=request.offline or dry_run or not request.pull
    )
    downloads = _downloads(request, model)
    refuse_downloads(downloads)
    _check_out(request.out)
    units = units_of(request)
    plans = [compared_frames.plan_source(request, model.spec, clip) for clip in request.clips]
    return EvalPlan(
        request=replace(request, out=request.out.resolve()),
        columns=encoders.columns(request.suite.metrics),
        devices=devices,
        results=sum(len(item_names(request.suite, unit)) for unit in units),
        downloads=downloads,
        units=units,
        sizes=tuple(sorted({plan.cell_size for plan in plans})),
    )


def _readable(request: EvalRequest, spec: ModelSpec) -> EvalRequest:
    """Return the request without files of folders that are no videos; they are told.

    Raises:
        InputVideoError: A file that was named is no video, or nothing is left.
    """
    clips, left_out = [], list(request.left_out)
    for clip in request.clips:
        try:
            compared_frames.plan_source(request, spec, clip)
            clips.append(clip)
        except InputVideoError as error:
            if clip.is_named:
                raise
            left_out.append(f"{clip.path.name}: {error.message}")
    for clip in clips:
        compared_frames.read_mask(request, spec, clip, 1)
    if not clips:
        raise InputVideoError(
            f"no clip can be read; {left_out[0]}",
            hint="name video files",
        )
    return replace(request, clips=tuple(clips), left_out=tuple(left_out))


def _with_masks(request: EvalRequest) -> Suite:
    """Return the suite; where subjects are known, change is told for them and beside them, too."""
    suite = request.suite
    parts = ("change_subject", "change_background")
    if "change" not in suite.metrics or not any(clip.mask for clip in request.clips):
        return suite
    place = suite.metrics.index("change") + 1
    added = tuple(key for key in parts if key not in suite.metrics)
    return replace(suite, metrics=(*suite.metrics[:place], *added, *suite.metrics[place:]))


def _check_suite(request: EvalRequest) -> None:
    suite = request.suite
    check_seeds(suite.seeds)
    for key in suite.metrics:
        if key not in METRICS:
            raise UsageError(f"no metric is called {key!r}", hint=f"metrics: {', '.join(METRICS)}")
    allowed = {"compose": _OF_COMPOSITIONS, "story": _OF_STORIES}.get(suite.kind)
    for name in suite.methods:
        if name == CEILING and suite.kind in ("truth", "compose"):
            continue
        method_of(name)
        if allowed is not None and name not in allowed:
            raise UsageError(
                f"method {name!r} does not do what suite {suite.name!r} asks",
                hint=f"methods of a {suite.kind} suite: {', '.join(allowed)}",
            )
    for task in suite.tasks:
        if suite.kind == "truth":
            compared_frames.truth_effect(task)
        elif suite.kind == "compose":
            compared_frames.check_element(task)
        else:
            load_effect(task.effect, hub.config_dir() / "recipes")


def _devices(request: EvalRequest) -> tuple[str, ...]:
    """Return the devices of processes: every GPU in turn where several are asked to work."""
    import torch

    first = runtime.choose_device(request.device)
    if request.jobs < 1 or request.jobs > 64:
        raise UsageError(f"--jobs {request.jobs} is out of range", hint="use --jobs 1 to 64")
    if str(first) == "cuda" and request.jobs > 1:
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return (str(first),)


def _downloads(request: EvalRequest, model: Model) -> dict[str, int | None]:
    mode: Mode = "composition" if request.suite.kind == "compose" else "consistent"
    job = EditJob(input=Path(), model=request.model, adapter=request.adapter)
    adapters = []
    methods = (name for name in request.suite.methods if name != CEILING)
    if any(method_of(name).uses_adapter for name in methods):
        adapters.append(adapter_reference(job, model, mode))
    return find_downloads(job, model, adapters)


def _check_out(out: Path) -> None:
    """Make the folder of the results.

    Raises:
        OutputError: It is a file, or cannot be made.
    """
    try:
        (out / "cache").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise OutputError(f"cannot write in {out} ({reason})", hint="use another --out") from error
