"""`dcgrid train`: make the weights of a model, one stage at a time."""

import shlex
import sys
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dcgrid import hub
from dcgrid.cli import complete
from dcgrid.cli.options import (
    DeviceOption,
    DryRunOption,
    FormatOption,
    Options,
    QuietOption,
    how,
    machine,
    main,
    what,
    where,
    with_options,
)
from dcgrid.cli.output import Format, Output
from dcgrid.cli.sample import refuse_options, sample_grids
from dcgrid.errors import OutputError, UsageError
from dcgrid.recipes import shipped_dir

if TYPE_CHECKING:
    from dcgrid.runtime.processes import Processes
    from dcgrid.train.job import Reporter, TrainJob
    from dcgrid.train.log import Progress
    from dcgrid.train.settings import TrainRecipe


class Stage(StrEnum):
    """Stages in the order in which they are run."""

    AUTOENCODER = "autoencoder"
    BASE = "base"
    UPSAMPLER = "upsampler"
    DC = "dc"
    CELLS = "cells"
    GRID = "grid"
    SAMPLE = "sample"
    FILL = "fill"


class Mode(StrEnum):
    """What the grids of stages cells, grid, sample and fill show."""

    CONSISTENT = "consistent"
    COMPOSITION = "composition"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions(Options):
    """What `train` takes."""

    stage: Annotated[
        Stage | None,
        main(
            "--stage",
            metavar="STAGE",
            help=f"What to train: {', '.join(Stage)}; they build on one another.",
        ),
    ] = None
    model: Annotated[
        str,
        main(
            "--model",
            "-m",
            autocompletion=complete.models,
            metavar="MODEL",
            help="Model to train, its repository, or folder of a Wan checkout to train on.",
            callback=hub.model_name,
        ),
    ] = "mini"
    out: Annotated[
        Path | None,
        main(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder of weights and checkpoints.",
            show_default="./runs/MODEL",
        ),
    ] = None
    resume: Annotated[bool, main("--resume", help="Go on from the folder's last checkpoint.")] = (
        False
    )
    fetch_world: Annotated[
        bool, main("--fetch-world", help="Download and build the world's pictures.")
    ] = False
    mode: Annotated[
        Mode | None,
        what(
            "--mode",
            help="Stages cells, grid, sample and fill: edits of one clip, or the fusion of two.",
            show_default="the recipe's, else consistent",
        ),
    ] = None
    grids: Annotated[
        int | None,
        what(
            "--grids",
            min=1,
            metavar="N",
            help="Stages cells, sample: how many.",
            show_default="the recipe's",
        ),
    ] = None
    drop: Annotated[
        list[int] | None,
        what(
            "--drop",
            metavar="N",
            help="Stages cells, sample: number of a bad grid to drop; generate none. Repeatable.",
        ),
    ] = None
    concepts: Annotated[
        Path | None,
        what(
            "--concepts",
            metavar="PATH",
            help="Stage dc: manifest or folder of clips to learn.",
            show_default="11 of the procedural world",
        ),
    ] = None
    cache_only: Annotated[
        bool, what("--cache-only", help="Stage dc: encode the clips, then stop.")
    ] = False
    decoder_only: Annotated[
        bool,
        what("--decoder-only", help="Stage autoencoder: keep the encoder and so the latents."),
    ] = False
    recipe: Annotated[
        Path | None,
        how("--recipe", metavar="FILE", help="Training recipe.", show_default="the shipped one"),
    ] = None
    steps: Annotated[
        int | None,
        how("--steps", min=1, metavar="N", help="Steps to train.", show_default="the recipe's"),
    ] = None
    start_from: Annotated[
        Path | None,
        how(
            "--start-from",
            metavar="FOLDER",
            help="Folder of an earlier edition's weights to start from.",
            show_default="random weights",
        ),
    ] = None
    accept_changes: Annotated[
        bool, how("--accept-changes", help="With --resume: go on though the recipe has changed.")
    ] = False
    world: Annotated[
        Path | None,
        where(
            "--world",
            metavar="FOLDER",
            help="Folder of the world's pictures.",
            show_default="in the cache folder",
        ),
    ] = None
    clips: Annotated[
        Path | None,
        where(
            "--clips",
            metavar="FOLDER",
            help="With --fetch-world: folder of real footage.",
            show_default="WORLD/clips",
        ),
    ] = None
    force: Annotated[
        bool, where("--force", "-f", help="Begin anew over an earlier checkpoint.")
    ] = False
    dry_run: DryRunOption = False
    device: DeviceOption = "cpu"
    threads: Annotated[
        int | None,
        machine("--threads", min=1, metavar="N", help="CPU threads.", show_default="one a core"),
    ] = None

    @property
    def store(self) -> Path:
        """Folder of the world's pictures."""
        return self.world or hub.cache_dir() / "world"


