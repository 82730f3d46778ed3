"""`--concepts`: the tags of a Multi-DC LoRA that prompts may name, found and checked in the plan.

    dcgrid edit cat.mp4 --subject "a cat [Cat_identity]" --effect rain --lora runs/dc.safetensors

The file is the one that stage dc writes beside its LoRA. Where prompts name tags and no file is
named, it is looked for beside the LoRAs and the adapter of the job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from shlex import quote
from typing import Any

from dcgrid import hub
from dcgrid.adapters.find import require_file
from dcgrid.adapters.reading import read_spec
from dcgrid.models.loading import text_width
from dcgrid.models.tags import TOKENS_NAME, check_width, read_tags
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.lora import parse_lora
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.prompts.tags import check_tags, named_tags

_HINT = (
    f"--concepts FILE, the {TOKENS_NAME} of a trained Multi-DC LoRA, or write it without brackets"
)
_SHOWN = 6
"""Tags that a plan names; the rest are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """The tags of a job."""

    reference: str = ""
    """Reference of their file; empty: no tag is known."""
    names: tuple[str, ...] = ()
    """Tags without brackets; empty: none, or the file has to be downloaded first."""
    remark: str = ""
    """What to expect of tags that nothing here was trained with; empty: something was."""

    def lines(self) -> list[str]:
        """Return the tags of a plan as sentences; nothing where there are none."""
        if not self.reference:
            return []
        if not self.names:
            return [f"Concepts: {self.reference}; its tags are checked once it is downloaded."]
        listed = ", ".join(f"[{name}]" for name in self.names[:_SHOWN])
        more = f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        known = f"Concepts: {self.reference} knows the tags {listed}{more}."
        return [known, *([f"Warning: {self.remark}"] if self.remark else [])]

    def as_json(self) -> dict[str, Any]:
        """Return the tags for programs."""
        return {"file": self.reference, "tags": list(self.names), "warning": self.remark}


def plan_concepts(
    job: GridJob, grids: Sequence[ResolvedGrid], adapters: Sequence[str], *, repeats: bool = False
) -> Concepts:
    """Find the tags of a job and check that its prompts name no others.

    Args:
        job: Names the file, or LoRAs beside which it may be.
        grids: What is generated.
        adapters: References of the Grid-Fill and Grid adapters; "none" is none.
        repeats: True: a run is repeated, whose texts are read as they were.

    Raises:
        AdapterError: The file does not exist, or an adapter is damaged.
        WeightsError: The file is damaged, holds no tags, or tags for another text encoder.
        PromptError: A prompt names a tag that is not known.
    """
    named = named_tags(texts_of(job, grids))
    reference = job.concepts
    if not reference and named and not repeats:
        reference = _beside(job, adapters)
    if not reference:
        if not repeats:
            check_tags(texts_of(job, grids), (), hint=_HINT)
        return Concepts()
    require_file(reference, kind="file of concepts")
    path = hub.locate_weights(reference)
    if path is None:
        return Concepts(reference=reference)
    tags = read_tags(path)
    check_width(path, tags, text_width(job.model))
    if not repeats:
        check_tags(texts_of(job, grids), tags.names, hint=_HINT)
    remark = _remark(job, named, adapters, reference) if named else ""
    return Concepts(reference=reference, names=tags.names, remark=remark)


def texts_of(job: GridJob, grids: Sequence[ResolvedGrid]) -> list[str]:
    """Return the texts of a job that may name tags: all but the layout's own words."""
    edits = [edit for grid in grids for edit in grid.edits]
    return [*job.slots.values(), *(text for edit in edits for text in (edit.clause, edit.negative))]


def check_named(job: GridJob, grids: Sequence[ResolvedGrid], known: Sequence[str]) -> None:
    """Check the prompts of a job against the tags of a file that came with a download.

    Raises:
        PromptError: A prompt names a tag that is not known.
    """
    check_tags(texts_of(job, grids), known, hint=_HINT)


def _beside(job: GridJob, adapters: Sequence[str]) -> str:
    """Return the file of tags beside a LoRA or an adapter of the job; "" if there is none."""
    loras = [parse_lora(text).reference for text in job.loras]
    names = [(one, f"{PurePath(one).stem}-tokens.safetensors") for one in loras]
    names += [(one, TOKENS_NAME) for one in (*loras, *adapters)]
    for reference, name in names:
        parsed = hub.parse_reference(reference)
        if reference == "none" or parsed.source == "hub":
            continue
        near = str(PurePath(parsed.path).parent / name)
        near = f"package:{near}" if parsed.source == "package" else near
        if hub.locate_weights(near) is not None:
            return near
    return ""


def _remark(job: GridJob, named: Sequence[str], adapters: Sequence[str], reference: str) -> str:
    """Return what to expect of named tags if neither Multi-DC acts nor an adapter knows them."""
    asked = {f"[{name}]" for name in named}
    active = [one.reference for one in map(parse_lora, job.loras) if one.strength]
    for one in (*active, *adapters):
        path = None if one == "none" else hub.locate_weights(one)
        spec = None if path is None else read_spec(path)
        if (spec is not None and asked <= set(spec.tokens)) or (path is None and one != "none"):
            return ""
    near = str(PurePath(reference).parent / "dc.safetensors")
    lora = near if hub.locate_weights(near) is not None else "FILE"
    return (
        f"{', '.join(sorted(asked))}: a tag is trained together with its Multi-DC LoRA, which does "
        "not act here, and the adapter was trained without it; it may change little, or for the "
        f"worse. To let the LoRA act: --lora {quote(lora)}"
    )
