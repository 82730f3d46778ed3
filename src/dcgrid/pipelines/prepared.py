"""A job whose names, texts and files have been checked, in milliseconds: no torch, no video.

plan.py goes on from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcgrid.pipelines.job import GridJob, check_input
from dcgrid.pipelines.manifest import Manifest, PixelKey
from dcgrid.pipelines.outputs import OutputPaths, name_outputs
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.script import resolve_grids


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job whose names, texts and files have been checked; model and videos were not looked at."""

    job: GridJob
    """What was asked."""
    grids: tuple[ResolvedGrid, ...]
    """Edits, text and cells of each grid, in order; all but stories have one."""
    outputs: OutputPaths
    """Files that will be written."""
    expected_frames: Mapping[PixelKey, str] = field(default_factory=dict)
    """Hash of pixels that must come out, by edit or scene, cell and seed; empty: anything may."""
    expected_reel: str = ""
    """Hash of the reel's pixels that must come out; empty: any."""
    expected_weights: Mapping[str, str] = field(default_factory=dict)
    """Hash that each weight file must have, by the part it holds; empty: any."""
    expected_adapters: Mapping[str, str] = field(default_factory=dict)
    """Hash that each adapter must have, by its reference."""
    threads: int = 0
    """CPU threads to use; 0: torch's own choice."""
    inputs_sha256: tuple[str, ...] = ()
    """Hash of each input, if it was needed already."""
    tag: str = ""
    """Goes behind the names of edits in the names of files."""
    names_remark: str = ""
    """What has taken the names that the files would have; empty: nothing."""
    earlier: Manifest | None = None
    """The manifest of the run that has made these very results already; None: there is none."""

    @property
    def grid(self) -> ResolvedGrid:
        """The first grid."""
        return self.grids[0]

    @property
    def names(self) -> list[str]:
        """Names of all edits or scenes, in order."""
        return [name for grid in self.grids for name in grid.names]

    def file_lines(self) -> list[str]:
        """Return what becomes of the files, a sentence each."""
        names = ", ".join(path.name for path in self.outputs.all())
        if self.earlier is not None:
            return [
                f"Already there, same settings: {names}. Nothing is generated; --force makes them "
                "again."
            ]
        if self.names_remark:
            return [f"{self.names_remark}.", f"Files: {names}; --force replaces the earlier ones."]
        replaced = ", ".join(path.name for path in self.outputs.existing())
        return [f"Files: {names}.", *([f"Replaces: {replaced}."] if replaced else [])]

    def files_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        there = self.earlier is not None
        replaced = () if there else self.outputs.existing()
        return {
            "outputs": [str(path.absolute()) for path in self.outputs.all()],
            "already_there": there,
            "replaces": [str(path.absolute()) for path in replaced],
            "names_remark": self.names_remark,
        }


def prepare_run(job: GridJob, recipe_dir: Path | None = None) -> Prepared:
    """Check a job as far as that goes in milliseconds: inputs, recipes, text, output files.

    Args:
        job: What was asked.
        recipe_dir: The user's own recipes.

    Raises:
        InputVideoError: An input is missing or unreadable.
        UsageError: The job contradicts itself.
        RecipeError: An effect or the layout is unknown or wrong.
        PromptError: The prompt cannot be rendered.
        OutputError: A result cannot be written where it should go.
    """
    for path in job.inputs:
        check_input(path)
    grids = resolve_grids(job, recipe_dir)
    return Prepared(job=job, grids=grids, outputs=name_files(job, grids, job.tag))


def name_files(
    job: GridJob, grids: Sequence[ResolvedGrid], tag: str, number: int = 1
) -> OutputPaths:
    """Return the files of a job, which are there already or can be written; see `name_outputs`."""
    names = [name for grid in grids for name in grid.names]
    tries = [len(cells) * job.candidates for grid in grids for cells in grid.tries]
    return name_outputs(job, names, tries, tag, number)
