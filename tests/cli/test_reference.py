"""docs/cli.md is what the program says of itself, and every option does something."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dcgrid.cli.compose import compose
from dcgrid.cli.edit import edit
from dcgrid.cli.reference import reference
from dcgrid.pipelines import (
    clips,
    deliver,
    footage,
    generate,
    job,
    loading,
    memory,
    outputs,
    plan,
    prepared,
    ranking,
    resolve,
    run,
)
from dcgrid.pipelines.job import ComposeJob, EditJob, GridJob

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    # Options of commands are reviewed by the diff of this page: run `make docs` after a change.
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


RENAMED = {
    "input_": "input",
    "compile_": "compile",
    "effect": "effects",
    "lora": "loras",
    "prompt": "prompts",
    "size": "cell_size",
    "start": "start_s",
    "concept_start": "concept_start_s",
    "duration": "duration_s",
}
NOT_IN_A_JOB = {"dry_run", "format_", "quiet", "context"}


@pytest.mark.parametrize(
    ("command", "kind", "unused"),
    # In a composition no cell repeats another, so there is nothing to keep.
    [(edit, EditJob, set()), (compose, ComposeJob, {"keep"})],
)
def test_every_option_is_on_the_page_and_in_the_job(
    command: Callable[..., None], kind: type[GridJob], unused: set[str]
) -> None:
    names = inspect.signature(command).parameters
    section = reference().split(f"## dcgrid {command.__name__}")[1].split("\n## ")[0]
    assert section.count("\n| `") == len(names) - 1  # without the context
    fields = {field.name for field in dataclasses.fields(kind)}
    asked = {name if name in fields else RENAMED.get(name, name) for name in names}
    assert asked - NOT_IN_A_JOB == fields - unused - {"origins"}


@pytest.mark.parametrize("kind", [EditJob, ComposeJob])
def test_every_value_of_a_job_is_read_somewhere(kind: type[GridJob]) -> None:
    modules = (clips, deliver, footage, job, memory, loading, outputs, generate, plan, prepared)
    modules += (ranking, resolve, run)
    source = "".join(inspect.getsource(module) for module in modules)
    for field in dataclasses.fields(kind):
        if field.name == "origins":  # for people
            continue
        assert re.search(rf"\b(job|self)\.{field.name}\b", source), field.name
