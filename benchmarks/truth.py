"""`python -m benchmarks.truth`: edits against the effect rendered on the clip, or the codec alone.

    clip -> effect rendered ---------------- truth
    clip -> dcgrid edit -------------------- edit         against truth
    clip -> the same without the adapter --- no adapter   against truth
    truth -> codec ------------------------- ceiling      against truth
    clip ----------------------------------- unedited     against truth
    clip -> effect rendered with other drift -> codec ---- another roll against truth

An effect with chance in it has one right answer too, once the chance is fixed: it is rendered from
the moving noise that the edit started from (docs/decisions/0009); its tables stand apart.

Letters: T frames, H W height/width, C the 3 colours.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from benchmarks import options as shared
from benchmarks.clips import BenchClip, find_clips, read_bench_clip
from benchmarks.edits import EditSettings, MadeEdit, edit_clip
from benchmarks.figures import Figures, compare, mean, mean_figures
from benchmarks.models import ModelChoice, codec_pass, has_adapter, load_choice, load_codec
from benchmarks.progress import Silent
from dcgrid import hub
from dcgrid.errors import UsageError
from dcgrid.io.progress import Progress
from dcgrid.models.native.model import ADAPTER_NAMES, PART_NAMES
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.runtime import device as runtime
from dcgrid.synthetic.effects import DETERMINISTIC, EFFECT_NAMES, render_effect

EDIT, BARE, CEILING, UNEDITED = "edit", "no adapter", "ceiling", "unedited"
REROLL = "another roll"
# Of the truth where the model has no moving noise, and of the rendering that stands beside it.
_DRIFT, _OTHER_DRIFT = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How near the candidates come to one effect on one clip."""

    clip: str
    """File name of the clip."""
    effect: str
    """Name of the effect."""
    figures: Mapping[str, Figures]
    """Figures of each candidate, by the names at the head of this file."""

    @property
    def is_deterministic(self) -> bool:
        """True: the effect has one right answer."""
        return self.effect in DETERMINISTIC

    def as_json(self) -> dict[str, Any]:
        """Return the score for programs."""
        return {
            "clip": self.clip,
            "effect": self.effect,
            "deterministic": self.is_deterministic,
            "figures": {name: one.as_json() for name, one in self.figures.items()},
        }


def order_effects(names: Sequence[str]) -> tuple[str, ...]:
    """Return effects in the order in which they are measured: the deterministic ones first.

    A grid edits three at once, so the order decides which share a grid; it is always the same.
    """
    known = [name for name in EFFECT_NAMES if name in names]
    return tuple(sorted(known, key=lambda name: name not in DETERMINISTIC))


def render_truth(
    frames_THWC: Tensor,
    effect: str,
    fps: float,
    drift: int | Tensor = _DRIFT,
    matte_THW: Tensor | None = None,
) -> Tensor:
    """Render an effect on a clip as a picture file would hold it.

    Args:
        frames_THWC: The clip, uint8.
        effect: Name of the effect.
        fps: Frames per second of the clip.
        drift: For effects with chance in them: a seed, or the moving noise MFYX itself.
        matte_THW: Where its person is; None: nobody, or not known.

    Returns:
        The clip under the effect, uint8.
    """
    clip_CTHW = rearrange(frames_THWC, "t h w c -> c t h w").float() / 255
    fixed = isinstance(drift, Tensor)
    rendered_CTHW = render_effect(
        effect,
        clip_CTHW,
        generator=torch.Generator().manual_seed(_DRIFT if fixed else drift),
        fps=fps,
        drift_MFYX=drift if fixed else None,
        matte_THW=matte_THW,
    )
    return rearrange((rendered_CTHW * 255).round().to(torch.uint8), "c t h w -> t h w c")


def own_truth(clip: BenchClip, effect: str, edit: MadeEdit, fps: float) -> Tensor:
    """Render the effect with the chance that an edit was made with, uint8."""
    drift = _DRIFT if edit.drift_MFYX is None else edit.drift_MFYX
    return render_truth(clip.frames_THWC, effect, fps, drift, clip.matte_THW)


