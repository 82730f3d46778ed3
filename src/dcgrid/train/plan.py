"""What a stage will do, before it does it: parameters, memory, disk, time. Read `plan_stage`.

Networks are built on the meta device, so counting the paper's 11.5 B parameters takes no memory.

Letters: F Y X latent frames/rows/columns.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dcgrid import hub
from dcgrid.adapters.attach import find_targets, linear_shapes
from dcgrid.errors import RecipeError, WeightsError
from dcgrid.grid.layout import nearest_multiples
from dcgrid.io.progress import (
    RATES_NAME,
    counted,
    duration_words,
    keep_rates,
    read_rates,
    size_words,
)
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import NativeConfig
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.t5 import count_t5, missing_t5_files
from dcgrid.models.native.text import TextEncoder, WordTokenizer
from dcgrid.models.registry import find_model
from dcgrid.models.upsampler import GuidedUpsampler
from dcgrid.runtime.device import dtype_name
from dcgrid.runtime.processes import Processes
from dcgrid.synthetic.store import WorldStore
from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.data.captions import captions_of
from dcgrid.train.data.concept_manifest import unused_files
from dcgrid.train.data.generated_grids import needs_world
from dcgrid.train.data.variants import STOCK, VARIANTS
from dcgrid.train.facts import preset_of
from dcgrid.train.job import TrainJob, check_processes, check_text_encoder
from dcgrid.train.loop import batches_of_step
from dcgrid.train.plan_checkout import checkout_counts, frozen_bytes, working_bytes
from dcgrid.train.resume import read_step
from dcgrid.train.run_stage import missing_parts
from dcgrid.train.settings import ADAPTER_STAGES, ConceptLoss, GridsLoss, Phase
from dcgrid.train.stages.autoencoder_stage import trained_names
from dcgrid.train.stages.concepts import check_concepts, count_tags
from dcgrid.train.stages.flow_matching import check_self_conditioning
from dcgrid.train.stages.grid_adapters import adapter_specs
from dcgrid.train.stages.upsampler_stage import CROP_BYTES, stock_bytes
from dcgrid.video.folder import name_some

CLUSTERS = (8, 64, 256)
"""Numbers of GPUs that a plan tells the memory for; 256 are the paper's."""
_LIBRARY_BYTES = 500_000_000
"""What Python and torch take before any network."""
_PIXEL_VALUES = 180
"""Numbers kept for the backward pass, a pixel of a batch, by convolutional stages; counted on
mini's autoencoder (0.95 GB of memory of its own in all with 4 clips of 17 x 96 x 96)."""
_ENCODED_PLANES = 4
"""Pictures of the first stage's channels that the encoder holds of a clip at once, at full size."""
_TOKEN_WIDTHS = 60
"""Widths D that a step needs, a token and block: norms, modulation, q k v, MLP and their gradients;
fits the 2.4 GB that mini's base takes with 4 grids of 17 x 96 x 96 cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """What a run would do."""

    job: TrainJob
    """The run."""
    trained: dict[str, int]
    """Parameters trained, by part."""
    frozen: dict[str, int]
    """Parameters that are loaded and stay as they are, by part."""
    steps_done: int
    """Steps of the checkpoint that the run goes on from; 0 for a new one."""
    memory_bytes: int
    """Rough peak memory of a process."""
    memory_of: dict[int, int]
    """The same by how many GPUs share the weights, eight a machine; empty: none are shared."""
    disk_bytes: int
    """Disk space of a checkpoint (two while one is written), kept ones and the weight file."""
    result_bytes: int
    """Size of the weight files that it makes."""
    seconds: float | None
    """Time that is left at the rate last logged in this folder, else at that of the last run of its
    kind on this machine; None: no rate is known."""
    download_bytes: int | None
    """What is to be fetched of the base first; None: unknown."""
    missing: tuple[str, ...]
    """What the run needs and does not find, a sentence each."""
    concepts: int | None
    """How many were found where `--concepts` says; None: they are not of files."""
    unused: tuple[str, ...]
    """Names of files there that no concept uses."""

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        recipe = self.job.recipe
        return {
            "stage": recipe.stage,
            "mode": recipe.mode,
            "model": self.job.model,
            "trained": self.trained,
            "frozen": self.frozen,
            "steps": recipe.optim.steps,
            "steps_done": self.steps_done,
            "processes": self.job.processes.count,
            "batches": batches_of_step(recipe, self.job.processes),
            "phases": [
                {
                    "first_step": first,
                    "frames": phase.frames,
                    "sizes": [list(size) for size in phase.sizes],
                    "batch": phase.batch,
                    "image_share": phase.image_share,
                    "image_sizes": [list(size) for size in phase.image_sizes],
                    "image_batch": phase.image_batch,
                }
                for first, phase in _first_steps(self.job)
            ],
            "memory_bytes": self.memory_bytes,
            "memory_bytes_of": {str(count): size for count, size in self.memory_of.items()},
            "disk_bytes": self.disk_bytes,
            "result_bytes": self.result_bytes,
            "seconds": self.seconds,
            "download_bytes": self.download_bytes,
            "device": str(self.job.device),
            "out": str(self.job.out.absolute()),
            "world": str(self.job.store.absolute()),
            "missing": list(self.missing),
            "concepts": self.concepts,
            "unused": list(self.unused),
        }

    def _model_lines(self) -> list[str]:
        """Return the size of a model that reads text with a T5, whose weights are not its own."""
        count = self.trained.get("dit", 0) + self.frozen.get("dit", 0) + self.frozen.get("text", 0)
        native = self.job.facts.native
        if native is None or native.text is not None or "text" not in self.frozen:
            return []
        return [f"model     {count / 1e9:.2f} billion, transformer and text encoder"]

    def _concept_lines(self) -> list[str]:
        """Return how many concepts were found, and what lies beside them unused."""
        if self.concepts is None:
            return []
        unused = f"; not used: {name_some(self.unused)}" if self.unused else ""
        return [f"concepts  {self.concepts} in {self.job.concepts}{unused}"]

    def _download_lines(self) -> list[str]:
        """Return what is fetched of the base before the first step."""
        if self.download_bytes == 0:
            return []
        count = self.download_bytes
        size = "unknown size" if count is None else size_words(count)
        return [f"download  {self.job.model}, {size}"]

    def lines(self) -> list[str]:
        """Return the plan as a person reads it."""
        recipe, left = self.job.recipe, self.job.recipe.optim.steps - self.steps_done
        where = f"{dtype_name(self.job.dtype)} on {self.job.device}"
        lines = [
            f"stage     {recipe.run_name} of {self.job.model}, {where}",
            f"trained   {_counts(self.trained)}",
            f"frozen    {_counts(self.frozen)}",
            *self._model_lines(),
            *self._concept_lines(),
            f"steps     {recipe.optim.steps}, {self.steps_done} done, {max(left, 0)} to go",
        ]
        batches, processes = batches_of_step(recipe, self.job.processes), self.job.processes.count
        if batches > 1:
            lines.append(f"batches   {batches} a step, dealt to {processes} processes")
        for first, phase in _first_steps(self.job):
            sizes = ", ".join(f"{width}x{height}" for height, width in phase.sizes)
            lines.append(f"phase     from step {first}: {phase.batch} x {phase.frames} x {sizes}")
            if phase.image_share:
                sizes = ", ".join(f"{width}x{height}" for height, width in phase.image_sizes)
                share = f"{phase.image_share:.0%} of the batches"
                lines.append(f"          {share}: {counted(phase.image_batch, 'image')} of {sizes}")
        spread = [f"{size / 1e9:.1f} GB on each of {n}" for n, size in self.memory_of.items()]
        hours = "unknown yet, before the first run of this kind here"
        if self.seconds is not None:
            hours = f"about {duration_words(self.seconds)}, at the rate of the last run here"
        return [
            *lines,
            f"memory    about {self.memory_bytes / 1e9:.1f} GB",
            *([f"          with shared weights {', '.join(spread)} GPUs"] if spread else []),
            f"disk      about {self.disk_bytes / 1e6:.0f} MB in {self.job.out}",
            f"result    about {size_words(self.result_bytes)} of weights in {self.job.out}",
            f"time      {hours}",
            *self._download_lines(),
            *(f"missing   {line}" for line in self.missing),
        ]


def plan_stage(job: TrainJob) -> TrainPlan:
    """Plan a run; nothing is loaded or written.

    Raises:
        UsageError: See `check_processes`.
        RecipeError: The recipe's shapes do not fit the model, it names no T5 where one is needed,
            or the concepts have problems.
        WeightsError: The folder's checkpoint is damaged.
    """
    check_processes(job)
    check_self_conditioning(job.recipe, network=job.facts.self_conditioning)
    check_text_encoder(job)
    check_shapes(job)
    with torch.device("meta"):
        trained, frozen = _parameters(job)
    done = (read_step(job.loop.folder) or 0) if job.resume else 0
    total, copies = sum(trained.values()), _copies(job)
    earlier = read_rates(hub.cache_dir() / RATES_NAME, _rate_setting(job)).get("step")
    rate = last_rate(job.loop.folder / "log.jsonl") or earlier
    state = 4 * copies * total
    shared = job.recipe.scale.shard != "none"
    files = job.concepts if job.recipe.stage == "dc" else None
    return TrainPlan(
        job=job,
        trained=trained,
        frozen=frozen,
        steps_done=done,
        memory_bytes=_memory_bytes(job, trained, frozen),
        memory_of={
            count: _memory_bytes(replace(job, processes=many), trained, frozen)
            for count in (CLUSTERS if shared else ())
            for many in (Processes(count=count, local_count=min(count, 8)),)
        },
        disk_bytes=(2 + job.recipe.log.keep_last) * state + 2 * total,
        result_bytes=_result_bytes(job, trained, frozen),
        seconds=None if rate is None else rate * max(job.recipe.optim.steps - done, 0),
        download_bytes=0 if job.facts.native else find_model(job.model).download_bytes,
        missing=tuple(_missing(job)),
        concepts=len(check_concepts(job) or ()) if files else None,
        unused=tuple(unused_files(files)) if files else (),
    )


def check_shapes(job: TrainJob) -> None:
    """Check that every phase's frames and sizes suit the model.

    Raises:
        RecipeError: They do not.
    """
    facts, stage = job.facts, job.recipe.stage
    stride_T, stride_HW = facts.geometry.stride_T, facts.geometry.stride_HW
    multiple = stride_HW * max(facts.geometry.patch[1:])
    if stage == "autoencoder":
        multiple = stride_HW
    for phase in (p for one in job.recipe.phases for p in _kinds(one)):
        if (phase.frames - 1) % stride_T:
            raise RecipeError(
                f"phase with frames = {phase.frames}: {job.model} takes {stride_T} n + 1 frames",
                hint=f"the nearest are {_nearest_frames(phase.frames, stride_T)}",
            )
        for height, width in phase.sizes:
            if height % multiple or width % multiple:
                fitting = ", ".join(
                    f"{w}x{h}"
                    for h in nearest_multiples(height, multiple)
                    for w in nearest_multiples(width, multiple)
                )
                raise RecipeError(
                    f"phase with size {width}x{height}: stage {stage} of {facts.name} takes "
                    f"multiples of {multiple}",
                    hint=f"the nearest are {fitting}",
                )


def _kinds(phase: Phase) -> tuple[Phase, ...]:
    """Return a phase as its clips see it, and as its images do if it has any."""
    if not phase.image_share:
        return (phase,)
    images = replace(phase, frames=1, sizes=phase.image_sizes, batch=phase.image_batch)
    return phase, images


def _result_bytes(job: TrainJob, trained: dict[str, int], frozen: dict[str, int]) -> int:
    """Return the size of the weight files: an adapter's are float32, others as the recipe says."""
    stage, total = job.recipe.stage, sum(trained.values())
    if stage in ADAPTER_STAGES:
        return 4 * total
    # What of the autoencoder stays as it is goes into the file, too.
    kept = frozen["autoencoder"] if stage == "autoencoder" else 0
    return (total + kept) * job.stored_as.itemsize


