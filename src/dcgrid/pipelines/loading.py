"""Load the model of a job, put LoRAs and its adapter on it, and say exactly what was loaded.

What the files of adapters say of their training is read for plans, too; no numbers are read then.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TypeAlias

import torch

from dcgrid import hub
from dcgrid.adapters.find import find_adapter
from dcgrid.adapters.fold import attach_lora, fold_adapter, fold_lora
from dcgrid.adapters.foreign import assumed_scale, check_foreign_fit, is_foreign, read_foreign
from dcgrid.adapters.reading import (
    LoadReport,
    check_base,
    check_use,
    hash_tensors,
    read_sha256,
    read_spec,
)
from dcgrid.adapters.spec import AdapterSpec, Stage
from dcgrid.errors import AdapterError, UsageError, WeightsError
from dcgrid.grid.routing import Mode
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone, ModelSpec
from dcgrid.models.model import Model, Placement
from dcgrid.models.native.config import PRESETS
from dcgrid.models.tags import check_width, read_tags
from dcgrid.pipelines.job import GridJob, LoraChoice, lora_part, parse_lora
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.runtime.offload import Offload


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


def adapter_reference(job: GridJob, model: Model, mode: Mode) -> str:
    """Return the weight reference of the adapter that a job means; "none" for the bare base."""
    return model.adapter(mode) if job.adapter == "default" else job.adapter


def bare_base_line(job: GridJob, model: Model, mode: Mode) -> str:
    """Return what to expect of a grid that no adapter fills; empty if one does."""
    if model.in_package or adapter_reference(job, model, mode) != "none" or job.tag:
        return ""
    published = "asked for" if job.adapter == "none" else f"published for {model.name}"
    return (
        f"No Grid-Fill adapter is {published}: the bare base fills the grid, which keeps the "
        f"subject less well. To train one: dcgrid train --stage fill --model {quote(model.name)}"
    )


def fetch_model(model: Model, progress: Progress, *, offline: bool) -> Model:
    """Return a model once it is here; a download says its licence.

    Raises:
        NetworkError: The download failed or the network is off.
        OutputError: The disk is too small.
        WeightsError: What came is not what the hub says.
    """
    if model.is_here:
        return model
    spec = model.spec
    progress.note(f"Licence of {model.name}: {spec.license}, see huggingface.co/{spec.repo}.")
    progress.start(f"downloading {model.name}", None, in_bytes=True)
    return model.fetched(
        offline=offline, report=lambda _, done, total: progress.update(done, total)
    )


def grid_reference(job: GridJob, model: Model) -> str:
    """Return the weight reference of the model's Grid LoRA (consistent mode); "none": it has none.

    With `adapter` "none" the bare base is wanted here, too.
    """
    return "none" if job.adapter == "none" else model.grid_adapter()


def adapter_file(job: GridJob, model: Model, mode: Mode) -> Path | None:
    """Return the adapter's file, downloaded if need be; None for the bare base.

    Raises:
        AdapterError: The file does not exist.
        NetworkError: The download failed or the network is off.
    """
    reference = adapter_reference(job, model, mode)
    if reference == "none":
        return None
    return find_adapter(reference, offline=job.offline, hint="; --adapter none is the bare base")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """A model that is to be loaded, LoRAs and adapter included."""

    job: GridJob
    """Says which LoRAs and adapter, and how weights are stored."""
    model: Model
    """What they are put on; downloaded if need be."""
    mode: Mode
    """What its grid shows; adapters are trained for one."""
    stage: Stage = "fill"
    """Which stage's adapter fills the grid."""
    device: torch.device
    """Where the model goes."""
    dtype: torch.dtype
    """Number format."""
    offload: Offload = "none"
    """Where a checkout's weights are meanwhile; as planned."""


LoadFn: TypeAlias = Callable[[ModelRequest, Progress], "LoadedModel"]
"""Loads a model, or finds one that is loaded already; see `load_model`."""


