"""Three thousand damaged recipes, manifests and results: read whole, or refused in a sentence."""

import dataclasses
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcgrid.cli.errors import explain
from dcgrid.cli.main import main
from dcgrid.cli.output import printable
from dcgrid.errors import DcgridError
from dcgrid.eval.results import read_results
from dcgrid.eval.study.design import read_key
from dcgrid.eval.study.make import StudyConfig, make_study
from dcgrid.eval.suites.suite import read_suite
from dcgrid.pipelines.manifest import read_manifest
from dcgrid.pipelines.script import read_story
from dcgrid.recipes import shipped_dir
from dcgrid.recipes.load import read_effect, read_layout
from dcgrid.train.data.concept_manifest import read_concepts
from dcgrid.train.settings import load_train_recipe
from dcgrid.train.stages.generate import load_generate_recipe
from dcgrid.video.clip import ClipRules
from tests.eval.study.conftest import OURS, make_evaluation

FEW, MANY = 10, 273  # eleven kinds: 110 and 3,003
RULES = ClipRules(fps=12, stride=4, max_frames=9, cell_sizes=((32, 48),))
SCALARS = re.compile(r'-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|"[^"\n]{0,80}"|true|false|null')
ODD = (
    "0", "-1", "1e308", "-1e308", "1" + "0" * 400, "NaN", "nan", "inf", "Infinity", "true", "null",
    '""', '"\\u0000"', '"\\u001b[2J\\u202e"', '"../../etc/passwd"', '"/"', "[]", "{}", "[1]",
    '{"a" = 1}', '{"a": 1}', "[[[[]]]]", '"' + "a" * 5000 + '"', '"\\ud800"', "1979-05-27", "0x7f",
    "[" * 2000,
)  # fmt: skip
STORY = """
from = "input.mp4"
subject = "a man"
motion = "walk"
seconds = 2
[[scenes]]
title = "Morning"
effect = "golden-hour"
[[scenes]]
prompt = "in a snowy street"
"""
CONCEPTS = """
[[concepts]]
clip = "input.mp4"
subject = "a cat"
motion = "stroll"
identity = "Cat_identity"
start = 0.1
duration = 0.5
"""


def mutated(content: bytes, dice: random.Random) -> bytes:
    """Damage bytes, or put odd values where values stand, so that most of it still parses."""
    if dice.random() < 0.3:
        raw = bytearray(content)
        for _ in range(dice.choice((1, 2, 8))):
            at = dice.randrange(len(raw))
            match dice.randrange(4):
                case 0:
                    raw[at] = dice.randrange(256)
                case 1:
                    del raw[at : at + dice.choice((1, 10, 400))]
                case 2:
                    raw[at:at] = raw[at : at + dice.choice((1, 10, 400))]
                case _:
                    del raw[max(1, at) :]
            raw = raw or bytearray(b"\n")
        return bytes(raw)
    text = content.decode()
    for _ in range(dice.choice((1, 1, 2, 5))):
        places = list(SCALARS.finditer(text))
        place = dice.choice(places)
        text = text[: place.start()] + dice.choice(ODD) + text[place.end() :]
    return text.encode()


def key_in(path: Path) -> object:
    shutil.copy(path, path.with_name("key.json"))
    return read_key(path.parent)


@pytest.fixture(scope="module")
def sources(
    shared_clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    """A whole file of each kind, and what reads it."""
    folder = tmp_path_factory.mktemp("whole")
    clip = folder / "input.mp4"
    clip.write_bytes(shared_clip.read_bytes())
    words = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--num-inference-steps", "1"]
    assert main([*words, "--duration", "0.3", "--quiet"]) == 0
    evaluation = make_evaluation(folder / "evaluation")
    study = make_study(evaluation, folder / "s", StudyConfig(ours=OURS), on_video=lambda *_: None)
    recipes = shipped_dir()
    return {
        "effect": ((recipes / "effects" / "rain.toml").read_bytes(), read_effect),
        "layout": ((recipes / "layouts" / "edit-2x2.toml").read_bytes(), read_layout),
        "suite": ((recipes / "eval" / "paper.toml").read_bytes(), read_suite),
        "train": (
            (recipes / "train" / "fill.toml").read_bytes(),
            lambda path: load_train_recipe(path, "mini"),
        ),
        "dc": (
            (recipes / "train" / "dc.toml").read_bytes(),
            lambda path: load_train_recipe(path, "mini"),
        ),
        "sample": (
            (recipes / "train" / "sample.toml").read_bytes(),
            lambda path: load_generate_recipe(path, "mini", "sample"),
        ),
        "story": (STORY.encode(), read_story),
        "concepts": (CONCEPTS.encode(), lambda path: read_concepts(path, RULES)),
        "manifest": ((folder / "input.rain.json").read_bytes(), read_manifest),
        "results": ((evaluation / "results.json").read_bytes(), read_results),
        "key": ((study.folder / "key.json").read_bytes(), key_in),
    }


def numbers_of(value: object) -> list[float]:
    """Return every number in what was read."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return numbers_of([getattr(value, one.name) for one in dataclasses.fields(value)])
    if isinstance(value, dict):
        return numbers_of(list(value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return [number for one in value for number in numbers_of(one)]
    return [value] if isinstance(value, float) else []


def check(source: tuple[bytes, Callable[[Path], Any]], folder: Path, kind: str, count: int) -> None:
    content, read = source
    suffix = ".json" if kind in ("manifest", "results", "key") else ".toml"
    # Recipes are called as their files are.
    name = {"effect": "rain", "layout": "edit-2x2"}.get(kind, "mutant")
    path, clip = folder / f"{name}{suffix}", folder / "input.mp4"
    path.write_bytes(content)
    assert read(path)
    refused = 0
    for seed in range(count):
        path.write_bytes(mutated(content, random.Random(f"{kind} {seed}")))
        try:
            value = read(path)
        except DcgridError as error:
            refused += 1
            told = explain(error)
            assert told.exit_code in (2, 3, 4), seed
            assert told.message, seed
            assert len(printable(told.message)) < 20_000, seed
        except BaseException as error:
            raise AssertionError(f"{kind}, seed {seed}: {type(error).__name__}") from error
        else:
            for number in numbers_of(value):
                assert number == number, (seed, "NaN")
                assert abs(number) != float("inf"), seed
                json.dumps(number, allow_nan=False)
    assert refused > 0
    assert sorted(one.name for one in folder.iterdir() if one.name != "key.json") == sorted(
        {path.name, clip.name}
    )


KINDS = [
    "effect", "layout", "suite", "train", "dc", "sample", "story", "concepts", "manifest",
    "results", "key",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_some(kind: str, sources, clip: Path) -> None:
    check(sources[kind], clip.parent, kind, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_three_thousand(kind: str, sources, clip: Path) -> None:
    check(sources[kind], clip.parent, kind, MANY)