def measure_clip(
    models: Mapping[str, NetworkBackbone],
    clip: BenchClip,
    effects: Sequence[str],
    settings: EditSettings,
    seeds: int,
    progress: Progress,
) -> list[Score]:
    """Score every effect on one clip.

    Args:
        models: The models to edit with, by candidate name; `EDIT` must be among them.
        clip: The clip.
        effects: Names of effects.
        settings: Sampler values, and the first seed.
        seeds: How many seeds to average the figures over.
        progress: Told of stages and steps.
    """
    codec, given_THWC = models[EDIT], clip.frames_THWC
    fps = codec.spec.fps
    made = {
        name: [
            edit_clip(
                backbone,
                given_THWC,
                effects,
                replace(settings, seed=settings.seed + turn),
                progress,
            )
            for turn in range(seeds)
        ]
        for name, backbone in models.items()
    }
    scores = []
    for effect in effects:
        figures = {
            name: mean_figures(
                [
                    compare(edits[effect].frames_THWC, own_truth(clip, effect, edits[effect], fps))
                    for edits in tries
                ]
            )
            for name, tries in made.items()
        }
        truth_THWC = own_truth(clip, effect, made[EDIT][0][effect], fps)
        figures[CEILING] = compare(codec_pass(codec, truth_THWC), truth_THWC)
        figures[UNEDITED] = compare(given_THWC, truth_THWC)
        if effect not in DETERMINISTIC:
            other_THWC = render_truth(given_THWC, effect, fps, _OTHER_DRIFT, clip.matte_THW)
            figures[REROLL] = compare(codec_pass(codec, other_THWC), truth_THWC)
        scores.append(Score(clip=clip.path.name, effect=effect, figures=figures))
    return scores


def measure_codec(
    codec: NetworkBackbone, clip: BenchClip, effects: Sequence[str]
) -> dict[str, Figures]:
    """Return what the codec leaves of a clip ("" names the clip as it is) and of effects on it."""
    truths = {"": clip.frames_THWC}
    truths |= {
        name: render_truth(clip.frames_THWC, name, codec.spec.fps, matte_THW=clip.matte_THW)
        for name in effects
    }
    return {name: compare(codec_pass(codec, truth), truth) for name, truth in truths.items()}


GOAL_DB, GOAL_GAP_DB = 25.0, 2.0
"""What issue 2 asks of the mean over the deterministic effects: at least; at most below the
ceiling."""

_FIXED = (EDIT, BARE, CEILING, UNEDITED)
_CHANCE = (EDIT, BARE, CEILING, REROLL, UNEDITED)
_CHANCE_FIGURES = ("psnr", "low_pass_psnr", "motion", "detail")


def truth_report(scores: Sequence[Score], *, brief: bool = False) -> str:
    """Return all tables as text.

    Args:
        scores: What was measured.
        brief: True: means alone, without a row for each clip and effect.
    """
    fixed = [score for score in scores if score.is_deterministic]
    chance = [score for score in scores if not score.is_deterministic]
    parts = []
    if fixed:
        parts += [_fixed_tables(fixed, brief), _goal(fixed)]
    if chance:
        parts.append(_chance_tables(chance, brief))
    if fixed and chance:
        parts.append(
            "All effects together, PSNR in dB\n"
            + _table(_fixed_head(""), [_fixed_row("mean", scores)])
        )
    return "\n\n".join(parts)


