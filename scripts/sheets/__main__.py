"""`python -m scripts.sheets clips|effects|films|table`: pictures and pages of docs/."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import options as shared
from benchmarks.clips import CLIPS_DIR, find_clips
from dcgrid.errors import UsageError
from dcgrid.pipelines.job import EditJob
from dcgrid.recipes import effect_names, list_effects
from scripts.sheets.credits import SHEET_CLIPS, Credit, credit_of, credits_page
from scripts.sheets.effects_page import PREVIEWS, effects_page
from scripts.sheets.films import PAIRS, TALES, films_page, write_fusions, write_tale
from scripts.sheets.make import SHEET_EFFECTS, write_page, write_previews, write_sheet

DOCS = Path(__file__).parents[2] / "docs"
PREVIEW_CLIP = "asl_book.mkv"
"""The clip of the previews: one person, clear of the background, with light on her hair."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    commands = {"clips": _clips, "effects": _effects, "films": _films, "table": _table}
    return shared.run_command(lambda: commands[options.command](options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.sheets", description="Make the pictures and pages of docs/."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    clips = commands.add_parser("clips", help="contact sheets of real clips, with their credits")
    clips.add_argument("clips", nargs="*", help="names of clips that have a credit (all of them)")
    clips.add_argument("--effects", nargs="+", default=list(SHEET_EFFECTS))
    effects = commands.add_parser("effects", help="a preview of every effect, and effects.md")
    effects.add_argument("--effects", nargs="+", help="names of effects (all)")
    films = commands.add_parser("films", help="compositions and stories, and films.md")
    films.add_argument("--seed", type=int, default=0, help="seed of the noise (0)")
    films.add_argument("--clips-dir", type=Path, default=CLIPS_DIR, help="where the clips are")
    table = commands.add_parser("table", help="effects.md alone, without a model")
    for command in (clips, effects):
        command.add_argument("--clips-dir", type=Path, default=CLIPS_DIR, help="where clips are")
        command.add_argument("--duration", type=float, default=2.0, help="seconds of a clip (2)")
        command.add_argument("--model", default="mini", help="name of the model (mini)")
        command.add_argument("--seed", type=int, default=0, help="seed of the noise (0)")
    for command in (effects, table):
        command.add_argument("--clip", default=PREVIEW_CLIP, help="the clip of the previews")
    for command in (clips, effects, films, table):
        command.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    return parser


def _clips(options: argparse.Namespace) -> None:
    names = options.clips or [credit.clip for credit in SHEET_CLIPS]
    chosen = [_credit(Path(name).name) for name in names]
    effects = shared.choose_effects(options.effects)
    paths = find_clips(names, options.clips_dir, allow_seen=False)
    folder = options.docs / "pictures"
    for credit, path in zip(chosen, paths, strict=True):
        picture = folder / "clips" / credit.picture
        write_sheet(picture, _job(path, options), effects)
        print(picture)
    write_page(folder / "CREDITS.md", credits_page(effects, _credit(PREVIEW_CLIP)))


def _effects(options: argparse.Namespace) -> None:
    preview = _credit(Path(options.clip).name)
    # All shipped recipes, and not only those that training can render.
    effects = options.effects or effect_names()
    path = find_clips([options.clip], options.clips_dir, allow_seen=False)[0]
    for written in write_previews(options.docs / PREVIEWS, _job(path, options), effects):
        print(written)
    write_page(options.docs / "effects.md", effects_page(list_effects(), options.docs, preview))


def _job(path: Path, options: argparse.Namespace) -> EditJob:
    return EditJob(input=path, model=options.model, seed=options.seed, duration_s=options.duration)


def _films(options: argparse.Namespace) -> None:
    pictures = []
    for pair in PAIRS:
        picture = f"pictures/compose/{pair.picture}"
        write_fusions(options.docs / picture, pair, options.clips_dir, options.seed)
        pictures.append((picture, f"`dcgrid compose {pair.first} {pair.second}`"))
        print(picture, file=sys.stderr)
    for tale in TALES:
        picture = f"pictures/stories/{_credit(tale.clip).picture}"
        write_tale(options.docs / picture, tale, options.clips_dir, options.seed)
        scenes = " ".join(f"--scene {name}" for name in tale.scenes)
        pictures.append((picture, f"`dcgrid story --from {tale.clip} {scenes}`"))
        print(picture, file=sys.stderr)
    page = films_page("Compositions and stories", pictures, "python -m scripts.sheets films")
    write_page(options.docs / "films.md", page)


def _table(options: argparse.Namespace) -> None:
    preview = _credit(Path(options.clip).name)
    write_page(options.docs / "effects.md", effects_page(list_effects(), options.docs, preview))


def _credit(clip: str) -> Credit:
    """Return the credit of a clip.

    Raises:
        UsageError: It has none, so pictures of it may not be passed on.
    """
    credit = credit_of(clip)
    if credit is None:
        raise UsageError(
            f"{clip} is not among the clips whose licence lets pictures of it be passed on",
            hint="see scripts/sheets/credits.py",
        )
    return credit


if __name__ == "__main__":
    sys.exit(main())
