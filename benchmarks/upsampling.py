"""`python -m benchmarks.upsampling`: how near does the guided upsampler come to the truth?

    clip at 4 times a cell --- effect rendered ------------------------------- truth
       | averaged down                                                           |
    given cell -- dcgrid edit -- generated cell -- guided | bicubic ---------- result

Four tables: PSNR and faces by effect; guides that show something else than the edit, on purpose;
what happens between two frames of a cell, at higher rates; and what frames of 1920x1080 cost.

Faces are found with SCRFD and embedded with ArcFace, as `dcgrid eval` does (extra `eval`); without
the two files of ../shared/weights that part is left out.

Letters: T frames, C the 3 colours, H W height/width, M F Y X as in dcgrid/models/drift.py.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from benchmarks import options as shared
from benchmarks.clips import CLIPS_DIR, find_matte
from benchmarks.edits import edit_clip
from benchmarks.models import load_choice
from dcgrid.errors import DcgridError
from dcgrid.eval.encoders.faces import ArcFaceReader
from dcgrid.io.progress import NullProgress
from dcgrid.models.base import ModelSpec
from dcgrid.models.edit_frames import Coefficients
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.models.upsampler import WEIGHTS, GuidedUpsampler, load_upsampler
from dcgrid.pipelines.clips import one_pass_rules
from dcgrid.pipelines.sampling import to_frames, to_model_range
from dcgrid.pipelines.upsampling import CellNoise
from dcgrid.recipes import load_effect
from dcgrid.synthetic.degradations import misplaced
from dcgrid.synthetic.effects import DETERMINISTIC, render_effect
from dcgrid.video.read import read_clip

CLIPS = (
    "asl_book.mkv", "asl_again.mkv", "headpose_female.gif", "carphone.mp4", "bigbuckbunny.mp4",
    "sam2_dog.mp4", "bikes.mp4", "flower.mp4",
)  # fmt: skip
"""Held-out clips: four people with a face, and four others."""
SCALE = 4
"""Rows and columns of the truth for each of the cell's."""
EVERY = 4
"""Of so many frames one is scored."""
MOVING = ("rain", "snow", "sparks", "fire-glow")
"""Effects whose overlay moves."""
RATES = (25.0, 30.0)
SEED = 7
DETECTOR, RECOGNIZER = "scrfd_500m_bnkps.onnx", "w600k_mbf.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeClip:
    """A clip at `SCALE` times the size of a cell."""

    name: str
    source_TCHW: Tensor
    """In [0, 1]."""
    matte_THW: Tensor | None
    """Where its person is, in [0, 1]; None: nobody, or not known."""

    @property
    def given_TCHW(self) -> Tensor:  # noqa: N802
        """The given cell, rounded as a picture file is."""
        return (F.avg_pool2d(self.source_TCHW, SCALE) * 255).round() / 255

    def part(self, count: int) -> "LargeClip":
        """Return its first frames."""
        matte_THW = None if self.matte_THW is None else self.matte_THW[:count]
        return replace(self, source_TCHW=self.source_TCHW[:count], matte_THW=matte_THW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Figures of one effect on one clip."""

    clip: str
    effect: str
    psnr: dict[str, float]
    """In dB, by the name of the way it was enlarged."""
    identity: dict[str, float]
    """Mean cosine of ArcFace with the source's face, over frames in which both show one."""
    faces: dict[str, float]
    """Part of the frames in which source and truth show a face that have one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upsampling", description=__doc__)
    parser.add_argument("clips", nargs="*", default=list(CLIPS), help="names of clips")
    parser.add_argument("--effects", nargs="+", default=["all"], help="names, or a group (all)")
    parser.add_argument("--upsampler", type=Path, default=WEIGHTS, help="its weights")
    parser.add_argument("--faces", type=Path, default=CLIPS_DIR.parent / "weights")
    parser.add_argument("--only", choices=["effects", "apart", "motion", "speed"], nargs="+")
    parser.add_argument("--pictures", type=Path, help="folder for a frame of each result")
    shared.add_model_options(parser)
    shared.add_sampler_options(parser)
    shared.add_clip_options(parser, 1.4)
    options = parser.parse_args(arguments)
    return shared.run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    upsampler = load_upsampler(options.upsampler)
    choice = shared.model_choice(options)
    bench = _Bench(options, upsampler)
    parts: dict[str, Callable[[], str]] = {
        "effects": lambda: bench.effects(load_choice(choice)),
        "apart": bench.apart,
        "motion": bench.motion,
        "speed": bench.speed,
    }
    for name in options.only or parts:
        print(parts[name](), flush=True)
        print()


class _Bench:
    """What is measured, on which clips."""

    def __init__(self, options: argparse.Namespace, upsampler: GuidedUpsampler) -> None:
        self.options, self.upsampler = options, upsampler
        self.effect_names = shared.choose_effects(options.effects)

    def read(self, name: str, spec: ModelSpec | None = None, fps: float = 12.0) -> LargeClip:
        """Read a clip at `SCALE` times the size of a cell."""
        from dcgrid.models.registry import find_model

        rules = one_pass_rules(spec or find_model("mini").spec)
        sizes = tuple((SCALE * h, SCALE * w) for h, w in rules.cell_sizes)
        frames = rules.max_frames * max(1, round(fps / rules.fps))
        large = replace(rules, cell_sizes=sizes, fps=fps, max_frames=frames, default_frames=None)
        clip, _ = read_clip(self.options.clips_dir / name, large, duration_s=self.options.duration)
        frames_TCHW = rearrange(clip.frames_THWC, "t h w c -> t c h w").float() / 255
        matte_THW = find_matte(clip.frames_THWC, self.options.network)
        return LargeClip(name=name, source_TCHW=frames_TCHW, matte_THW=matte_THW)

    def enlarged(
        self,
        given_TCHW: Tensor,
        generated_TCHW: Tensor,
        source_TCHW: Tensor,
        every: int = 1,
        drift_MFYX: Tensor | None = None,
        effect: str = "",
    ) -> dict[str, Tensor]:
        """Return every nth frame enlarged with the guide and without, in [0, 1].

        With the drifting noise of the cell and its effect the guided result has its drops; without
        it the cell is that of a model that is taken at its word. The given cell is what generated
        ones are compared with: of a model's own edits as its autoencoder gives it back.
        """
        taken = slice(None, None, every)
        given, generated = given_TCHW[taken] * 2 - 1, generated_TCHW[taken] * 2 - 1
        source = source_TCHW[taken] * 2 - 1
        noise = None if drift_MFYX is None else _cell_noise(drift_MFYX, given_TCHW, effect)
        if noise is None:
            known = self.upsampler.analyze(given, generated, trusted=True)
        else:
            looks_TCHW = noise.looks(0, len(given_TCHW))[taken]
            known = self.upsampler.analyze(given, generated, looks_TCHW, noise.text)
        frames = [
            known.frame(float(t), one, _planes(noise, known, float(every * t)))
            for t, one in enumerate(source)
        ]
        plain = F.interpolate(generated, size=source.shape[-2:], mode="bicubic")
        return {
            "guided": torch.stack(frames) / 2 + 0.5,
            "bicubic": plain.clamp(-1, 1) / 2 + 0.5,
        }

    def effects(self, backbone: NetworkBackbone) -> str:
        """Score the model's own edits, and truths at the cell's size, against the truth."""
        rows = []
        faces = _reader(self.options.faces)
        for name in self.options.clips:
            clip = self.read(name, backbone.spec)
            given_THWC = rearrange(
                (clip.given_TCHW * 255).round().to(torch.uint8), "t c h w -> t h w c"
            ).contiguous()
            with torch.no_grad():
                coded_BCTHW = backbone.decode(backbone.encode(to_model_range(given_THWC)))
            decoded_TCHW = rearrange(to_frames(coded_BCTHW), "t h w c -> t c h w").float() / 255
            made = edit_clip(
                backbone,
                given_THWC,
                self.effect_names,
                shared.edit_settings(self.options),
                NullProgress(),
            )
            found = _Faces(faces, clip.source_TCHW[::EVERY])
            for effect, edit in made.items():
                truth_TCHW = _rendered(effect, clip, 12.0, edit.drift_MFYX)
                generated_TCHW = rearrange(edit.frames_THWC, "t h w c -> t c h w").float() / 255
                source_TCHW = clip.source_TCHW
                results = self.enlarged(
                    decoded_TCHW, generated_TCHW, source_TCHW, EVERY, edit.drift_MFYX, effect
                )
                cell_TCHW = F.avg_pool2d(truth_TCHW, SCALE)
                exact = self.enlarged(clip.given_TCHW, cell_TCHW, source_TCHW, EVERY)
                results |= {f"{way} of truth": frames for way, frames in exact.items()}
                shown = truth_TCHW[::EVERY]
                scores = {way: _psnr(frames, shown) for way, frames in results.items()}
                compared = {"guided": results["guided"], "bicubic": results["bicubic"]}
                identity, share = found.score({**compared, "truth": shown})
                rows.append(
                    Row(clip=name, effect=effect, psnr=scores, identity=identity, faces=share)
                )
                shown_scores = ", ".join(f"{way} {score:.2f}" for way, score in scores.items())
                print(f"{name} {effect}: {shown_scores}; ID {identity}", file=sys.stderr)
                if self.options.pictures:
                    _save(self.options.pictures, rows[-1], clip, results, shown)
        return _effect_table(rows)

    def apart(self) -> str:
        """Score what comes of truths at the size of a cell if the guide shows something else."""
        gains: dict[str, list[float]] = {"aligned": [], "part of it": [], "all of it": []}
        generator = torch.Generator().manual_seed(SEED)
        for name in self.options.clips:
            clip = self.read(name).part(1)
            for effect in self.effect_names:
                source_TCHW = clip.source_TCHW
                truth_TCHW = _rendered(effect, clip, 12.0, None)
                generated_TCHW = F.avg_pool2d(truth_TCHW, SCALE)
                for kind, scores in gains.items():
                    guide_TCHW = source_TCHW
                    if kind != "aligned":
                        guide_TCHW = _wrong_guide(source_TCHW, generator, kind == "part of it")
                    given_TCHW = F.avg_pool2d(guide_TCHW, SCALE)
                    results = self.enlarged(given_TCHW, generated_TCHW, guide_TCHW)
                    scores.append(
                        _psnr(results["guided"], truth_TCHW) - _psnr(results["bicubic"], truth_TCHW)
                    )
        lines = ["guide shows something else in   guided - bicubic, dB: mean   lowest"]
        for kind, scores in gains.items():
            shown = "nothing" if kind == "aligned" else kind
            lines.append(f"{shown:31} {statistics.fmean(scores):27.2f} {min(scores):8.2f}")
        return "\n".join(lines)

    def motion(self) -> str:
        """Compare what moves between the cell's frames with the truth at the source's rate."""
        lines = ["effect      fps  motion energy / truth's: drops, moved   PSNR: drops, moved, dB"]
        for effect in [one for one in MOVING if one in self.effect_names]:
            for fps in RATES:
                energy: dict[str, list[float]] = {"drops": [], "moved": []}
                scores: dict[str, list[float]] = {"drops": [], "moved": []}
                for name in self.options.clips[:3]:
                    for way, (share, score) in self._between(name, effect, fps).items():
                        energy[way].append(share)
                        scores[way].append(score)
                means = [statistics.fmean(v) for v in (*energy.values(), *scores.values())]
                lines.append(
                    f"{effect:11} {fps:3.0f} {means[0]:27.2f} {means[1]:6.2f} "
                    f"{means[2]:15.2f} {means[3]:6.2f}"
                )
        return "\n".join(lines)

    def _between(self, name: str, effect: str, fps: float) -> dict[str, tuple[float, float]]:
        """Return motion energy over the truth's, and PSNR, with drops of the noise and without."""
        from dcgrid.synthetic.effects_fields import draw_drift

        clip = self.read(name, fps=fps).part(round(fps))
        source_TCHW = clip.source_TCHW
        seconds_T = torch.arange(len(source_TCHW)) / fps
        generator = torch.Generator().manual_seed(SEED)
        drift_MFYX = draw_drift(source_TCHW.transpose(0, 1), seconds_T, generator, float(SCALE))
        truth_TCHW = _rendered(effect, clip, fps, drift_MFYX)
        # The cell's frames are those of the source that are nearest to their time.
        count = int(seconds_T[-1] * 12) + 1
        picked = [round(t * fps / 12) for t in range(count)]
        given_TCHW = F.avg_pool2d(source_TCHW[picked], SCALE) * 2 - 1
        generated_TCHW = F.avg_pool2d(truth_TCHW[picked], SCALE) * 2 - 1
        noise = _cell_noise(drift_MFYX, given_TCHW, effect)
        known = self.upsampler.analyze(
            given_TCHW, generated_TCHW, noise.looks(0, count), noise.text
        )
        without = self.upsampler.analyze(given_TCHW, generated_TCHW)
        last = picked[-1] + 1
        figures = {}
        for way, coefficients in (("drops", known), ("moved", without)):
            frames = [
                coefficients.frame(
                    12 * t / fps,
                    source_TCHW[t] * 2 - 1,
                    _planes(noise, coefficients, 12 * t / fps),
                )
                / 2
                + 0.5
                for t in range(last)
            ]
            frames_TCHW = torch.stack(frames)
            extra, true_extra = frames_TCHW - source_TCHW[:last], (truth_TCHW - source_TCHW)[:last]
            share = extra.diff(dim=0).abs().mean() / true_extra.diff(dim=0).abs().mean()
            figures[way] = (float(share), _psnr(frames_TCHW, truth_TCHW[:last]))
        return figures

    def speed(self) -> str:
        """Count processor time for frames of 1920x1080, and for the look at a cell of 96x160.

        Time of all threads together, so that other work on the machine does not count.
        """
        given, generated = torch.rand(2, 5, 3, 96, 160) * 2 - 1
        source = torch.rand(3, 1080, 1920) * 2 - 1
        known = self.upsampler.analyze(given, generated)
        began = time.process_time()
        self.upsampler.analyze(given, generated)
        looked = (time.process_time() - began) / len(given)
        times = []
        for position in (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6):
            began = time.process_time()
            known.frame(position, source)
            times.append(time.process_time() - began)
        return (
            f"processor time: {statistics.median(times):.2f} s a frame of 1920x1080, "
            f"{looked:.2f} s a frame of a cell ({torch.get_num_threads()} threads)"
        )


class _Faces:
    """The faces of a clip's frames, which results are compared with."""

    def __init__(self, reader: ArcFaceReader | None, source_TCHW: Tensor) -> None:
        self.reader = reader
        self.own = [] if reader is None else reader.read(_levels(source_TCHW))

    def score(self, results: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, float]]:
        """Return mean cosine and part of frames with a face, of those where the truth shows one."""
        identity, share = {}, {}
        if self.reader is None:
            return identity, share
        found = {way: self.reader.read(_levels(frames)) for way, frames in results.items()}
        both = zip(self.own, found["truth"], strict=True)
        shown = [t for t, pair in enumerate(both) if all(len(one.boxes_N4) for one in pair)]
        for way, frames in found.items() if shown else ():
            cosines = [
                float(F.cosine_similarity(frames[t].embeddings_NE[0], own.embeddings_NE[0], dim=0))
                for t, own in ((t, self.own[t]) for t in shown)
                if len(frames[t].boxes_N4)
            ]
            share[way] = len(cosines) / len(shown)
            if cosines:
                identity[way] = statistics.fmean(cosines)
        return identity, share


