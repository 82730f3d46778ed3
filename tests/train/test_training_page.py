"""docs/training.md names every knob, every source and every clip, with the licences of both."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from dcgrid.cli.app import command_tree
from dcgrid.synthetic.sources import SOURCES, TRAINING_CLIPS
from dcgrid.train.settings import LOSSES, STAGES, LogSettings, OptimSettings, Phase

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text()
CLIPS_README = ROOT.parent / "shared" / "clips" / "README.md"


def table_rows():
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("|")
    ]


def test_every_recipe_key_is_explained():
    names = {f"optim.{f.name}" for f in fields(OptimSettings)}
    names |= {f"phases[].{f.name}" for f in fields(Phase)}
    names |= {f"log.{f.name}" for f in fields(LogSettings)}
    explained = {name for row in table_rows() for name in re.findall(r"`([^`]+)`", row[0])}
    assert names <= explained
    for stage in STAGES:
        told = {
            name
            for row in table_rows()
            if len(row) == 3 and stage in row[1].split(", ")
            for name in re.findall(r"`([^`]+)`", row[0])
        }
        assert told == set(LOSSES[stage].__dataclass_fields__)


def test_every_source_is_named_with_its_licence():
    for source in SOURCES:
        row = next(r for r in table_rows() if f"`{source.name}`" in r[1])
        for part in source.license.replace(" and PD", "").split(", "):
            assert part in row[3], source.name
        assert not source.version or row[2] == source.version


def test_every_training_clip_is_named_with_its_licence():
    if not CLIPS_README.exists():
        pytest.skip("no ../shared/clips/README.md")
    listed = {}
    for line in CLIPS_README.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 9:
            listed[cells[0]] = cells[9]
    rows = {row[0].strip("`"): row for row in table_rows() if len(row) == 4}
    for name in TRAINING_CLIPS:
        assert rows[name][2] == listed[name], name


def test_every_option_of_the_command_is_named():
    command = command_tree().commands["train"]
    options = {name for p in command.params for name in p.opts if name.startswith("--")}
    missing = {option for option in options if f"{option}" not in PAGE} - {"--help"}
    assert missing == set()
