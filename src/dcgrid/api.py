"""The Python API: `edit`, `compose`, `story` and `Session`; the command line runs what stands here.

    plan_job -> run_planned        every command, every call of a Session, every row of a batch

torch is loaded by the first call, not by importing this. docs/api.md shows it in use.
"""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, overload

from typing_extensions import Unpack

from dcgrid import hub
from dcgrid.errors import DeviceError, UsageError
from dcgrid.io.progress import NullProgress, Progress
from dcgrid.options import (
    JOBS,
    ComposeCall,
    ComposeOptions,
    EditCall,
    EditOptions,
    ModelOptions,
    StoryCall,
    StoryOptions,
    compose_job,
    edit_job,
    story_job,
)
from dcgrid.pipelines.job import EditJob, GridJob
from dcgrid.pipelines.plan import plan_run, refuse_downloads
from dcgrid.pipelines.prepared import Prepared, prepare_run

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from dcgrid.eval.scoring import MetricRanker
    from dcgrid.pipelines.baselines import Method
    from dcgrid.pipelines.kept import KeptModels
    from dcgrid.pipelines.loading import LoadFn
    from dcgrid.pipelines.plan import GenerationPlan
    from dcgrid.pipelines.run import RunResult

PathLike: TypeAlias = str | os.PathLike[str]

_TURN = threading.RLock()
"""Held while a call of any session runs: seeds and the number of threads are torch's own state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """A job that was checked; nothing was loaded."""

    plan: "GenerationPlan"
    """What it will do."""
    method: "Method | None" = None
    """The baseline that generates; None: the program's own."""
    ranker: "MetricRanker | None" = None
    """What ranks tries; None: the cheap scores."""


def prepare_job(job: GridJob, recipe_dir: Path | None = None) -> Prepared:
    """Check a job as far as that goes in milliseconds; see `prepare_run`.

    Args:
        job: What is asked.
        recipe_dir: The user's own recipes; None: those of the config folder.
    """
    recipe_dir = recipe_dir or hub.config_dir() / "recipes"
    if isinstance(job, EditJob) and job.method != "grid":
        from dcgrid.pipelines.baselines import method_of

        job = method_of(job.method).prepare(job)
    return prepare_run(job, recipe_dir)


def plan_job(prepared: Prepared, processes: int = 1) -> PlannedJob:
    """Plan a checked job; what can be refused is refused here, before anything is loaded.

    Args:
        prepared: From `prepare_job`.
        processes: How many will compute it together.

    Raises:
        DcgridError: See `plan_run`.
    """
    if prepared.job.offline:
        hub.go_offline()
    plan, method = plan_run(prepared), None
    if prepared.job.generated_by != "grid":
        from dcgrid.pipelines.baselines import method_of

        method = method_of(prepared.job.generated_by)
        method.refuse(
            windows=len(plan.windows),
            longest_s=plan.spec.max_frames / plan.spec.fps,
            processes=processes,
        )
    return PlannedJob(plan=plan, method=method, ranker=_ranker(prepared, plan.device))


def fetch_weights(planned: PlannedJob, progress: Progress) -> None:
    """Download what a planned job needs and this machine lacks; `run_planned` would, too.

    Raises:
        NetworkError: The network is off, or the download failed.
        OutputError: The disk is too small.
        WeightsError: What came is not what the hub says.
    """
    from dcgrid.adapters.find import find_adapter
    from dcgrid.pipelines.loading import fetch_model

    job, model = planned.plan.job, planned.plan.model
    downloads = planned.plan.downloads
    refuse_downloads(downloads)
    for name in downloads:
        if name == model.name:
            fetch_model(model, progress, offline=job.offline)
        else:
            find_adapter(name, offline=job.offline)


def run_planned(
    planned: PlannedJob, progress: Progress, load: "LoadFn | None" = None
) -> "RunResult":
    """Run a planned job, unless its results are there already.

    Args:
        planned: From `plan_job`.
        progress: Gets stages, steps and remarks.
        load: Loads the model, or has it already; None: it is loaded in this process.

    Raises:
        DcgridError: See `pipelines.run.run_plan`.
    """
    refuse_downloads(planned.plan.downloads)
    from dcgrid.pipelines.run import run_plan

    method, ranker = planned.method, planned.ranker
    return run_plan(
        planned.plan,
        progress,
        load,
        generate_fn=None if method is None else method.generate_fn(),
        ranker=ranker if ranker and ranker.keys else None,
    )


