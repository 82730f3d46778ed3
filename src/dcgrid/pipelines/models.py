"""Load the model of a job, fold its Grid-Fill adapter in, and say exactly what was loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

import torch

from dcgrid import hub
from dcgrid.adapters.find import find_adapter
from dcgrid.adapters.fold import attach_lora, fold_adapter, fold_lora
from dcgrid.adapters.foreign import is_foreign
from dcgrid.adapters.reading import LoadReport, check_use, hash_tensors
from dcgrid.adapters.spec import Stage
from dcgrid.errors import UsageError, WeightsError
from dcgrid.grid.modes import Mode
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone
from dcgrid.models.loading import (
    ADAPTER_NAMES,
    GRID_NAME,
    Placement,
    is_here,
    load_backbone,
    text_width,
    weight_digests,
    weight_files,
)
from dcgrid.models.native.config import PRESETS
from dcgrid.models.tags import check_width, read_tags
from dcgrid.pipelines.adapter_facts import use_adapter
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.lora import LoraChoice, lora_part, parse_lora
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.runtime.offload import check_offload


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedLora:
    """A LoRA that was folded into the base."""

    reference: str
    """Reference of its file."""
    strength: float
    """How much it counts."""
    sha256: str
    """Hash of its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that is ready to fill."""

    backbone: Backbone
    """The model, the adapter merged into it."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each weight file, by the part it holds."""
    adapter: str = "none"
    """Reference of the adapter."""
    adapter_sha256: str = ""
    """Hash of the adapter's file."""
    loras: tuple[LoadedLora, ...] = ()
    """What was folded into the base before it, in this order."""
    concepts_sha256: str = ""
    """Hash of the file of tags; empty: there is none."""
    tags: tuple[str, ...] = ()
    """Tags that prompts may name, without brackets."""
    processes: int = 1
    """How many compute it together."""

    @property
    def made_of(self) -> Sequence[object]:
        """What decides its numbers, for JSON: hashes of all files, strengths."""
        loras = [(one.sha256, one.strength) for one in self.loras]
        more = [one for one in (loras, self.concepts_sha256) if one]
        return [dict(self.weights), self.adapter_sha256, *more]


def adapter_reference(job: GridJob, mode: Mode) -> str:
    """Return the weight reference of the adapter that a job means; "none" for the bare base."""
    if job.adapter != "default":
        return job.adapter
    if (trained := trained_file(job.model, ADAPTER_NAMES[mode])) is not None:
        return trained
    # The model for tests has none, and a checkout only if somebody has published one.
    published = hub.default_adapter(job.model, mode)
    return "none" if published is None else published.reference


def bare_base_line(job: GridJob, mode: Mode) -> str:
    """Return what to expect of a grid that no adapter fills; empty if one does."""
    if job.model in PRESETS or adapter_reference(job, mode) != "none" or job.tag:
        return ""
    published = "asked for" if job.adapter == "none" else f"published for {job.model}"
    return (
        f"No Grid-Fill adapter is {published}: the bare base fills the grid, which keeps the "
        f"subject less well. To train one: dcgrid train --stage fill --model {quote(job.model)}"
    )


def fetch_model(job: GridJob, progress: Progress) -> None:
    """Download the base model of a job if it is not here; its licence is told.

    Raises:
        NetworkError: The download failed or the network is off.
        OutputError: The disk is too small.
        WeightsError: What came is not what the hub says.
    """
    if is_here(job.model):
        return
    source = hub.hub_model(job.model)
    progress.note(f"Licence of {source.name}: {source.license}, see huggingface.co/{source.repo}.")
    progress.start(f"downloading {job.model}", None, in_bytes=True)
    hub.fetch_model(
        job.model,
        offline=job.offline,
        report=lambda _, done, total: progress.update(done, total),
    )


def grid_reference(job: GridJob) -> str:
    """Return the weight reference of the model's Grid LoRA (consistent mode); "none": it has none.

    With `adapter` "none" the bare base is wanted here, too.
    """
    if job.adapter == "none":
        return "none"
    return trained_file(job.model, GRID_NAME) or "none"


