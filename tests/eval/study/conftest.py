"""A small evaluation with made-up videos, and studies made of it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dcgrid.eval.results import ClipEntry, Item, MethodRow, Results, TaskEntry, write_results
from dcgrid.eval.study.answers import FORMAT
from dcgrid.eval.study.design import StudyKey, read_key
from dcgrid.eval.study.make import StudyConfig, make_study
from dcgrid.eval.study.order import rater_seed, session
from dcgrid.video.write import write_video

OURS, NEAR, FAR = "gridmethod", "ablatedmethod", "rivalmethod"
LABELS = {OURS: "Grid method", NEAR: "Ablated method", FAR: "Rival method"}
CLIPS = ("meadowclip", "streetclip")
TASKS = {
    "raintask": "Heavy rain falls on </script><b>the street</b> & meadow",
    "nighttask": "Night",
}


def write_square(path: Path, colour: tuple[int, int, int], *, frames: int = 12) -> None:
    """A square of a colour that moves over grey, 96x64, 12 fps; the comment names the file."""
    video_THWC = torch.full((frames, 64, 96, 3), 90, dtype=torch.uint8)
    for index in range(frames):
        video_THWC[index, 20:44, 6 * index : 6 * index + 24] = torch.tensor(colour).byte()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, video_THWC, 12, comment=f"made by {path.stem}")


def make_evaluation(folder: Path, *, failed: tuple[str, ...] = ()) -> Path:
    """Write results.json and its videos: 2 clips, 2 tasks, 3 methods; `failed` items have none."""
    clips, items = [], []
    for number, clip in enumerate(CLIPS):
        write_square(folder / "clips" / f"{clip}.mp4", (250, 240, 60 * number))
        entry = {"key": clip, "label": clip, "video": f"clips/{clip}.mp4", "frames": 12}
        clips.append(ClipEntry(**entry, fps=12.0))
    for clip in CLIPS:
        for task in TASKS:
            for number, method in enumerate(LABELS):
                key = f"{clip}--{task}--{method}--0"
                video = f"videos/{key}.mp4"
                facts = {"key": key, "clip": clip, "task": task, "method": method, "seed": 0}
                if key in failed:
                    items.append(Item(**facts, status="failed", error="out of memory"))
                    continue
                blue = 250 if task == "nighttask" else 90
                write_square(folder / video, (80 * number, 200, blue))
                items.append(Item(**facts, status="done", video=video))
    results = Results(
        suite="paper",
        title="made up",
        made={},
        metrics=(),
        methods=tuple(MethodRow(key=key, label=label) for key, label in LABELS.items()),
        clips=tuple(clips),
        tasks=tuple(TaskEntry(key=key, label=key, prompt=text) for key, text in TASKS.items()),
        items=tuple(items),
        table=(),
    )
    write_results(folder / "results.json", results)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    folder: Path
    key: StudyKey


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory) -> Path:
    return make_evaluation(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="session")
def shared_study(evaluation, tmp_path_factory) -> Made:
    """Eight pairs and three checks; not to be changed."""
    folder = tmp_path_factory.mktemp("studies") / "study"
    config = StudyConfig(ours=OURS, contact="Ada, room 1")
    make_study(evaluation, folder, config, on_video=lambda *_: None)
    return Made(folder=folder, key=read_key(folder))


def answer_sheet(key: StudyKey, rater: str, choose) -> dict:
    """What the page would hand in of a rater; `choose(pair or check, question)` gives the file."""
    shown = {one.id: one for one in (*key.pairs, *key.checks)}
    trials = []
    for trial in session(key.id, rater, key.pairs, key.checks, key.per_rater):
        sides = {trial.left: "left", trial.right: "right"}
        answers = {one: sides[choose(shown[trial.pair], one)] for one in ("ip", "mp", "ap", "op")}
        trials.append(
            {
                "pair": trial.pair,
                "left": trial.left,
                "right": trial.right,
                "answers": answers,
                "ms": 9000,
                "seen": {"original": True, "left": True, "right": True},
                "failed": [],
            }
        )
    return {
        "format": FORMAT,
        "study": key.id,
        "rater": rater,
        "seed": rater_seed(key.id, rater),
        "started": "2026-01-01T10:00:00Z",
        "finished": "2026-01-01T10:10:00Z",
        "trials": trials,
    }


def right_file(shown) -> str:
    """The method in question, and the undamaged copy in checks."""
    return shown.ours if hasattr(shown, "ours") else shown.good


def wrong_file(shown) -> str:
    return next(file for file in shown.files if file != right_file(shown))


def hand_in(folder: Path, sheet: dict, name: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name or sheet['rater']}.json"
    path.write_text(json.dumps(sheet))
    return path
