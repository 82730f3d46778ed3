"""`dcgrid rerun`: the same pixels again, from a run manifest alone.

Text and sampler values come from the manifest, so a recipe that has changed since does not matter;
input and weights must be what they were.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from dcgrid import hub
from dcgrid.errors import InputVideoError, UsageError
from dcgrid.pipelines.job import check_input, with_inputs
from dcgrid.pipelines.manifest import RunManifest, read_manifest
from dcgrid.pipelines.outputs import name_outputs
from dcgrid.pipelines.plan import PreparedRun

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


def prepare_rerun(rerun: RerunJob) -> tuple[PreparedRun, RunManifest]:
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
    for source, digest in zip(sources, manifest.inputs_sha256, strict=True):
        check_input(source)
        if not rerun.force and hub.file_sha256(source) != digest:
            raise InputVideoError(
                f"{source} is not the file that {rerun.manifest} was made from (its hash differs)",
                hint="find the original, name it with --input, or add --force to go on with it",
            )
    job = replace(
        with_inputs(manifest.job, sources),
        out=rerun.out or rerun.manifest.parent,
        force=rerun.force,
        offline=rerun.offline,
        device=rerun.device or manifest.machine["device"],
        dtype=manifest.machine["dtype"],
    )
    grid = manifest.grid
    outputs = name_outputs(
        job,
        grid.names,
        [len(cells) for cells in grid.tries],
        TAG,
    )
    prepared = PreparedRun(
        job=job,
        grid=grid,
        outputs=outputs,
        expected_frames={(one.edit, one.cell): one.frames_sha256 for one in manifest.outputs},
        expected_weights=_weights(manifest),
        threads=manifest.machine["threads"],
    )
    return prepared, manifest


def _find_inputs(rerun: RerunJob, manifest: RunManifest) -> tuple[Path, ...]:
    recorded = manifest.job.inputs
    if rerun.inputs:
        if len(rerun.inputs) != len(recorded):
            raise UsageError(
                f"--input is given {len(rerun.inputs)} times, the run had {len(recorded)} inputs",
                hint="name each of them once, in their order",
            )
        return rerun.inputs
    beside = [rerun.manifest.parent / path.name for path in recorded]
    return tuple(
        near if not path.exists() and near.exists() else path
        for path, near in zip(recorded, beside, strict=True)
    )


def _weights(manifest: RunManifest) -> dict[str, str]:
    adapter = {"adapter": str(manifest.model.get("adapter_sha256", ""))}
    return {**manifest.model["weights"], **adapter}
