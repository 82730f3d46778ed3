"""Results to make a study of: `mini` with its usual steps against `mini` with few, on one clip."""

from pathlib import Path

from dcgrid import recipes
from dcgrid.cli.main import main as dcgrid
from dcgrid.eval.results import ClipEntry, Item, MethodRow, Results, TaskEntry, write_results
from dcgrid.eval.study.media import read_shown, write_shown
from dcgrid.video.clip import ClipRules
from dcgrid.video.probe import probe
from dcgrid.video.read import read_clip

OURS, HURRIED = "mini", "mini-3-steps"
EFFECTS = ("rain", "night", "smoke")
SUBJECT = "A cartoon rabbit"

_STEPS = {OURS: (), HURRIED: ("--num-inference-steps", "3")}
_LABELS = {OURS: "mini", HURRIED: "mini, 3 steps"}


def edit_clip(clip: Path, folder: Path) -> None:
    """Edit a clip by both methods and write results.json beside the videos.

    Args:
        clip: The video.
        folder: An existing folder.

    Raises:
        RuntimeError: An edit failed; it has told why.
    """
    items = []
    for method, steps in _STEPS.items():
        out = folder / method
        out.mkdir(exist_ok=True)
        chosen = [word for effect in EFFECTS for word in ("--effect", effect)]
        code = dcgrid(["edit", str(clip), *chosen, *steps, "--out", str(out), "--force", "--quiet"])
        if code:
            raise RuntimeError(f"dcgrid edit ended with {code}")
        items += [_item(clip, effect, method) for effect in EFFECTS]
    _write_original(clip, folder / "original.mp4", folder / items[0].video)
    shown = read_shown(folder / "original.mp4")
    entry = ClipEntry(
        key=clip.stem,
        label=clip.stem,
        video="original.mp4",
        frames=len(shown.frames_THWC),
        fps=float(shown.fps),
    )
    results = Results(
        suite="study-page",
        title="mini with its usual steps against mini with three",
        made={},
        metrics=(),
        methods=tuple(MethodRow(key=key, label=label) for key, label in _LABELS.items()),
        clips=(entry,),
        tasks=tuple(
            TaskEntry(key=effect, label=effect, prompt=_prompt(effect)) for effect in EFFECTS
        ),
        items=tuple(items),
        table=(),
    )
    write_results(folder / "results.json", results)


def _item(clip: Path, effect: str, method: str) -> Item:
    return Item(
        key=f"{clip.stem}--{effect}--{method}--0",
        clip=clip.stem,
        task=effect,
        method=method,
        seed=0,
        status="done",
        video=f"{method}/{clip.stem}.{effect}.mp4",
    )


def _prompt(effect: str) -> str:
    return f"{SUBJECT} {recipes.load_effect(effect).clause}"


def _write_original(clip: Path, path: Path, like: Path) -> None:
    """Write the piece of the clip that was edited, as large and as long as its edits."""
    edit = probe(like)
    rules = ClipRules(
        fps=edit.fps_avg,
        stride=1,
        max_frames=edit.num_frames or 1,
        cell_sizes=((edit.height, edit.width),),
    )
    path.unlink(missing_ok=True)
    write_shown(path, read_clip(clip, rules)[0])