@with_options
def train(
    options: TrainOptions, format_: FormatOption = Format.TEXT, quiet: QuietOption = False
) -> None:
    """Make the weights of a model: --fetch-world once, then the stages in their order.

    A Wan checkout has its weights; stages dc, cells, grid, sample and fill train adapters on it.

    Stopping is safe at any time: Ctrl-C saves, and --resume goes on as if nothing had happened.
    """
    if options.fetch_world == (options.stage is not None):
        hint = "dcgrid train --fetch-world, then dcgrid train --stage autoencoder"
        raise UsageError("give either --stage or --fetch-world", hint=hint)
    model, out = _trained_folder(options.model, options.out)
    options = replace(options, model=model, out=out or _runs_folder(model))
    with Output(format_=format_, quiet=quiet) as output:
        if options.stage is None:
            _fetch_world(options.store, options.clips, output)
        elif options.stage in (Stage.CELLS, Stage.SAMPLE):
            _sample(options, options.stage, output)
        else:
            _refuse_others(options, options.stage)
            _train(options, options.stage, output)


def _sample(options: TrainOptions, stage: Stage, output: Output) -> None:
    """Do stage cells or sample."""
    refused = {
        "--steps": options.steps is not None,
        "--resume": options.resume,
        "--accept-changes": options.accept_changes,
        "--start-from": options.start_from is not None,
        "--decoder-only": options.decoder_only,
        "--force": options.force,
        "--concepts and --cache-only": options.concepts is not None or options.cache_only,
    }
    refuse_options(stage, refused)
    sample_grids(options, stage.value, options.out or _runs_folder(options.model), output)


def _refuse_others(options: TrainOptions, stage: Stage) -> None:
    """Refuse options that are for other stages than this one, which trains.

    Raises:
        UsageError: One is given.
    """
    if options.grids is not None or options.drop:
        raise UsageError(f"--grids and --drop are for stages cells and sample, not {stage}")
    if options.decoder_only and stage is not Stage.AUTOENCODER:
        raise UsageError(f"--decoder-only is for stage autoencoder, not {stage}")
    if stage is not Stage.DC and (options.concepts is not None or options.cache_only):
        option = "--cache-only" if options.concepts is None else "--concepts"
        raise UsageError(f"{option} is for stage dc, not {stage}")
    goes_on = options.decoder_only or options.resume or stage is Stage.DC
    if options.start_from is not None and goes_on:
        raise UsageError(
            "--start-from is for a new run of any stage but dc",
            hint="leave it out: --resume and --decoder-only go on from --out anyway",
        )
    if options.accept_changes and not options.resume:
        raise UsageError("--accept-changes is for a run that goes on: use it with --resume")


def _train(options: TrainOptions, stage: Stage, output: Output) -> None:
    """Train a stage, in as many processes as torchrun started."""
    from dcgrid.runtime.device import choose_device
    from dcgrid.runtime.processes import join_processes
    from dcgrid.train.job import TrainJob

    with join_processes(options.device) as (processes, own_device):
        job = TrainJob(
            recipe=_read_recipe(stage, options.mode, options.recipe, options.model, options.steps),
            model=options.model,
            out=options.out or _runs_folder(options.model),
            store=options.store,
            resume=options.resume,
            accept_changes=options.accept_changes,
            start=options.start_from,
            decoder_only=options.decoder_only,
            device=choose_device(own_device),
            processes=processes,
            concepts=options.concepts,
            cache_only=options.cache_only,
        )
        if not processes.is_first:
            output.mute()
        _run_job(job, output, threads=options.threads, dry_run=options.dry_run, force=options.force)


def _trained_folder(model: str, out: Path | None) -> tuple[str, Path | None]:
    """Return preset and `--out` of a run; `--model FOLDER` goes on in a folder trained earlier.

    Raises:
        UsageError: `--out` is another folder.
        WeightsError: The folder's config.json is damaged.
    """
    from dcgrid.models.native.config import PRESETS
    from dcgrid.models.native.folder import is_native_folder, read_native_folder

    folder = Path(model).expanduser()
    if model in PRESETS or not is_native_folder(folder):
        return model, out
    if out is not None and out.resolve() != folder.resolve():
        raise UsageError(
            f"--model {model} is trained in its own folder, not in --out {out}",
            hint=f"leave out --out, or copy {model} first",
        )
    return read_native_folder(folder).preset, folder


def _runs_folder(model: str) -> Path:
    """Return where the runs of a model are kept; that of a checkout is called as its folder is."""
    return Path("runs") / Path(model).expanduser().resolve().name