def _reader(folder: Path) -> ArcFaceReader | None:
    try:
        return ArcFaceReader(folder / DETECTOR, folder / RECOGNIZER)
    except DcgridError as error:
        print(f"without faces: {error.message}", file=sys.stderr)
        return None


def _cell_noise(drift_MFYX: Tensor, cell_TCHW: Tensor, effect: str) -> CellNoise:
    height, width = cell_TCHW.shape[-2:]
    return CellNoise(
        values_MFYX=drift_MFYX,
        cell_size=(height, width),
        picture=(slice(0, height), slice(0, width)),
        text=load_effect(effect).clause,
    )


def _planes(noise: CellNoise | None, known: Coefficients, place: float) -> Tensor | None:
    if noise is None or not known.planes:
        return None
    return noise.moments()(place, known.planes)


def _rendered(effect: str, clip: LargeClip, fps: float, drift_MFYX: Tensor | None) -> Tensor:
    rendered_CTHW = render_effect(
        effect,
        clip.source_TCHW.transpose(0, 1),
        generator=torch.Generator().manual_seed(SEED),
        fps=fps,
        scale=float(SCALE),
        drift_MFYX=drift_MFYX,
        matte_THW=clip.matte_THW,
    )
    return rendered_CTHW.transpose(0, 1)