def codec_report(results: Mapping[str, Mapping[str, Figures]]) -> str:
    """Return the codec's figures as text.

    Args:
        results: By clip, then by effect ("" is the clip as it is).
    """
    plain = {clip: figures[""].psnr for clip, figures in results.items()}
    rows = [[clip, _db(value)] for clip, value in plain.items()]
    rows += [["mean", _db(mean(list(plain.values())))], ["lowest", _db(min(plain.values()))]]
    text = "The codec on the clips as they are\n" + _table(["clip", "PSNR"], rows)
    effects = [name for name in next(iter(results.values())) if name]
    if not effects:
        return text
    rows = [
        [effect, *(_db(value) for value in (mean(values), min(values)))]
        for effect in effects
        for values in ([figures[effect].psnr for figures in results.values()],)
    ]
    return f"{text}\n\nThe codec on rendered effects\n" + _table(
        ["effect", "mean PSNR", "lowest"], rows
    )


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the means for programs: over deterministic effects, over the others, over all."""
    groups = {
        "deterministic": [score for score in scores if score.is_deterministic],
        "chance": [score for score in scores if not score.is_deterministic],
        "all": list(scores),
    }
    return {
        name: {
            candidate: mean_figures(found).as_json()
            for candidate in (EDIT, BARE, CEILING, UNEDITED, REROLL)
            if (found := [s.figures[candidate] for s in group if candidate in s.figures])
        }
        for name, group in groups.items()
        if group
    }


def _fixed_tables(scores: Sequence[Score], brief: bool) -> str:
    """Return the deterministic effects: each clip and effect, then means both ways, then one."""
    single = [] if brief else scores
    rows = [_fixed_row(f"{score.clip} {score.effect}", [score]) for score in single]
    rows += [_fixed_row(f"mean of {name}", group) for name, group in _groups(scores, _clip)]
    rows += [_fixed_row(f"mean of {name}", group) for name, group in _groups(scores, _effect)]
    rows.append(_fixed_row("mean", scores))
    title = "Deterministic effects: one right answer. PSNR against it in dB."
    return f"{title}\n" + _table(_fixed_head("clip and effect"), rows)


def _fixed_row(name: str, scores: Sequence[Score]) -> list[str]:
    values = [_mean_of(scores, candidate, "psnr") for candidate in _FIXED]
    gap = values[_FIXED.index(CEILING)] - values[_FIXED.index(EDIT)]
    return [name, *(_db(value) for value in (*values, gap))]


def _goal(scores: Sequence[Score]) -> str:
    edit, ceiling = (_mean_of(scores, name, "psnr") for name in (EDIT, CEILING))
    reached = edit >= GOAL_DB and ceiling - edit <= GOAL_GAP_DB
    return (
        f"Goal: at least {GOAL_DB:.0f} dB and at most {GOAL_GAP_DB:.0f} dB below the ceiling. "
        f"Found: {edit:.2f} dB, {ceiling - edit:.2f} dB below. "
        f"{'Reached' if reached else 'Missed'}."
    )


def _chance_tables(scores: Sequence[Score], brief: bool) -> str:
    """Return the effects with chance in them, a table for each figure, means over the clips."""
    titles = {
        "psnr": "PSNR in dB",
        "low_pass_psnr": "PSNR in dB of the mean colours of 8x8 pixels",
        "motion": "energy of the change from frame to frame, times the truth's (1 is right)",
        "detail": "energy of detail, times the truth's (1 is right)",
    }
    note = (
        "Effects with chance in them: the truth is rendered from the noise that the edit started "
        "from.\n'another roll': the same effect rendered with other drift and passed through the "
        "codec; an edit\nthat is no better puts its drops elsewhere."
    )
    tables, single = [note], [] if brief else scores
    for figure in _CHANCE_FIGURES:
        rows = [_chance_row(f"{s.clip} {s.effect}", [s], figure) for s in single]
        rows += [
            _chance_row(f"mean of {name}", group, figure)
            for name, group in _groups(scores, _effect)
        ]
        rows.append(_chance_row("mean", scores, figure))
        tables.append(f"{titles[figure]}\n" + _table(["clip and effect", *_CHANCE], rows))
    return "\n\n".join(tables)


def _chance_row(name: str, scores: Sequence[Score], figure: str) -> list[str]:
    return [name, *(_db(_mean_of(scores, candidate, figure)) for candidate in _CHANCE)]


def _fixed_head(first: str) -> list[str]:
    return [first, *_FIXED, "below ceiling"]


def _mean_of(scores: Sequence[Score], candidate: str, figure: str) -> float:
    """Return the mean of a figure; not a number where the candidate was not measured."""
    found = [score.figures[candidate] for score in scores if candidate in score.figures]
    return mean([getattr(figures, figure) for figures in found])


def _groups(scores: Sequence[Score], key: Callable[[Score], str]) -> list[tuple[str, list[Score]]]:
    """Return scores that share a key, in order of first appearance."""
    names = dict.fromkeys(key(score) for score in scores)
    return [(name, [score for score in scores if key(score) == name]) for name in names]


def _clip(score: Score) -> str:
    return score.clip


def _effect(score: Score) -> str:
    return score.effect


def _db(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in plain text; the first column to the left, figures to the right."""
    every = [head, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    lines = []
    for row in every:
        figures = (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *figures]).rstrip())
    return "\n".join(lines)