def _ranker(prepared: Prepared, device: str) -> "MetricRanker | None":
    """Return what ranks candidates; None: the cheap scores do, or an earlier run has ranked.

    Raises:
        UsageError: No such metric, or one that needs more than the clip.
        WeightsError: Its weights are not here.
    """
    if not prepared.job.rank or prepared.expected_frames:
        return None
    from dcgrid.eval.scoring import make_ranker

    folder = os.environ.get("DCGRID_WEIGHTS")
    return make_ranker(prepared.job.rank, device, weights_dir=Path(folder) if folder else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """One video that was written."""

    path: Path
    """Its file."""
    edit: str
    """Name of the edit, fusion or scene that it shows."""
    cell: int
    """Cell of the grid that it was taken from."""
    seed: int
    """Seed of its noise."""
    structure: float | None
    """Correlation of its edges with those of the (first) input, -1 to 1; None: no input."""
    flicker: float | None
    """Flicker beyond the input's, 0 to 1; None: no input."""
    measures: Mapping[str, Any]
    """What it was ranked by (`rank`), by the metric's key; empty: by the two scores."""

    @overload
    def frames(self) -> "np.ndarray[Any, np.dtype[np.uint8]]": ...
    @overload
    def frames(self, kind: Literal["numpy"]) -> "np.ndarray[Any, np.dtype[np.uint8]]": ...
    @overload
    def frames(self, kind: Literal["torch"]) -> "Tensor": ...
    def frames(
        self, kind: Literal["numpy", "torch"] = "numpy"
    ) -> "np.ndarray[Any, np.dtype[np.uint8]] | Tensor":
        """Decode all frames of the file: uint8 RGB, shape (frames, height, width, 3), 0 to 255.

        Args:
            kind: "numpy" or "torch".

        Raises:
            InputVideoError: The file is gone or damaged.
        """
        import torch

        from dcgrid.video.read import decode_all

        frames_THWC = torch.stack([frame_HWC for _, frame_HWC in decode_all(self.path)])
        return frames_THWC if kind == "torch" else frames_THWC.numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an edit, a composition or a story wrote."""

    videos: tuple[Video, ...]
    """The videos, in the order of the edits (scenes), the best try first."""
    files: tuple[Path, ...]
    """Every file that was written: videos, pictures, manifest."""
    manifest_path: Path
    """The manifest, from which `dcgrid rerun` makes the same pixels again."""
    notes: tuple[str, ...]
    """What was changed or left out, a sentence each."""
    already_there: bool
    """True: an earlier run with the same settings has made them; nothing was generated."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the result, as the manifest's file has it: job, weights, sampler, times."""
        found: dict[str, Any] = json.loads(self.manifest_path.read_text(encoding="utf-8"))
        return found


def public_result(result: "RunResult") -> Result:
    """Return what users of the API get of a run."""
    folder = result.files[-1].parent
    videos = tuple(
        Video(
            path=folder / one.path,
            edit=one.edit,
            cell=one.cell,
            seed=result.manifest.job.seed if one.seed is None else one.seed,
            structure=one.structure,
            flicker=one.flicker,
            measures=one.measures,
        )
        for one in result.manifest.outputs
    )
    return Result(
        videos=videos,
        files=result.files,
        manifest_path=result.files[-1],
        notes=tuple(result.notes),
        already_there=result.already_there,
    )


class Session:
    """Makes edits, compositions and stories, and keeps the model from one to the next.

    Threads may share a Session: all calls of a process run one after another. Processes may not.

        with dcgrid.Session(model="mini") as session:
            for path in paths:
                session.edit(path, ["rain"], out="results")

    Args:
        model: Name, folder or repository of the model.
        max_models: How many variants of it stay loaded. Edits and stories share one; compositions
            need another, with another adapter.
        recipe_dir: Your own recipes; None: those of the config folder.
        options: See `ModelOptions`.

    Raises:
        UsageError: An option is unknown or wrong.
    """

    def __init__(
        self,
        model: str = "mini",
        *,
        max_models: int = 1,
        recipe_dir: PathLike | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        self._options: dict[str, Any] = {"model": model, **options}
        edit_job({"input": "clip", "prompt": "checked", **self._options}, "Session()")
        self._recipe_dir = Path(recipe_dir) if recipe_dir is not None else None
        self._max_models = max_models
        self._models: KeptModels | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        self.close()

    def close(self) -> None:
        """Let go of the models and of their memory; the session can not be used any more."""
        with _TURN:
            self._is_closed = True
            self.forget()

    def forget(self) -> None:
        """Let go of the models that are loaded; the next call loads again."""
        with _TURN:
            if self._models is not None:
                self._models.clear()

    def edit(
        self,
        input: PathLike,  # noqa: A002 - the name of the command's argument
        effects: Sequence[str] = (),
        *,
        prompt: str = "",
        out: PathLike | None = None,
        progress: Progress | None = None,
        **options: Unpack[EditOptions],
    ) -> Result:
        """Edit a video; up to three edits in one pass. See `dcgrid edit`.

        Args:
            input: The video.
            effects: Names of effect recipes, or paths of recipe files.
            prompt: An edit in your own words; counts as one.
            out: Folder, or file name for a single result; None: beside the input.
            progress: Gets stages, steps and remarks; None: nobody does.
            options: See `EditOptions`.

        Raises:
            DcgridError: What the caller can mend; see `dcgrid.errors`.
        """
        asked = {"input": input, "effects": effects, "prompt": prompt, "out": out, **options}
        return self._run(edit_job(self._values(asked), "edit()"), progress)

    def compose(
        self,
        first: PathLike,
        second: PathLike | None = None,
        *,
        prompts: Sequence[str] = (),
        out: PathLike | None = None,
        progress: Progress | None = None,
        **options: Unpack[ComposeOptions],
    ) -> Result:
        """Put the subject of one video together with what another one shows.

        See `dcgrid compose`.

        Args:
            first: The video of the subject.
            second: The video of the concept; None: the program's own clip of `concept`.
            prompts: How the fusions are to look, in your words; up to two.
            out: As in `edit`.
            progress: As in `edit`.
            options: See `ComposeOptions`.

        Raises:
            DcgridError: As `edit`.
        """
        asked = {"first": first, "second": second, "prompts": prompts, "out": out, **options}
        return self._run(compose_job(self._values(asked), "compose()"), progress)

    def story(
        self,
        scenes: Sequence[str],
        *,
        source: PathLike | None = None,
        out: PathLike | None = None,
        progress: Progress | None = None,
        **options: Unpack[StoryOptions],
    ) -> Result:
        """Make a story: the same character in scene after scene. See `dcgrid story`.

        Args:
            scenes: A scene each: an effect's name, or your own words.
            source: The character's clip; None: the character comes from the text alone, which
                large models can do.
            out: As in `edit`; None: beside the clip, else in the present folder.
            progress: As in `edit`.
            options: See `StoryOptions`.

        Raises:
            DcgridError: As `edit`.
        """
        asked = {"scenes": scenes, "source": source, "out": out, **options}
        values = self._values(asked)
        return self._run(story_job(values, "story()", recipe_dir=self._recipe_dir), progress)

    def _values(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a call with those of the session."""
        plain = {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in options.items()
        }
        return {**self._options, **plain}

    def _run(self, job: GridJob, progress: Progress | None) -> Result:
        return public_result(self.run_job(job, progress or NullProgress()))

    def job(self, command: str, values: Mapping[str, Any], place: str) -> GridJob:
        """Return a command's job of options by name, with those of the session.

        Raises:
            UsageError: An option is unknown, missing or wrong; errors call their place `place`.
        """
        return JOBS[command](self._values(values), place, UsageError)

    def plan(self, job: GridJob) -> PlannedJob:
        """Check and plan a job from `job`; nothing is loaded or generated.

        Raises:
            DcgridError: As `edit`.
        """
        prepared = prepare_job(job, self._recipe_dir)
        try:
            return plan_job(prepared)
        except DeviceError:
            with _TURN:
                if self._models is None or not self._models.clear():
                    raise
                return plan_job(prepared)  # what is kept has taken the memory

    def run_job(self, job: GridJob, progress: Progress) -> "RunResult":
        """Plan and run a job with the models that are kept.

        Raises:
            RuntimeError: The session is closed.
            DcgridError: As `edit`.
        """
        from dcgrid.pipelines.kept import KeptModels

        with _TURN:
            if self._is_closed:
                raise RuntimeError("this dcgrid.Session is closed")
            if self._models is None:
                self._models = KeptModels(self._max_models)
            return run_planned(self.plan(job), progress, self._models.load)


def edit(
    input: PathLike,  # noqa: A002 - the name of the command's argument
    effects: Sequence[str] = (),
    *,
    model: str = "mini",
    prompt: str = "",
    out: PathLike | None = None,
    progress: Progress | None = None,
    **options: Unpack[EditCall],
) -> Result:
    """Edit one video: `Session.edit` in a session of its own, whose options are taken, too."""
    of_model, of_call = _split(options)
    with Session(model, **of_model) as session:
        return session.edit(input, effects, prompt=prompt, out=out, progress=progress, **of_call)


def compose(
    first: PathLike,
    second: PathLike | None = None,
    *,
    model: str = "mini",
    prompts: Sequence[str] = (),
    out: PathLike | None = None,
    progress: Progress | None = None,
    **options: Unpack[ComposeCall],
) -> Result:
    """Compose two videos: `Session.compose` in a session of its own, whose options are taken."""
    of_model, of_call = _split(options)
    with Session(model, **of_model) as session:
        return session.compose(
            first, second, prompts=prompts, out=out, progress=progress, **of_call
        )


def story(
    scenes: Sequence[str],
    *,
    model: str = "mini",
    source: PathLike | None = None,
    out: PathLike | None = None,
    progress: Progress | None = None,
    **options: Unpack[StoryCall],
) -> Result:
    """Make a story: `Session.story` in a session of its own, whose options are taken, too."""
    of_model, of_call = _split(options)
    with Session(model, **of_model) as session:
        return session.story(scenes, source=source, out=out, progress=progress, **of_call)


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of a session, and those of a call."""
    known = ModelOptions.__annotations__
    of_model = {name: value for name, value in options.items() if name in known}
    return of_model, {name: value for name, value in options.items() if name not in known}
