"""`dcgrid rerun`: the same pixels again, from the manifest of a run or of a story alone.

Text and sampler values come from the manifest, so a recipe that has changed since does not matter;
input and weights must be what they were.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dcgrid import hub
from dcgrid.errors import InputVideoError, UsageError
from dcgrid.io.progress import counted
from dcgrid.pipelines.job import GridJob, check_input, lora_part, parse_lora
from dcgrid.pipelines.manifest import Manifest, StoryManifest, read_manifest
from dcgrid.pipelines.prepared import Prepared, name_files
from dcgrid.pipelines.resolve import ResolvedGrid

AnyJob = TypeVar("AnyJob", bound=GridJob)

TAG = ".rerun"
"""Goes into the names of a rerun's files, so that it never meets those of the first run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunJob:
    """One run of `dcgrid rerun`."""

    manifest: Path
    """The manifest of the run to repeat."""
    inputs: tuple[Path, ...] = ()
    """Where the inputs are now, in their order; empty: where they were, or beside the manifest."""
    out: Path | None = None
    """Folder, or file name for a single result; None: beside the manifest."""
    device: str = ""
    """Device to run on; empty: the first run's."""
    force: bool = False
    """True: go on where input, weights or pixels differ, and replace files."""
    offline: bool = False
    """True: nothing is downloaded."""


def prepare_rerun(rerun: RerunJob) -> tuple[Prepared, Manifest]:
    """Turn a manifest back into a checked job.

    Args:
        rerun: What was asked.

    Returns:
        The job, to go on with at `plan_run`, and the manifest.

    Raises:
        InputVideoError: The manifest is damaged, or an input is missing or has changed.
        UsageError: Another number of inputs is named than the run had.
        OutputError: A result cannot be written.
    """
    manifest = read_manifest(rerun.manifest)
    sources = _find_inputs(rerun, manifest)
    digests = _checked_inputs(rerun, manifest, sources)
    job, model = _job_again(manifest.job, rerun, manifest, sources), manifest.model
    grids = tuple(map(_as_sampled, manifest.all_grids, manifest.all_samplers))
    weights = {
        **model["weights"],
        "concepts": str(model.get("concepts_sha256", "")),
        **_lora_hashes(manifest),
    }
    # A story may have an adapter more, for grids without a given cell.
    several = model.get("adapters")
    if several is None:
        weights["adapter"] = str(model.get("adapter_sha256", ""))
    prepared = Prepared(
        job=job,
        grids=grids,
        outputs=name_files(job, grids, job.tag + TAG),
        expected_frames=manifest.frames_sha256,
        expected_reel=manifest.reel_sha256 if isinstance(manifest, StoryManifest) else "",
        expected_weights=weights,
        expected_adapters={
            _moved_reference(reference, rerun, manifest): digest
            for reference, digest in (several or {}).items()
        },
        threads=manifest.machine.threads,
        inputs_sha256=digests,
        tag=TAG,
    )
    return prepared, manifest


def _as_sampled(grid: ResolvedGrid, sampler: Mapping[str, Any]) -> ResolvedGrid:
    """Return a grid that is sampled at the noise scale of the first run.

    Where no recipe named one it was the model's, in versions that did not ask the adapter.
    """
    scale = sampler.get("noise_scale")
    if grid.noise_scale is not None or not isinstance(scale, int | float):
        return grid
    first, *others = grid.edits
    return replace(grid, edits=(replace(first, noise_scale=float(scale)), *others))


def _lora_hashes(manifest: Manifest) -> dict[str, str]:
    """Return the hash that each LoRA's file must have, by its name among the weights."""
    loras = manifest.model.get("loras", ())
    return {lora_part(number): one["sha256"] for number, one in enumerate(loras, 1)}


def _job_again(job: AnyJob, rerun: RerunJob, manifest: Manifest, sources: Sequence[Path]) -> AnyJob:
    """Return the first run's job for the inputs, the folder and the machine of the rerun."""
    loras = (parse_lora(text) for text in job.loras)

    def moved(reference: str) -> str:
        return _moved_reference(reference, rerun, manifest)

    return replace(
        job.with_inputs(sources),
        model=moved(job.model) if Path(job.model).is_absolute() else job.model,
        adapter=moved(job.adapter),
        loras=tuple(str(replace(one, reference=moved(one.reference))) for one in loras),
        concepts=moved(job.concepts) if job.concepts else "",
        out=rerun.out or rerun.manifest.parent,
        force=rerun.force,
        offline=rerun.offline,
        device=rerun.device or manifest.machine.device,
        dtype=manifest.machine.dtype,
        # An adapter beside the weights is rounded otherwise than one in them.
        offload=manifest.machine.offload,
        # Kernels differ in the last bits.
        attention=manifest.machine.attention,
    )


def _checked_inputs(
    rerun: RerunJob, manifest: Manifest, sources: Sequence[Path]
) -> tuple[str, ...]:
    """Check that the inputs are the first run's files; return their hashes."""
    digests = []
    for source, digest in zip(sources, manifest.inputs_sha256, strict=True):
        check_input(source)
        digests.append(hub.file_sha256(source))
        if not rerun.force and digests[-1] != digest:
            raise InputVideoError(
                f"{source} is not the file that {rerun.manifest} was made from (its hash differs)",
                hint="find the original, name it with --input, or add --force to go on with it",
            )
    return tuple(digests)


def _find_inputs(rerun: RerunJob, manifest: Manifest) -> tuple[Path, ...]:
    recorded = manifest.job.inputs
    if rerun.inputs:
        if len(rerun.inputs) != len(recorded):
            raise UsageError(
                f"--input is given {counted(len(rerun.inputs), 'time')}, the run had "
                f"{counted(len(recorded), 'input')}",
                hint="name each of them once, in their order",
            )
        return rerun.inputs
    found = zip(recorded, manifest.inputs_sha256, strict=True)
    return tuple(_moved_input(path, digest, rerun, manifest) for path, digest in found)


def _moved_input(path: Path, digest: str, rerun: RerunJob, manifest: Manifest) -> Path:
    """Return where an input is now: where it was, as far from the manifest, or beside it.

    A file that has another content only takes part if there is no other.
    """
    places = (path, _moved(path, rerun, manifest), rerun.manifest.parent / path.name)
    there = [one for one in dict.fromkeys(places) if one.is_file()]
    if len(there) < 2:
        return there[0] if there else path
    return next((one for one in there if hub.file_sha256(one) == digest), there[0])


def _moved_reference(reference: str, rerun: RerunJob, manifest: Manifest) -> str:
    """Return the reference of weights, or of a folder, that moved together with the manifest."""
    path = Path(reference)
    if not path.is_absolute() or path.exists():
        return reference
    moved = _moved(path, rerun, manifest)
    return str(moved) if moved.exists() else reference


def _moved(path: Path, rerun: RerunJob, manifest: Manifest) -> Path:
    """Return the place that is as far from the manifest as a recorded one was."""
    if not manifest.folder:
        return path
    return (rerun.manifest.parent / os.path.relpath(path, manifest.folder)).resolve()