MEASURED = ("autoencoder", "text", "dit")
"""Parts that scores depend on; clips are compared before they are enlarged."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    return shared.run_command(lambda: _codec(options) if options.codec_only else _truth(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.truth",
        description="PSNR of edits against the effect rendered on the clip, beside the codec's "
        "ceiling, the base without the adapter, and the unedited clip.",
    )
    parser.add_argument(
        "clips", nargs="*", help="video files, or names in --clips-dir (the held-out clips)"
    )
    parser.add_argument(
        "--effects",
        nargs="+",
        default=["all"],
        help="names of effects, or all, deterministic, chance, none (all)",
    )
    shared.add_clip_options(parser)
    shared.add_model_options(parser)
    shared.add_sampler_options(parser)
    parser.add_argument("--seeds", type=int, default=1, help="seeds to average over (1)")
    parser.add_argument("--no-base", action="store_true", help="skip the base without the adapter")
    parser.add_argument("--codec-only", action="store_true", help="measure only the autoencoder")
    parser.add_argument("--allow-seen", action="store_true", help="take clips that training saw")
    parser.add_argument("--brief", action="store_true", help="print means alone")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    return parser


def _truth(options: argparse.Namespace) -> None:
    """Score edits; a line on stderr tells of each finished clip."""
    effects = order_effects(shared.choose_effects(options.effects))
    seeds = shared.positive(options.seeds, "--seeds")
    if not effects:
        raise UsageError("no effect to measure", hint="name one, or add --codec-only")
    choice = shared.model_choice(options)
    paths = find_clips(options.clips, options.clips_dir, allow_seen=options.allow_seen)
    models = {EDIT: load_choice(choice, parts=MEASURED)}
    if has_adapter(choice) and not options.no_base:
        models[BARE] = load_choice(choice, adapter="none", parts=MEASURED)
    settings = shared.edit_settings(options)
    scores: list[Score] = []
    for number, path in enumerate(paths, start=1):
        clip = read_bench_clip(path, models[EDIT].spec, options.duration, options.network)
        scores += measure_clip(models, clip, effects, settings, seeds, Silent())
        print(f"{number}/{len(paths)} {path.name}", file=sys.stderr)
    if options.json:
        facts = {"seeds": seeds, "means": summary(scores), "scores": [s.as_json() for s in scores]}
        print(json.dumps({**_facts(options, choice), **facts}, indent=1))
    else:
        tables = truth_report(scores, brief=options.brief)
        print(f"{_line(options, choice)} {_counted(seeds, 'seed')}.\n\n{tables}")


def _codec(options: argparse.Namespace) -> None:
    """Measure the autoencoder alone: the other parts may not be trained yet."""
    effects = order_effects(shared.choose_effects(options.effects))
    choice = shared.model_choice(options)
    paths = find_clips(options.clips, options.clips_dir, allow_seen=options.allow_seen)
    codec = load_codec(choice)
    results = {}
    for number, path in enumerate(paths, start=1):
        clip = read_bench_clip(path, codec.spec, options.duration, options.network)
        results[path.name] = measure_codec(codec, clip, effects)
        print(f"{number}/{len(paths)} {path.name}", file=sys.stderr)
    if options.json:
        named = {
            clip: {name or "unedited": one.as_json() for name, one in figures.items()}
            for clip, figures in results.items()
        }
        print(json.dumps({**_facts(options, choice), "codec": named}, indent=1))
    else:
        print(f"{_line(options, choice)}\n\n{codec_report(results)}")


def _facts(options: argparse.Namespace, choice: ModelChoice) -> dict[str, Any]:
    """Return what the figures depend on."""
    device, dtype = choice.place()
    return {
        "model": choice.model,
        "adapter": choice.adapter,
        "weights": {
            part: hub.file_sha256(path)
            for part, path in choice.found().files.items()
            if part in (*PART_NAMES, ADAPTER_NAMES["consistent"]) and path.exists()
        },
        "steps": options.steps,
        "guidance": options.guidance,
        "seed": options.seed,
        "device": str(device),
        "dtype": runtime.dtype_name(dtype),
        "threads": torch.get_num_threads(),
    }


def _line(options: argparse.Namespace, choice: ModelChoice) -> str:
    facts = _facts(options, choice)
    steps = options.steps or "the recipe's"
    guidance = "the recipe's" if options.guidance is None else options.guidance
    return (
        f"Model {facts['model']}, adapter {facts['adapter']}, {facts['device']} {facts['dtype']}, "
        f"steps: {steps}, guidance: {guidance}, seed {facts['seed']}."
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"


if __name__ == "__main__":
    sys.exit(main())
