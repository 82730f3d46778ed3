"""Stories told of a clip, by the very command, from files to files.

Letters: T frames, H W height/width, C the 3 colours.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from benchmarks.clips import read_frames
from benchmarks.progress import Silent
from dcgrid.models.registry import find_model
from dcgrid.pipelines.clips import one_pass_rules
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.run import run_plan
from dcgrid.pipelines.script import Scene, StoryJob
from dcgrid.video.clip import Clip
from dcgrid.video.read import read_clip


def tell_scenes(
    clip: Path, effects: Sequence[str], seed: int, model: str = "mini", *, guided: bool = False
) -> list[Tensor]:
    """Run `dcgrid story --from` with an effect a scene; return the scenes THWC, uint8.

    Args:
        clip: The character's clip.
        effects: Names of effects.
        seed: Seed of the noise.
        model: The model.
        guided: True: scenes have size and rate of the clip. False: those of the model's cells.

    Raises:
        DcgridError: As the command.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = find_model(model).spec
        job = StoryJob(
            name="tale",
            folder=Path(folder),
            source=clip,
            scenes=tuple(Scene(effect=name) for name in effects),
            seed=seed,
            model=model,
            contact_sheet=False,
            duration_s=spec.default_frames / spec.fps,
            fps="source" if guided else "model",
            upsample="guided" if guided else "none",
        )
        result = run_plan(plan_run(prepare_run(job)), Silent())
        return [read_frames(file) for file in result.files[: len(effects)]]


def given_clip(path: Path, model: str = "mini") -> Clip:
    """Read a clip as the model is given it: its usual length, the size of a cell."""
    return read_clip(path, one_pass_rules(find_model(model).spec))[0]