def trained_file(model: str, part: str) -> str | None:
    """Return the reference of a native model's adapter file: in the package, or where it is.

    None: the model has none.
    """
    path = weight_files(model).get(part)
    if path is None:
        return None
    return f"package:{model}/{path.name}" if model in PRESETS else str(path)


def adapter_file(job: GridJob, mode: Mode) -> Path | None:
    """Return the adapter's file, downloaded if need be; None for the bare base.

    Raises:
        AdapterError: The file does not exist.
        NetworkError: The download failed or the network is off.
    """
    reference = adapter_reference(job, mode)
    if reference == "none":
        return None
    return find_adapter(reference, offline=job.offline, hint="; --adapter none is the bare base")


def load_model(
    job: GridJob,
    mode: Mode,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
    offload: str = "none",
    *,
    stage: Stage = "fill",
) -> LoadedModel:
    """Load the model and put LoRAs and the adapter on it: into the weights where they may change.

    Args:
        job: Says which model, LoRAs and adapter.
        mode: What its grid shows; adapters are trained for one.
        device: Where the model goes.
        dtype: Number format.
        progress: Told of the stage.
        offload: Where a checkout's weights are meanwhile; as planned, not as asked.
        stage: Which stage's adapter fills the grid.

    Raises:
        UsageError: A LoRA of another program cannot be put beside the weights.
        WeightsError: Weights are missing, damaged or of the wrong shape.
        AdapterError: The adapter or a LoRA is damaged, or for another model, mode or stage.
        NetworkError: A download failed or the network is off.
    """
    path, loras, concepts = adapter_file(job, mode), lora_files(job), _concepts_file(job)
    fetch_model(job, progress)
    progress.start("loading the model", 1)
    placement = Placement(
        offload=check_offload(offload),
        quantize=job.quantize,
        attention=job.attention,
        compiled=job.compile,
    )
    backbone = load_backbone(job.model, device=device, dtype=dtype, placement=placement)
    weights = weight_digests(job.model)
    # Adapters name the base that they were trained on, which LoRAs are about to change.
    base_sha256 = base_hash(backbone, weights) if path or loras else ""
    folded = _put_loras(backbone, loras, base_sha256, job.model, progress)
    if path is not None:
        report = _put_adapter(backbone, path, base_sha256)
        check_use(report.spec, path, stage, mode)
        progress.note(
            f"Adapter {path.name}: {report.matched} of {report.total} layers matched, "
            f"mean update {report.mean_delta:.2g}."
        )
    tags = () if concepts is None else _put_tags(backbone, concepts)
    return LoadedModel(
        backbone=backbone,
        weights=weights,
        adapter=adapter_reference(job, mode),
        adapter_sha256=hub.file_sha256(path) if path is not None else "",
        loras=folded,
        concepts_sha256="" if concepts is None else hub.file_sha256(concepts),
        tags=tags,
    )


def _concepts_file(job: GridJob) -> Path | None:
    """Return the job's file of tags, downloaded if need be; None: it has none."""
    return find_adapter(job.concepts, offline=job.offline) if job.concepts else None


def _put_tags(backbone: Backbone, path: Path) -> tuple[str, ...]:
    """Let the model know the tags of a file; return their names."""
    tags = read_tags(path)
    check_width(path, tags, text_width(backbone.spec.name))
    backbone.use_tags(tags)
    return tags.names


def enter_given(backbone: Backbone, grid: ResolvedGrid) -> None:
    """Let given cells enter as a grid's layout says; "trained" leaves it as it is.

    Raises:
        UsageError: They are to be noised on a model whose given cells read given cells alone.
    """
    if grid.given_as == "trained":
        return
    clean, first = grid.given_as == "clean", backbone.spec.given_first
    if first and not clean:
        raise UsageError(
            'given_as = "replace" does not go with an adapter that was trained with given_first',
            hint=f"leave it out of {grid.layout_file}",
        )
    backbone.use_given(clean=clean, first=first)