def _rate_setting(job: TrainJob) -> str:
    """Return what a rate holds for: the steps of other sizes take other times."""
    sizes = "; ".join(f"{p.batch} x {p.frames} x {p.sizes}" for p in job.recipe.phases)
    where = f"{dtype_name(job.dtype)} on {job.device} x {job.processes.count}"
    return f"train {job.recipe.run_name} of {job.model}, {where}: {sizes}"


def keep_rate(job: TrainJob) -> None:
    """Keep the seconds a step of a run that is over, for plans of runs like it elsewhere."""
    rate = last_rate(job.loop.folder / "log.jsonl")
    if rate is not None:
        keep_rates(hub.cache_dir() / RATES_NAME, _rate_setting(job), {"step": rate})


def last_rate(log: Path) -> float | None:
    """Return the seconds a step that a log names last; None without a readable line."""
    try:
        lines = log.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in reversed(lines):
        try:
            return float(json.loads(line)["s_per_step"])
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a kill
    return None


def _parameters(job: TrainJob) -> tuple[dict[str, int], dict[str, int]]:
    """Return parameter counts of the trained and the frozen parts."""
    stage = job.recipe.stage
    if stage in ADAPTER_STAGES and job.facts.native is None:
        adapters = 1 if stage == "dc" else len(adapter_specs(job.recipe, job.facts, ""))
        return checkout_counts(job, adapters, count_tags(job) if stage == "dc" else 0)
    config = preset_of(job.model, stage)
    if stage == "autoencoder":
        model = Autoencoder(config.autoencoder)
        trains = trained_names(model, decoder_only=job.decoder_only)
        counts = {True: 0, False: 0}
        for name, parameter in model.named_parameters():
            counts[name in trains] += parameter.numel()
        return {"autoencoder": counts[True]}, {"autoencoder": counts[False]}
    frozen = {"autoencoder": _count(Autoencoder(config.autoencoder).parameters())}
    if stage == "upsampler":
        trained = GuidedUpsampler(config.upsampler_widths, captions_of(()))
        return {"upsampler": _count(trained.parameters())}, frozen
    dit = DiT(config.dit)
    networks = {"dit": _count(dit.parameters()), **_text_count(job, config)}
    if stage == "base" and config.text is None:
        return {"dit": networks["dit"]}, {**frozen, "text": networks["text"]}
    if stage == "base":
        return networks, frozen
    if stage == "dc":
        return _concept_counts(job, config, dit), {**frozen, **networks}
    shapes = linear_shapes(dit)
    specs = adapter_specs(job.recipe, job.facts, "")
    return (
        {
            f"{spec.name} LoRA": sum(
                spec.rank * sum(shapes[n]) for n in find_targets(dit, spec.targets)
            )
            for spec in specs
        },
        {**frozen, **networks},
    )


