"""docs/cli.md is what the program says of itself, and every option does something."""

import dataclasses
import inspect
import re
from pathlib import Path

from dcgrid.cli.edit import edit
from dcgrid.cli.reference import reference
from dcgrid.pipelines import edit as edit_pipeline
from dcgrid.pipelines import fill, job, models, outputs, plan
from dcgrid.pipelines.job import EditJob

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    # Options of commands are reviewed by the diff of this page: run `make docs` after a change.
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


def test_every_option_of_edit_is_on_the_page_and_in_the_job() -> None:
    page = reference()
    names = inspect.signature(edit).parameters
    section = page.split("## dcgrid edit")[1].split("\n## ")[0]
    assert section.count("\n| `") == len(names)
    fields = {field.name for field in dataclasses.fields(EditJob)}
    renamed = {"input_": "input", "effect": "effects", "start": "start_s", "duration": "duration_s"}
    not_in_a_job = {"dry_run", "format_", "quiet"}
    assert {renamed.get(name, name) for name in names} - not_in_a_job == fields


def test_every_value_of_a_job_is_read_somewhere() -> None:
    modules = (edit_pipeline, fill, job, models, outputs, plan)
    source = "".join(inspect.getsource(module) for module in modules)
    for field in dataclasses.fields(EditJob):
        assert re.search(rf"\bjob\.{field.name}\b", source), field.name