def _wrong_guide(source_TCHW: Tensor, generator: torch.Generator, part: bool) -> Tensor:
    """Return a guide that shows something else, everywhere or in a part of the picture."""
    frame_CHW = source_TCHW[0]
    whole_CHW = F.pad(frame_CHW[None], (64,) * 4, mode="reflect")[0]
    return misplaced(whole_CHW, (64, 64), frame_CHW.shape[-2:], generator, part=part)[None]


def _levels(frames_TCHW: Tensor) -> Tensor:
    rounded = (frames_TCHW * 255).round().clamp(0, 255).to(torch.uint8)
    return rearrange(rounded, "t c h w -> t h w c").contiguous()


def _psnr(frames_TCHW: Tensor, truth_TCHW: Tensor) -> float:
    squared_T = (frames_TCHW - truth_TCHW).square().mean((1, 2, 3)).clamp_min(1e-10)
    return float((-10 * squared_T.log10()).mean())


def _save(
    folder: Path, row: Row, clip: LargeClip, results: dict[str, Tensor], shown: Tensor
) -> None:
    """Write one frame: source, bicubic, guided, truth."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    frame = len(shown) // 2
    sides = [
        torch.cat((clip.source_TCHW[::EVERY][frame], results["bicubic"][frame]), dim=2),
        torch.cat((results["guided"][frame], shown[frame]), dim=2),
    ]
    sheet_HWC = _levels(torch.cat(sides, dim=1)[None])[0]
    name = f"{Path(row.clip).stem}.{row.effect}.png"
    Image.fromarray(sheet_HWC.numpy()).save(folder / name)


def _effect_table(rows: Sequence[Row]) -> str:
    """Return the table by effect, with means of the deterministic ones and of all."""
    ways = ("guided", "bicubic", "guided of truth", "bicubic of truth")
    lines = [
        "                 PSNR at 4 times the cell, dB              ArcFace ID             faces",
        "                 edit             truth enlarged                                   "
        "guided bicubic",
        "effect           guided  bicubic  guided  bicubic    guided bicubic  truth",
    ]
    effects = list(dict.fromkeys(row.effect for row in rows))
    groups = {effect: [row for row in rows if row.effect == effect] for effect in effects}
    groups["deterministic"] = [row for row in rows if row.effect in DETERMINISTIC]
    groups["all"] = list(rows)
    for name, members in groups.items():
        if not members:
            continue
        scores = [statistics.fmean(row.psnr[way] for row in members) for way in ways]
        identity = [
            _mean([row.identity[way] for row in members if way in row.identity])
            for way in ("guided", "bicubic", "truth")
        ]
        share = [
            _mean([row.faces[way] for row in members if way in row.faces])
            for way in ("guided", "bicubic")
        ]
        lines.append(
            f"{name:15} {scores[0]:7.2f} {scores[1]:8.2f} {scores[2]:7.2f} {scores[3]:8.2f}   "
            + " ".join(f"{one:>7}" for one in identity)
            + "   "
            + " ".join(f"{one:>7}" for one in share)
        )
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}" if values else "-"


if __name__ == "__main__":
    sys.exit(main())
