"""A run whose names, texts and files have been checked; model and videos were not looked at yet.

No torch here. plan.py and story_plan.py go on from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.manifest import Manifest, PixelKey
from dcgrid.pipelines.outputs import OutputPaths, name_outputs
from dcgrid.pipelines.resolve import ResolvedGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a checked run and a checked story have in common: files, and what must come out."""

    job: GridJob
    """What was asked."""
    outputs: OutputPaths
    """Files that will be written."""
    expected_frames: Mapping[PixelKey, str] = field(default_factory=dict)
    """Hash of pixels that must come out, by edit or scene, cell and seed; empty: anything may."""
    expected_weights: Mapping[str, str] = field(default_factory=dict)
    """Hash that each weight file must have, by the part it holds; empty: any."""
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

    def named(self, number: int) -> OutputPaths:
        """Return the files by another number; see `name_outputs`."""
        raise NotImplementedError

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun(Prepared):
    """A job whose names, texts and files have been checked."""

    grid: ResolvedGrid
    """Edits, text, cells."""

    def named(self, number: int) -> OutputPaths:
        """Return the files by another number; see `name_outputs`."""
        tries = count_tries(self.job, self.grid)
        return name_outputs(self.job, self.grid.names, tries, self.job.tag + self.tag, number)


def count_tries(job: GridJob, grid: ResolvedGrid) -> list[int]:
    """Return for each edit how many cells show it, of all candidates together."""
    return [len(cells) * job.candidates for cells in grid.tries]