def load_model(request: ModelRequest, progress: Progress) -> LoadedModel:
    """Load a model and put LoRAs and the adapter on it: into the weights where they may change.

    Raises:
        UsageError: A LoRA of another program cannot be put beside the weights.
        WeightsError: Weights are missing, damaged or of the wrong shape.
        AdapterError: The adapter or a LoRA is damaged, or for another model, mode or stage.
        NetworkError: A download failed or the network is off.
    """
    job, mode = request.job, request.mode
    path, loras = adapter_file(job, request.model, mode), lora_files(job)
    concepts = _concepts_file(job)
    model = fetch_model(request.model, progress, offline=job.offline)
    progress.start("loading the model", 1)
    placement = Placement(
        offload=request.offload,
        quantize=job.quantize,
        attention=job.attention,
        compiled=job.compile,
    )
    backbone = model.load(device=request.device, dtype=request.dtype, placement=placement)
    weights = model.digests()
    # Adapters name the base that they were trained on, which LoRAs are about to change.
    base_sha256 = base_hash(backbone, weights) if path or loras else ""
    folded = _put_loras(backbone, loras, base_sha256, model.name, progress)
    if path is not None:
        report = _put_adapter(backbone, path, base_sha256)
        check_use(report.spec, path, request.stage, mode)
        progress.note(
            f"Adapter {path.name}: {report.matched} of {report.total} layers matched, "
            f"mean update {report.mean_delta:.2g}."
        )
    tags = () if concepts is None else _put_tags(backbone, concepts, model.text_width)
    return LoadedModel(
        backbone=backbone,
        weights=weights,
        adapter=adapter_reference(job, model, mode),
        adapter_sha256=hub.file_sha256(path) if path is not None else "",
        loras=folded,
        concepts_sha256="" if concepts is None else hub.file_sha256(concepts),
        tags=tags,
    )


def _concepts_file(job: GridJob) -> Path | None:
    """Return the job's file of tags, downloaded if need be; None: it has none."""
    return find_adapter(job.concepts, offline=job.offline) if job.concepts else None


def _put_tags(backbone: Backbone, path: Path, text_width: int) -> tuple[str, ...]:
    """Let the model know the tags of a file; return their names."""
    tags = read_tags(path)
    check_width(path, tags, text_width)
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
        weights: From `Model.digests`; a large one's files are.
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


def check_loras(job: GridJob, model: Model, offload: str) -> None:
    """Check before a model is loaded that the LoRAs that are here can be put on it.

    Raises:
        UsageError: One of another program cannot be put beside the weights.
        AdapterError: A file is damaged, or does not fit the model.
    """
    found = [hub.locate_weights(choice.reference) for choice in map(parse_lora, job.loras)]
    foreign = [path for path in found if path is not None and is_foreign(path)]
    if foreign and (offload == "disk" or job.quantize != "none"):
        _refuse_foreign(foreign[0], job.model)
    shapes = model.parameter_shapes() if foreign else {}
    for path in foreign:
        check_foreign_fit(read_foreign(path), shapes)


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


def planned_adapter(
    reference: str, model: ModelSpec, mode: Mode, stage: Stage = "fill"
) -> AdapterSpec | None:
    """Return what the header of an adapter says, before anything is loaded.

    Args:
        reference: Its weight reference; "none" is the bare base.
        model: What it is put on.
        mode: What the grid shows.
        stage: Which stage's adapter fills it.

    Returns:
        None: there is no adapter, or its file has to be downloaded first.

    Raises:
        AdapterError: The file is damaged, is no adapter of this program, or is for another model,
            stage or mode.
    """
    path = None if reference == "none" else hub.locate_weights(reference)
    if path is None:
        return None
    spec = read_spec(path)
    if spec is None:
        raise AdapterError(
            f"{path} is not an adapter that dcgrid wrote",
            hint=f"a LoRA of another program goes under the adapter: --lora {quote(str(path))}",
        )
    check_use(spec, path, stage, mode)
    _check_model(spec, path, model)
    return spec


def _check_model(adapter: AdapterSpec, path: Path, model: ModelSpec) -> None:
    """Refuse an adapter for another of our own models; of checkouts the hashes decide, at loading.

    Raises:
        AdapterError: It is one.
    """
    if model.name in PRESETS:
        check_base(adapter, path, model.name, "")


