"""`python -m benchmarks.compose`: fusions of held-out clips with an element, against the truth.

The element is drawn by the procedural world and the fusion is a function of both clips
(dcgrid/synthetic/fusion.py), so the truth of any two is known. Beside it stands what one gets
without a model: the better of the two inputs in place of the fusion.

Letters: T frames, H W height/width, C the 3 colours.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import options as shared
from benchmarks.clips import BenchClip, find_clips, read_bench_clip
from benchmarks.figures import compare
from benchmarks.models import load_choice
from benchmarks.progress import Silent
from dcgrid.eval.suites.compared_frames import element_frames, element_words, fusion_truths
from dcgrid.eval.suites.suite import Task
from dcgrid.models.base import Backbone
from dcgrid.pipelines.job import ComposeJob
from dcgrid.pipelines.resolve import resolve_fusions
from dcgrid.pipelines.sampling import fill_grid, grid_request
from dcgrid.synthetic.fusion import ELEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionScore:
    """One fusion beside its truth."""

    clip: str
    """Name of clip A."""
    element: str
    """What clip B shows."""
    fusion: str
    """"around" or "lit"."""
    fused_db: float
    """PSNR of the fusion."""
    pasted_db: float
    """PSNR of the better input, shown in place of the fusion."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compose", description=__doc__)
    parser.add_argument("clips", nargs="*", help="video files, or names in --clips-dir (held out)")
    parser.add_argument("--elements", nargs="+", default=list(ELEMENTS), choices=list(ELEMENTS))
    parser.add_argument("--layout", default="composition-2x2", help="layout (composition-2x2)")
    parser.add_argument("--per-clip", type=int, default=2, help="elements for each clip (2)")
    shared.add_clip_options(parser)
    shared.add_model_options(parser)
    shared.add_sampler_options(parser)
    options = parser.parse_args(arguments)
    return shared.run_command(lambda: _run(options))


def score_fusions(
    backbone: Backbone,
    clip: BenchClip,
    element: str,
    seed: int,
    layout: str = "composition-2x2",
) -> list[FusionScore]:
    """Compose a clip with an element, as `dcgrid compose` does, and score both fusions.

    Args:
        backbone: The model with its composition adapter, results at the size of a cell.
        clip: Clip A.
        element: Key of `ELEMENTS`; drawn with `seed`.
        seed: Of the element and of the sampler's noise.
        layout: Where inputs and fusions stand; one with a single fusion has the first.
    """
    # The truth is rendered from the pixels that the model got.
    task = Task(element=element)
    element_THWC = element_frames(task, clip.frames_THWC, backbone.spec.fps, seed)
    words = element_words(task)
    job = ComposeJob(first=clip.path, second=Path(), seed=seed, layout=layout, **words)
    inputs = (clip.frames_THWC, element_THWC)
    request = grid_request(resolve_fusions(job), backbone.spec, inputs, seed=seed)
    filled = fill_grid(backbone, request, Silent())
    truths = fusion_truths(*inputs)
    scores = []
    # A layout with a single fusion has the first.
    for made_THWC, (name, truth_THWC) in zip(filled.values(), truths.items(), strict=False):
        scores.append(
            FusionScore(
                clip=clip.path.name,
                element=element,
                fusion=name,
                fused_db=compare(made_THWC, truth_THWC).psnr,
                pasted_db=max(compare(source, truth_THWC).psnr for source in inputs),
            )
        )
    return scores


def report(scores: Sequence[FusionScore]) -> str:
    """Return the table: a line an element and fusion, then the mean and the lowest gain."""
    lines = ["element      fusion        fused dB  better input  gain"]
    groups = sorted({(score.element, score.fusion) for score in scores})
    for element, fusion in groups:
        chosen = [s for s in scores if (s.element, s.fusion) == (element, fusion)]
        lines.append(_line(element, fusion, chosen))
    lines.append(_line("mean", "", scores))
    least = min(scores, key=lambda s: s.fused_db - s.pasted_db)
    gain = least.fused_db - least.pasted_db
    lines.append(f"lowest gain: {gain:.2f} dB ({least.clip} with {least.element}, {least.fusion})")
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> None:
    per_clip = shared.positive(options.per_clip, "--per-clip")
    paths = find_clips(options.clips, options.clips_dir, allow_seen=False)
    choice = shared.model_choice(options)
    backbone = load_choice(choice, mode="composition")
    scores = []
    for number, path in enumerate(paths):
        clip = read_bench_clip(path, backbone.spec, options.duration)
        for turn in range(min(per_clip, len(options.elements))):
            element = options.elements[(number * per_clip + turn) % len(options.elements)]
            scores += score_fusions(backbone, clip, element, options.seed + number, options.layout)
        print(f"{number + 1}/{len(paths)} {path.name}", file=sys.stderr)
    print(report(scores))


def _line(element: str, fusion: str, scores: Sequence[FusionScore]) -> str:
    fused = statistics.fmean(score.fused_db for score in scores)
    pasted = statistics.fmean(score.pasted_db for score in scores)
    return f"{element:12} {fusion:12} {fused:9.2f} {pasted:13.2f} {fused - pasted:5.2f}"


if __name__ == "__main__":
    sys.exit(main())
