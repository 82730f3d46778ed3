"""Results that are there already: the same settings are not run twice, others get other names.

    names free                                      -> they are taken
    manifest there, same settings, files untouched  -> the earlier run is the result
    anything else under these names                 -> -2, -3, ... are looked at in the same way

Settings are compared as resolved: `--num-inference-steps 1` and a model whose usual number that is
are the same. Input, weights and every file are compared by hash.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcgrid import __version__, hub
from dcgrid.errors import InputVideoError
from dcgrid.pipelines.job import GridJob, parse_lora
from dcgrid.pipelines.manifest import Manifest, read_manifest
from dcgrid.pipelines.outputs import OutputPaths
from dcgrid.pipelines.resolve import ResolvedGrid

if TYPE_CHECKING:
    from dcgrid.models.model import Model
    from dcgrid.pipelines.prepared import Prepared
    from dcgrid.video.clip import ClipPlan

NO_SETTINGS = frozenset(
    {
        *(
            "out",
            "force",
            "offline",
            "name",
            "folder",
            "origins",
        ),  # where results go, what may happen
        *("input", "first", "second", "source"),  # compared by hash
        *("model", "adapter", "loras", "concepts"),
        *("device", "dtype", "offload"),  # compared as resolved: machine
        *("start_s", "concept_start_s", "duration_s", "cell_size"),  # part of the clip
        *("effects", "prompt", "prompts", "subject", "motion", "concept", "concept_motion"),  # text
        *("layout", "num_inference_steps", "guidance_scale"),
    }
)
"""Fields of jobs that decide nothing, or that are compared in another form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a plan has settled, to be compared with manifests."""

    job: GridJob
    """What was asked."""
    model: "Model"
    """What generates."""
    grids: Sequence[ResolvedGrid]
    """What is generated, sampler values settled."""
    clips: Sequence["ClipPlan"]
    """What of each input is used."""
    machine: tuple[str, str, str]
    """Device, number format and offload."""
    adapters: tuple[str, ...]
    """References of the adapters; "none" is none."""


def settle_names(
    prepared: "Prepared", settled: Settled, named: Callable[[int], OutputPaths]
) -> "Prepared":
    """Return the run with names that are free, or with the earlier run that made its results.

    Nothing is reserved: `outputs.claimed` does that.

    Args:
        prepared: The run.
        settled: What its plan has settled.
        named: Returns its files by a number; see `name_outputs`.
    """
    if prepared.job.force:
        return prepared
    remark = ""
    for number in count(1):
        outputs = named(number)
        existing = outputs.existing()
        if not existing:
            return replace(prepared, outputs=outputs, names_remark=remark)
        earlier, reason = None, "not results of an earlier run"
        if outputs.manifest in existing:
            prepared, earlier, reason = _compared(prepared, settled, outputs)
        if earlier is not None:
            return replace(prepared, outputs=outputs, earlier=earlier)
        names = ", ".join(path.name for path in existing)
        remark = remark or f"There already, {reason}: {names}"
    raise AssertionError("numbers do not end")


def _compared(
    prepared: "Prepared", settled: Settled, outputs: OutputPaths
) -> tuple["Prepared", Manifest | None, str]:
    """Compare a run with the manifest that has its name.

    Returns:
        The run, with the hashes of its inputs if they were needed; the manifest if it is the same
        run; why it is not.
    """
    try:
        manifest = read_manifest(outputs.manifest)
    except InputVideoError:
        return prepared, None, "not results of an earlier run"
    if manifest.versions.get("dcgrid") != __version__:
        return prepared, None, "made by another version of dcgrid"
    other = _other_settings(settled, manifest)
    if other:
        return prepared, None, f"made with other settings ({', '.join(other)})"
    if not prepared.inputs_sha256:
        digests = tuple(hub.file_sha256(path) for path in prepared.job.inputs)
        prepared = replace(prepared, inputs_sha256=digests)
    if prepared.inputs_sha256 != manifest.inputs_sha256:
        return prepared, None, "made from another input"
    if _weights(settled) != _manifest_weights(manifest):
        return prepared, None, "made with other weights"
    if prepared.expected_frames and manifest.frames_sha256 != prepared.expected_frames:
        return prepared, None, "with other pixels"
    if not _files_are_whole(outputs, manifest):
        return prepared, None, "changed since they were written"
    return prepared, manifest, ""


def _other_settings(settled: Settled, manifest: Manifest) -> list[str]:
    """Return what differs, in the words of the options."""
    if manifest.command != settled.job.command:
        return [f"dcgrid {manifest.command}"]
    asked, earlier = _settings(settled.job), _settings(manifest.job)
    other = [
        f"--{name.removesuffix('_s').replace('_', '-')}"
        for name, value in asked.items()
        if value != earlier.get(name)
    ]
    texts, sampled = _text_and_sampling(settled.grids), _text_and_sampling(manifest.all_grids)
    other += ["text"] if texts[0] != sampled[0] else []
    other += ["steps or guidance"] if texts[1] != sampled[1] else []
    ran_on = manifest.machine
    machine = (ran_on.device, ran_on.dtype, ran_on.offload)
    other += ["device or dtype"] if machine != settled.machine else []
    return other + ([] if _same_part(settled, manifest) else ["part of the clip"])


def _settings(job: GridJob) -> dict[str, Any]:
    names = (field.name for field in fields(job))
    return {name: getattr(job, name) for name in names if name not in NO_SETTINGS}


def _text_and_sampling(grids: Sequence[ResolvedGrid]) -> tuple[list[object], list[object]]:
    """Return what grids say and how they are sampled; which file a recipe was in is no matter."""
    texts: list[object] = []
    sampled: list[object] = []
    for grid in grids:
        named = [(edit.name, edit.clause, edit.negative) for edit in grid.edits]
        texts.append((grid.mode, grid.prompt, named, grid.rows, grid.cols, grid.edit_of_cell))
        plain = (replace(edit, name="", clause="", negative="") for edit in grid.edits)
        values = [replace(edit, recipe="", recipe_sha256="") for edit in plain]
        sampled.append((grid.given_as, values))
    return texts, sampled


def _same_part(settled: Settled, manifest: Manifest) -> bool:
    """Compare which part of each input is used, and the size of cells: asked alike, or alike."""
    asked, earlier = settled.job, manifest.job
    alike = ("starts_s", "duration_s", "cell_size")
    if all(getattr(asked, name) == getattr(earlier, name) for name in alike):
        return True
    used = [(c.num_frames, c.fps, tuple(c.cell_size), c.start_s) for c in settled.clips]
    before = [
        (one["frames"], one["fps"], one["cell_size"], one["start_s"]) for one in manifest.clips
    ]
    return bool(used) and used == before


def _weights(settled: Settled) -> dict[str, object] | None:
    """Return the hashes of all weights that a run would load; None: some are not here."""
    job, loras = settled.job, [parse_lora(text) for text in settled.job.loras]
    if not settled.model.is_here:
        return None
    named = {"none", ""}
    references = [*settled.adapters, *(one.reference for one in loras), job.concepts]
    paths = {one: hub.locate_weights(one) for one in references if one not in named}
    if None in paths.values():
        return None
    digests = {one: hub.file_sha256(path) for one, path in paths.items() if path is not None}
    return {
        "model": settled.model.digests(),
        "adapters": {digests.get(one, "") for one in settled.adapters},
        "loras": [(digests[one.reference], one.strength) for one in loras],
        "concepts": digests.get(job.concepts, ""),
    }


def _manifest_weights(manifest: Manifest) -> dict[str, object]:
    model = manifest.model
    alone = {str(model.get("adapter_sha256", ""))}
    adapters = set(model["adapters"].values()) if "adapters" in model else alone
    loras = [(one["sha256"], one.get("strength")) for one in model.get("loras", ())]
    return {
        "model": dict(model["weights"]),
        "adapters": adapters,
        "loras": loras,
        "concepts": str(model.get("concepts_sha256", "")),
    }


def _files_are_whole(outputs: OutputPaths, manifest: Manifest) -> bool:
    """Return True if every file of the earlier run is there, as it was written."""
    folder = outputs.manifest.parent
    videos = {path.name for group in outputs.videos for path in group}
    pictures = {path.name for path in (outputs.reel, outputs.sheet, outputs.grid) if path}
    written = {one.path: one.file_sha256 for one in manifest.outputs}
    if set(written) != videos or set(manifest.files_sha256) != pictures:
        return False
    digests = {**written, **manifest.files_sha256}
    return all(_digest(folder / name) == digest for name, digest in digests.items())


def _digest(path: Path) -> str | None:
    try:
        return hub.file_sha256(path)
    except OSError:
        return None