def _read_recipe(
    stage: Stage, mode: Mode | None, recipe: Path | None, model: str, steps: int | None
) -> "TrainRecipe":
    """Read the recipe of a stage, by default the shipped one of its mode."""
    from dcgrid.train.settings import load_train_recipe, with_steps

    if mode is not None and stage not in (Stage.GRID, Stage.FILL):
        raise UsageError(f"--mode is for stages grid and fill, not {stage}")
    name = f"{stage}-{mode}" if mode is Mode.COMPOSITION else stage
    path = recipe or shipped_dir() / "train" / f"{name}.toml"
    settings = with_steps(load_train_recipe(path, model), steps)
    if settings.stage != stage.value:
        raise UsageError(
            f"{path} is a recipe of stage {settings.stage}, not {stage}",
            hint=f"dcgrid train --stage {settings.stage} --recipe {path}",
        )
    if mode is not None and settings.mode != mode.value:
        raise UsageError(f"{path} is a recipe of mode {settings.mode}, not {mode}")
    return settings


def _fetch_world(store: Path, clips: Path | None, output: Output) -> None:
    """Download the sources below the store's folder and build the store."""
    if clips is not None and not clips.is_dir():
        raise UsageError(f"--clips: there is no folder {clips}")
    from dcgrid.synthetic.sources import fetch_sources
    from dcgrid.synthetic.store import WorldStore, build_store

    output.start("fetching pictures")
    fetch_sources(store / "raw", output.note)
    output.start("building the world")
    build_store(store / "raw", clips or store / "clips", store, output.note)
    counts = {kind: len(names) for kind, names in WorldStore(store).names.items()}
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    output.result([f"{store}: {summary}"], {"world": store, **counts})


def _run_job(
    job: "TrainJob", output: Output, *, threads: int | None, dry_run: bool, force: bool
) -> None:
    """Plan a run; unless it is a dry run, train and print the result."""
    output.busy("planning")
    import torch

    from dcgrid.train.checkpoint import STATE_NAME
    from dcgrid.train.plan import keep_rate, plan_stage
    from dcgrid.train.run_stage import run_stage

    if threads is not None:
        torch.set_num_threads(threads)
    plan = plan_stage(job)
    if dry_run:
        output.result(plan.lines(), {"dry_run": True, **plan.as_json()})
        return
    checkpoint = job.loop.folder / STATE_NAME
    if checkpoint.exists() and not (job.resume or job.cache_only or force):
        raise OutputError(
            f"{checkpoint} is from an earlier run of this stage",
            hint="go on from it with --resume, or begin anew over it with --force",
        )
    for line in plan.lines():
        output.note(line)
    shown = _Shown(job.recipe, plan.steps_done, output)
    output.start("preparing")
    try:
        path = run_stage(job, shown.reporter())
    except KeyboardInterrupt:
        output.close()
        if checkpoint.exists():
            output.note(f"stopped and saved; to go on: {_resume_command(job.processes)}")
        raise
    keep_rate(job)
    output.result([f"wrote {path}"], {"file": path, **shown.summary()})


class _Shown:
    """Shows how far a run is, with its loss, and keeps its last figures."""

    def __init__(self, recipe: "TrainRecipe", done: int, output: Output) -> None:
        self._output, self._stage, self._steps = output, recipe.stage, recipe.optim.steps
        self._done = done
        self._last: Progress | None = None
        self._began_s = time.monotonic()

    def reporter(self) -> "Reporter":
        """Return what `run_stage` reports to."""
        from dcgrid.train.job import Reporter
        from dcgrid.train.validation import generate_as_edit

        return Reporter(say=self._output.note, progress=self._show, generate=generate_as_edit)

    def summary(self) -> dict[str, Any]:
        """Return the last figures and the whole time as JSON values."""
        seconds = round(time.monotonic() - self._began_s, 1)
        step, figures = (self._last.step, self._last.figures) if self._last else (self._steps, {})
        return {"stage": self._stage, "steps": step, "seconds": seconds, **figures}

    def _show(self, progress: "Progress") -> None:
        if self._last is None:
            self._output.start(f"training {self._stage}", progress.steps, done=self._done)
        self._last = progress
        figures = [f"{name} {value:.4g}" for name, value in progress.figures.items()]
        detail = ", ".join([*figures, f"{progress.seconds_per_step:.3g} s/step"])
        self._output.update(progress.step, detail=detail)


def _resume_command(processes: "Processes") -> str:
    """Return the command line of this process with --resume in it, for where it is now."""
    words: list[str] = []
    start = ["dcgrid"]
    if processes.count > 1:
        start = ["torchrun", "--nproc-per-node", str(processes.local_count), "-m", "dcgrid"]
    for word in sys.argv[1:]:
        if words and words[-1] == "--start-from":
            words.pop()  # and its value: the checkpoint holds what came of it
        elif word not in ("--resume", "--force", "-f") and not word.startswith("--start-from="):
            words.append(word)
    return shlex.join([*start, *words, "--resume"])
