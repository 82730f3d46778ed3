"""`python -m benchmarks.identity`: is the character of a story the same person in every scene?

Stories of several people are told with `dcgrid story --from`, every scene's faces are embedded, and
cosines are compared: scenes of one story with each other, with scenes of other stories, and with
the clip that the story began from.

Faces are found with YuNet and embedded with SFace, through OpenCV (`pip install
opencv-python-headless`); the two weight files are those of ../shared/weights. SFace is not the
ArcFace of the paper's metric.

Letters: T frames, H W height/width, C the 3 colours.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import options as shared
from benchmarks.clips import CLIPS_DIR
from benchmarks.stories import given_clip, tell_scenes
from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.faces import SFaceReader

CLIPS = ("asl_book.mkv", "asl_again.mkv", "asl_eat.mkv", "headpose_female.gif")
"""Four people whose faces can be seen."""
SCENES = ("golden-hour", "blue-light", "fog", "rain", "violet-night", "smoke")
WEIGHTS_DIR = CLIPS_DIR.parent / "weights"
DETECTOR, RECOGNIZER = "face_detection_yunet_2023mar.onnx", "face_recognition_sface_2021dec.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFace:
    """The face of one scene."""

    story: str
    """Clip that the story began from."""
    scene: str
    """Name of the scene; "clip" for the clip itself."""
    embedding_E: Tensor | None
    """Mean of unit embeddings over frames, unit length; None: no face was found."""


class Faces:
    """Finds and embeds the largest face of pictures.

    Args:
        folder: Where both networks are.

    Raises:
        UsageError: OpenCV is not installed.
        WeightsError: A network is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        for name in (DETECTOR, RECOGNIZER):
            if not (folder / name).is_file():
                raise WeightsError(f"{folder / name} is missing", hint="name a folder: --weights")
        self._reader = SFaceReader(folder / DETECTOR, folder / RECOGNIZER)

    def embed(self, frames_THWC: Tensor, every: int = 4) -> Tensor | None:
        """Return the mean embedding of the largest face in every nth frame; None without a face."""
        seen = [one.embeddings_NE for one in self._reader.read(frames_THWC[::every]) if len(one)]
        found = [F.normalize(embeddings_NE[0], dim=0) for embeddings_NE in seen]
        return F.normalize(torch.stack(found).mean(dim=0), dim=0) if found else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.identity", description=__doc__)
    parser.add_argument("clips", nargs="*", default=list(CLIPS), help="names of clips with a face")
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), help="effects, one a scene")
    parser.add_argument("--clips-dir", type=Path, default=CLIPS_DIR)
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIR, help="folder of both networks")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    return shared.run_command(lambda: _run(options))


def report(faces: Sequence[SceneFace]) -> str:
    """Return the table: mean cosines within stories, between them, and to the clip."""
    seen = [face for face in faces if face.embedding_E is not None]
    scenes = [face for face in seen if face.scene != "clip"]
    clips = {face.story: face for face in seen if face.scene == "clip"}
    pairs = list(combinations(scenes, 2))
    within = [_cosine(a, b) for a, b in pairs if a.story == b.story]
    between = [_cosine(a, b) for a, b in pairs if a.story != b.story]
    own = [_cosine(face, clips[face.story]) for face in scenes if face.story in clips]
    other = [
        _cosine(face, clip) for face in scenes for name, clip in clips.items() if name != face.story
    ]
    total = sum(face.scene != "clip" for face in faces)
    lines = [
        f"faces found in {len(scenes)} of {total} scenes",
        "cosine of SFace        mean   lowest  highest",
    ]
    named = {
        "within a story": within,
        "between stories": between,
        "scene and its clip": own,
        "scene and other clips": other,
    }
    for name, values in named.items():
        if values:
            mean, low, high = statistics.fmean(values), min(values), max(values)
            lines.append(f"{name:21} {mean:6.3f} {low:8.3f} {high:8.3f}")
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> None:
    faces = Faces(options.weights)
    rows = []
    for name in options.clips:
        clip = options.clips_dir / name
        scenes = tell_scenes(clip, options.scenes, options.seed)
        made = dict(zip(options.scenes, scenes, strict=True))
        # As the model was given it: a face of 20 pixels has lost more than any edit takes.
        made["clip"] = given_clip(clip).frames_THWC
        for scene, frames_THWC in made.items():
            rows.append(SceneFace(story=name, scene=scene, embedding_E=faces.embed(frames_THWC)))
        print(name, file=sys.stderr)
    print(report(rows))


def _cosine(one: SceneFace, other: SceneFace) -> float:
    if one.embedding_E is None or other.embedding_E is None:
        raise ValueError("no face to compare")
    return float(one.embedding_E @ other.embedding_E)


if __name__ == "__main__":
    sys.exit(main())
