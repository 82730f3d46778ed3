"""A small folder of results whose videos tell their frame by their grey level."""

from pathlib import Path

import torch

from dcgrid.eval.results import (
    ClipEntry,
    Item,
    MethodRow,
    MetricColumn,
    ReferenceRow,
    Results,
    Score,
    TaskEntry,
)
from dcgrid.eval.tables import table_rows
from dcgrid.video.write import write_video

FPS = 12
FRAMES = 24
DARKEST, STEP = 10, 10
"""Grey level of frame 0, and how much brighter each later frame is."""

HOSTILE = """we"ird <b>'é' #1 %25 & ?x=1"""
"""A file's name; all of it is allowed on a disk."""
ATTACK = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
"""A label's, prompt's or error's text."""

METRICS = (
    MetricColumn(key="id", label="ID", title="Same face", better="higher", digits=4),
    MetricColumn(key="flicker", label="Flicker", title="Jumps", better="lower", digits=3),
    MetricColumn(
        key="lpips",
        label="LPIPS",
        title="Distance",
        better="lower",
        digits=3,
        unavailable="its weights are not here",
    ),
)
METHODS = tuple(
    MethodRow(key=key, label=label)
    for key, label in (("ours", "Ours"), ("sdedit", "SDEdit"), ("flow edit", "FlowEdit"))
)
TASKS = (
    TaskEntry(key="rain", label="Rain", prompt="a dog in the rain"),
    TaskEntry(key="night & day", label="Night", prompt=f"a dog at night {ATTACK}"),
)
IDS = {"ours": 0.575, "sdedit": 0.4, "flow edit": 0.5}


def write_grey(path: Path, frames: int = FRAMES, size: tuple[int, int] = (64, 96)) -> None:
    """Write a video of one grey level a frame; `size` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels_T = DARKEST + STEP * torch.arange(frames, dtype=torch.uint8)
    write_video(path, levels_T[:, None, None, None].expand(-1, *size, 3).contiguous(), FPS)


def make_results(folder: Path) -> Results:
    """Write the videos; return results with every way in which an item can go wrong."""
    clips = (
        ClipEntry(key="dog", label="Dog", video="media/dog.mp4", frames=FRAMES, fps=FPS),
        ClipEntry(
            key=HOSTILE,
            label=ATTACK,
            video=f"media/{HOSTILE}/source.mp4",
            frames=FRAMES,
            fps=FPS,
            second="media/second.mp4",
        ),
    )
    write_grey(folder / clips[0].video)
    write_grey(folder / clips[1].video)
    write_grey(folder / "media/second.mp4", frames=10, size=(96, 64))
    items = [
        _item(folder, clip.key, task.key, method.key)
        for clip in clips
        for task in TASKS
        for method in METHODS
    ]
    return Results(
        suite="paper",
        title=f"Test {ATTACK} @DATA@",
        made={"command": "dcgrid eval", "date": "2026-01-01"},
        metrics=METRICS,
        methods=METHODS,
        clips=clips,
        tasks=TASKS,
        items=tuple(items),
        table=table_rows(items, METRICS, METHODS),
        references=(ReferenceRow(table="Table 2", label="DreamMix", scores={"id": 0.5542}),),
        notes=("A note.",),
    )


def _item(folder: Path, clip: str, task: str, method: str) -> Item:
    """Make one: at night SDEdit fails, FlowEdit is missing and Ours of the dog lost its file."""
    key = f"{clip}--{task}--{method}--0"
    known = {"key": key, "clip": clip, "task": task, "method": method, "seed": 0}
    if task != "rain" and method == "sdedit":
        return Item(**known, status="failed", error=f"out of memory {ATTACK}")
    if task != "rain" and method == "flow edit":
        return Item(**known, status="missing")
    video = f"media/{key}.mp4"
    if not (task != "rain" and clip == "dog"):
        # SDEdit's is half as long and upright: it must hold its last frame and not stop the rest.
        short = method == "sdedit"
        write_grey(
            folder / video, FRAMES // 2 if short else FRAMES, (96, 64) if short else (64, 96)
        )
    return Item(
        **known,
        status="done",
        video=video,
        truth="media/dog.mp4" if clip == "dog" else "",
        seconds=1.5,
        scores=_scores(clip, method),
    )


def _scores(clip: str, method: str) -> dict[str, Score]:
    base = IDS[method] + (0.01 if clip == "dog" else 0.0)
    series = [base + 0.001 * frame for frame in range(FRAMES)]
    gappy = [None if 5 <= frame < 9 else value for frame, value in enumerate(series)]
    face = Score(value=base, series=tuple(gappy), frames=tuple(range(FRAMES)))
    if clip != "dog" and method == "sdedit":
        face = Score(value=None, reason="no face in 12 of 12 frames")
    return {
        "id": face,
        "flicker": Score(value=1 - base, series=(0.1, 0.2, 0.1), frames=(1, 2, 3)),
        "lpips": Score(value=None, reason="no weights"),
    }