def _concept_counts(job: TrainJob, config: NativeConfig, dit: DiT) -> dict[str, int]:
    """Return the sizes of the structured LoRA, which has two input sides, and of the tokens."""
    tags = count_tags(job)  # first, as it checks the recipe too
    shapes, rank = linear_shapes(dit), int(job.recipe.loss_as(ConceptLoss).rank)
    sides = [shapes[name] for name in find_targets(dit, job.facts.targets.dc)]
    counts = {"dc LoRA": sum(rank * (outputs + 2 * inputs) for outputs, inputs in sides)}
    return counts if config.text is None else {**counts, "tokens": tags * config.text.width}


def _text_count(job: TrainJob, config: NativeConfig) -> dict[str, int]:
    if config.text is None:
        source = job.text_encoder
        return {"text": (count_t5(source) if source else None) or 0}
    try:
        names = WorldStore(job.store).names["sprites"]
    except WeightsError:
        names = []  # a table without the subjects' names; the plan says that the store is missing
    words = captions_of(names)
    return {"text": _count(TextEncoder(config.text, WordTokenizer(words)).parameters())}


def _count(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _copies(job: TrainJob) -> int:
    """Return how often a trained number is kept: weight, both moments, and the average if any."""
    return 4 if job.recipe.optim.ema_decay else 3


def _memory_bytes(job: TrainJob, trained: dict[str, int], frozen: dict[str, int]) -> int:
    """Return roughly what a process needs at its peak.

    Args:
        job: The run.
        trained: Parameters by part; gradients are as large as they are.
        frozen: Those that stay as they are.
    """
    total = sum(trained.values())
    state = 4 * (_copies(job) + 1) * total
    resting = 4 * sum(frozen.values()) if job.facts.native else frozen_bytes(job)
    scale, processes = job.recipe.scale, job.processes
    if job.facts.native and scale.shard != "none" and processes.count > 1:
        among = processes.count if scale.shard == "full" else processes.local_count
        cut = trained if job.recipe.stage == "base" else frozen
        pieces = 4 * ((_copies(job) + 1) if cut is trained else 1) * cut["dit"]
        state, resting = state - pieces * (cut is trained), resting - pieces * (cut is frozen)
        # Two blocks are whole at a time, in the dtype of products, and the gradient of one.
        block = cut["dit"] // job.facts.native.dit.blocks
        resting += pieces // among + block * (2 * job.dtype.itemsize + 4)
    working = (_working_bytes(job, p) for phase in job.recipe.phases for p in _kinds(phase))
    return _LIBRARY_BYTES + state + resting + max(working)


def _working_bytes(job: TrainJob, phase: Phase) -> int:
    """Return roughly what a step needs beside the weights, at the phase's largest size."""
    height, width = max(phase.sizes, key=lambda size: size[0] * size[1])
    pixels = phase.batch * phase.frames * height * width
    if job.recipe.stage == "autoencoder":
        return 4 * _PIXEL_VALUES * pixels
    if job.recipe.stage == "upsampler":
        return CROP_BYTES * phase.batch + stock_bytes((height, width))
    facts = job.facts
    geometry = facts.geometry
    frames = (phase.frames - 1) // geometry.stride_T + 1
    places = frames * height * width // geometry.stride_HW**2
    # Concepts are single cells without a stock; their own latents are few.
    cells, sets = (1, 0) if job.recipe.stage == "dc" else (4, STOCK * VARIANTS)
    if isinstance(job.recipe.loss, GridsLoss) and job.recipe.loss.single_share == 1:
        cells = 1
    tokens = cells * phase.batch * places // (geometry.patch[1] * geometry.patch[2])
    stock = sets * places * facts.latent_channels * len(phase.sizes)
    if facts.native is None:
        return 4 * stock + working_bytes(job, tokens)
    config = facts.native
    block = tokens * _TOKEN_WIDTHS * config.dit.width
    kept = tokens * config.dit.blocks * config.dit.width
    match job.recipe.scale.checkpointing:
        case "none":
            held = block * config.dit.blocks
        case "attention":
            held = 2 * kept + block
        case _:
            held = kept + block
    encoding = _ENCODED_PLANES * config.autoencoder.base_channels * pixels // phase.batch
    return 4 * (stock + max(held, encoding))


def _missing(job: TrainJob) -> list[str]:
    lines = []
    try:
        if job.concepts is None and needs_world(job.recipe):
            WorldStore(job.store)
    except WeightsError as error:
        lines.append(error.message)
    lines += [f"{path}, from stage {stage}" for stage, path in missing_parts(job)]
    if source := job.text_encoder:
        fetched = ", which will be downloaded" if source.startswith("hf:") else ""
        lines += [f"{name} of the T5 in {source}{fetched}" for name in missing_t5_files(source)]
    if job.resume and read_step(job.loop.folder) is None:
        lines.append(f"{job.loop.folder / STATE_NAME}, to resume from")
    return lines


def _first_steps(job: TrainJob) -> list[tuple[int, Phase]]:
    """Return each phase with the step that it begins at."""
    ends = [0.0, *(phase.until for phase in job.recipe.phases)]
    # A step belongs to the first phase whose end lies beyond it.
    firsts = [-(-end * job.recipe.optim.steps // 1) for end in ends]
    return list(zip(map(int, firsts), job.recipe.phases, strict=False))


def _nearest_frames(frames: int, stride: int) -> str:
    low = (frames - 1) // stride * stride + 1
    return f"{low} and {low + stride}"


def _counts(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in parts.items()) or "nothing"