def use_adapter(backbone: Backbone, adapter: AdapterSpec) -> None:
    """Let a backbone and its samplers do what an adapter that was put on was trained for."""
    backbone.use_given(clean=adapter.given == "clean", first=adapter.given_first)
    shift = adapter.inference_time_shift
    backbone.use_sampling(
        noise_scale=adapter.sampled_noise_scale,
        time_shift=backbone.spec.time_shift if shift is None else shift,
        self_conditioning=adapter.self_conditioning,
    )


def adapter_lines(
    spec: ModelSpec,
    adapters: Sequence[AdapterSpec],
    grids: Sequence[ResolvedGrid],
    loras: Sequence[str],
) -> list[str]:
    """Return what is unusual in the numbers that grids are sampled with, a sentence a line.

    Args:
        spec: The model.
        adapters: Those that fill the grids, the Grid-Fill adapter first.
        grids: What is filled; recipes may override an adapter's numbers.
        loras: The job's, as `parse_lora` reads them.
    """
    lines = [line for one in adapters if (line := _sampling_line(spec, one))]
    scale = adapters[0].sampled_noise_scale if adapters else spec.noise_scale
    owner = f"adapter {adapters[0].name}" if adapters else spec.name
    for asked in dict.fromkeys(grid.noise_scale for grid in grids):
        if asked is not None and asked != scale:
            lines.append(f"Noise scale: {asked:g} from the recipe; {owner} has {scale:g}.")
    for given_as in dict.fromkeys(grid.given_as for grid in grids):
        if adapters and given_as not in ("trained", adapters[0].given):
            lines.append(
                f'Given cells: "{given_as}" from the layout; {owner} was trained with '
                f'"{adapters[0].given}".'
            )
    for choice in map(parse_lora, loras):
        path = hub.locate_weights(choice.reference)
        lora = None if path is None else read_spec(path)
        if path is not None and lora is not None:
            _check_model(lora, path, spec)
        if path is not None and lora is None and (assumed := assumed_scale(path)):
            lines.append(f"LoRA {path.name}: scale 1 is {assumed}.")
        if lora is not None and lora.sampled_noise_scale != scale:
            lines.append(
                f"LoRA {lora.name} is for noise scale {lora.sampled_noise_scale:g}; {owner} has "
                f"{scale:g}, which is used."
            )
    return lines


def multi_dc_lines(reference: str, adapter: AdapterSpec | None, loras: Sequence[str]) -> list[str]:
    """Return what becomes of the Multi-DC LoRA that an adapter was trained on; empty: on none.

    It is left away unless a `--lora` names it, at the strength that stands there.

    Args:
        reference: The adapter's weight reference; its Multi-DC LoRA may stand beside it.
        adapter: What the adapter's header says.
        loras: The job's, as `parse_lora` reads them.

    Paper: sec. 3.2, Table 1
    """
    if adapter is None or not adapter.dc_strength:
        return []
    trained = f"adapter {adapter.name} was trained on it at {adapter.dc_strength:g}"
    for choice in map(parse_lora, loras):
        path = hub.locate_weights(choice.reference)
        lora = None if path is None else read_spec(path)
        if path is not None and lora is not None and lora.stage == "dc":
            other = "" if read_sha256(path) == adapter.dc_sha256 else "; this is another one"
            return [f"Multi-DC: kept at {choice.strength:g}; {trained}{other}."]
    own = hub.locate_weights(reference)
    beside = None if own is None else own.parent / "dc.safetensors"
    known = beside is not None and beside.is_file() and read_sha256(beside) == adapter.dc_sha256
    file = quote(str(beside)) if known else "FILE"
    return [f"Multi-DC: left away; {trained}. To keep it: --lora {file}:{adapter.dc_strength:g}"]


def _sampling_line(spec: ModelSpec, adapter: AdapterSpec) -> str:
    """Return an adapter's numbers if they are not the model's, else nothing."""
    scale, shift = adapter.sampled_noise_scale, adapter.inference_time_shift
    parts = []
    if not scale == adapter.noise_scale == spec.noise_scale:
        parts.append(f"noise scale {scale:g} ({adapter.noise_scale:g} in training)")
    if shift is not None and shift != spec.time_shift:
        parts.append(f"time shift {shift:g}")
    return f"Adapter {adapter.name}: sampled with {', '.join(parts)}." if parts else ""
