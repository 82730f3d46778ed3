"""`dcgrid rerun`: the same pixels again, from a run manifest alone.

Text and sampler values come from the manifest, so a recipe that has changed since does not matter;
input and weights must be what they were.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from dcgrid import hub
from dcgrid.errors import InputVideoError
from dcgrid.pipelines.job import check_input
from dcgrid.pipelines.manifest import RunManifest, read_manifest
from dcgrid.pipelines.outputs import name_outputs
from dcgrid.pipelines.plan import PreparedEdit

TAG = ".rerun"
"""Goes into the names of a rerun's files, so that it never meets those of the first run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunJob:
    """One run of `dcgrid rerun`."""

    manifest: Path
    """The manifest of the run to repeat."""
    input: Path | None = None
    """Where the input is now; None: where it was, or beside the manifest."""
    out: Path | None = None
    """Folder, or file name for a single result; None: beside the manifest."""
    device: str = ""
    """Device to run on; empty: the first run's."""
    force: bool = False
    """True: go on where input, weights or pixels differ, and replace files."""
    offline: bool = False
    """True: nothing is downloaded."""


def prepare_rerun(rerun: RerunJob) -> tuple[PreparedEdit, RunManifest]:
    """Turn a manifest back into a checked job.

    Args:
        rerun: What was asked.

    Returns:
        The job, to go on with at `plan_edit`, and the manifest.

    Raises:
        InputVideoError: The manifest is damaged, or the input is missing or has changed.
        OutputError: A result cannot be written.
    """
    manifest = read_manifest(rerun.manifest)
    source = _find_input(rerun, manifest)
    check_input(source)
    if not rerun.force and hub.file_sha256(source) != manifest.input_sha256:
        raise InputVideoError(
            f"{source} is not the file that {rerun.manifest} was made from (its hash differs)",
            hint="find the original, name it with --input, or add --force to go on with this one",
        )
    job = replace(
        manifest.job,
        input=source,
        out=rerun.out or rerun.manifest.parent,
        force=rerun.force,
        offline=rerun.offline,
        device=rerun.device or manifest.machine["device"],
        dtype=manifest.machine["dtype"],
    )
    grid = manifest.grid
    outputs = name_outputs(
        job,
        [edit.name for edit in grid.edits],
        [len(cells) for cells in grid.tries],
        TAG,
    )
    prepared = PreparedEdit(
        job=job,
        grid=grid,
        outputs=outputs,
        expected_frames={(one.edit, one.cell): one.frames_sha256 for one in manifest.outputs},
        expected_weights=_weights(manifest),
        threads=manifest.machine["threads"],
    )
    return prepared, manifest


def _find_input(rerun: RerunJob, manifest: RunManifest) -> Path:
    if rerun.input is not None:
        return rerun.input
    recorded = manifest.job.input
    beside = rerun.manifest.parent / recorded.name
    return beside if not recorded.exists() and beside.exists() else recorded


def _weights(manifest: RunManifest) -> dict[str, str]:
    adapter = {"adapter": str(manifest.model.get("adapter_sha256", ""))}
    return {**manifest.model["weights"], **adapter}