def base_hash(backbone: Backbone, weights: Mapping[str, str]) -> str:
    """Return the hash of a base that adapters name, before any is put on.

    Args:
        backbone: The model; a small one's tensors are hashed.
        weights: From `weight_digests`; a large one's files are.
    """
    return weights.get("transformer") or hash_tensors(backbone.network.state_dict())


def check_weights(model: LoadedModel, expected: Mapping[str, str]) -> None:
    """Compare the loaded files with those of a run that is to be repeated.

    Args:
        model: What was loaded.
        expected: SHA-256 by part; "adapter" stands for the adapter's file, `lora_part` for LoRAs.

    Raises:
        WeightsError: A file is another one or was not loaded.
    """
    loras = {lora_part(number): one.sha256 for number, one in enumerate(model.loras, 1)}
    found = {
        **model.weights,
        "adapter": model.adapter_sha256,
        "concepts": model.concepts_sha256,
        **loras,
    }
    other = [name for name, digest in expected.items() if found.get(name) != digest]
    if other:
        raise WeightsError(
            f"weights {other[0]} are not those of the manifest (their hash differs)",
            hint="install the version of dcgrid that the manifest names, or add --force",
        )


def lora_files(job: GridJob) -> list[tuple[LoraChoice, Path]]:
    """Return the LoRAs of a job with their files, downloaded if need be.

    Raises:
        UsageError: A strength is out of range.
        AdapterError: A file does not exist.
        NetworkError: A download failed or the network is off.
    """
    choices = [parse_lora(text) for text in job.loras]
    return [(one, find_adapter(one.reference, offline=job.offline)) for one in choices]


def check_loras(job: GridJob, offload: str) -> None:
    """Check before a model is loaded that the LoRAs that are here can be put on it.

    Raises:
        UsageError: One of another program cannot be put beside the weights.
        AdapterError: A file is damaged.
    """
    if offload != "disk" and job.quantize == "none":
        return
    for choice in map(parse_lora, job.loras):
        path = hub.locate_weights(choice.reference)
        if path is not None:
            _refuse_foreign(path, job.model)


def _refuse_foreign(path: Path, model: str) -> None:
    if is_foreign(path):
        raise UsageError(
            f"--lora {path}: a LoRA of another program goes into the weights, which stay as they "
            "are under --offload disk and --quantize",
            hint=f"first: dcgrid adapters import {quote(str(path))} "
            f"--base {quote(model)} --out {quote(path.stem)}.dcgrid.safetensors",
        )


def _put_loras(
    backbone: Backbone,
    loras: Sequence[tuple[LoraChoice, Path]],
    base_sha256: str,
    model: str,
    progress: Progress,
) -> tuple[LoadedLora, ...]:
    """Put LoRAs on the base, one after the other, and tell what each did.

    Args:
        backbone: The base.
        loras: What to put on it.
        base_sha256: Its hash, see `base_hash`.
        model: What the user calls it.
        progress: Told of each.

    Raises:
        UsageError: See `load_model`.
    """
    folded = []
    for choice, path in loras:
        put = fold_lora
        if not backbone.folds:
            _refuse_foreign(path, model)
            put = attach_lora
        report = put(
            backbone.network,
            path,
            base=backbone.spec.name,
            base_hash=base_sha256,
            strength=choice.strength,
        )
        progress.note(
            f"LoRA {path.name} ({report.naming}): all {report.matched} parts matched, "
            f"{report.scale}, mean update {report.mean_delta:.2g}, strength {choice.strength:g}."
        )
        folded.append(
            LoadedLora(
                reference=choice.reference,
                strength=choice.strength,
                sha256=hub.file_sha256(path),
            )
        )
    return tuple(folded)


def _put_adapter(backbone: Backbone, path: Path, base_sha256: str) -> LoadReport:
    name = backbone.spec.name
    if backbone.folds:
        report = fold_adapter(backbone.network, path, base=name, base_hash=base_sha256)
    else:
        # PEFT takes seconds to import, and is needed nowhere else.
        from dcgrid.adapters.files import load_adapter

        report = load_adapter(backbone.network, path, base=name, base_hash=base_sha256)
    use_adapter(backbone, report.spec)
    return report
