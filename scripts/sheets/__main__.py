"""`python -m scripts.sheets clips|effects|films|pages`: pictures and pages of docs/."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import options as shared
from benchmarks.clips import CLIPS_DIR, find_clips
from dcgrid.pipelines.job import EditJob
from scripts.sheets.credits import SHEET_CLIPS, credits_page
from scripts.sheets.films import PAIRS, TALES, films_page, write_fusions, write_tale
from scripts.sheets.gallery import PREVIEWS, credit, gallery_pages, read_exhibits
from scripts.sheets.make import SHEET_EFFECTS, write_effect, write_page, write_sheet

DOCS = Path(__file__).parents[2] / "docs"
README_EFFECTS = ("rain", "smoke", "sparks")
"""What README's first picture shows, of bigbuckbunny.mp4 from the second second on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    commands = {"clips": _clips, "effects": _effects, "films": _films, "pages": _pages}
    return shared.run_command(lambda: commands[options.command](options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.sheets", description="Make the pictures and pages of docs/."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    clips = commands.add_parser("clips", help="contact sheets of real clips, with their credits")
    clips.add_argument("clips", nargs="*", help="names of clips that have a credit (all of them)")
    clips.add_argument("--effects", nargs="+", default=list(SHEET_EFFECTS))
    effects = commands.add_parser("effects", help="a moving picture of every effect, and pages")
    effects.add_argument(
        "--effects", nargs="+", help="names of effects (all, and README's picture)"
    )
    films = commands.add_parser("films", help="compositions and stories, and films.md")
    films.add_argument("--seed", type=int, default=0, help="seed of the noise (0)")
    films.add_argument("--clips-dir", type=Path, default=CLIPS_DIR, help="where the clips are")
    pages = commands.add_parser("pages", help="effects.md and effects/ alone, without a model")
    for command, seconds in ((clips, 2.0), (effects, 1.5)):
        command.add_argument("--clips-dir", type=Path, default=CLIPS_DIR, help="where clips are")
        command.add_argument(
            "--duration", type=float, default=seconds, help=f"seconds of a clip ({seconds:g})"
        )
        command.add_argument("--model", default="mini", help="name of the model (mini)")
        command.add_argument("--seed", type=int, default=0, help="seed of the noise (0)")
    for command in (clips, effects, films, pages):
        command.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    return parser


def _clips(options: argparse.Namespace) -> None:
    names = options.clips or [one.clip for one in SHEET_CLIPS]
    chosen = [credit(Path(name).name) for name in names]
    effects = shared.choose_effects(options.effects)
    paths = find_clips(names, options.clips_dir, allow_seen=False)
    folder = options.docs / "pictures"
    for owner, path in zip(chosen, paths, strict=True):
        picture = folder / "clips" / owner.picture
        write_sheet(picture, _job(path, options), effects)
        print(picture)
    write_page(folder / "CREDITS.md", credits_page(effects))


def _effects(options: argparse.Namespace) -> None:
    exhibits = read_exhibits()
    # All shipped recipes, and not only those that training can render.
    for name in options.effects or exhibits:
        exhibit = exhibits[name]
        path = find_clips([exhibit.credit.clip], options.clips_dir, allow_seen=False)[0]
        # The pictures have fewer frames a second than the clips.
        job = replace(_job(path, options), effects=(name,), start_s=exhibit.start_s, fps="model")
        write_effect(options.docs / PREVIEWS / f"{name}.webp", job)
        print(options.docs / PREVIEWS / f"{name}.webp")
    if not options.effects:
        path = find_clips(["bigbuckbunny.mp4"], options.clips_dir, allow_seen=False)[0]
        job = replace(_job(path, options), effects=README_EFFECTS, start_s=2.0)
        write_effect(options.docs / "pictures" / "edit.webp", job, width=480)
    _pages(options)


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
        picture = f"pictures/stories/{credit(tale.clip).picture}"
        write_tale(options.docs / picture, tale, options.clips_dir, options.seed)
        scenes = " ".join(f"--scene {name}" for name in tale.scenes)
        pictures.append((picture, f"`dcgrid story --from {tale.clip} {scenes}`"))
        print(picture, file=sys.stderr)
    page = films_page("Compositions and stories", pictures, "python -m scripts.sheets films")
    write_page(options.docs / "films.md", page)


def _pages(options: argparse.Namespace) -> None:
    for path, text in gallery_pages().items():
        write_page(options.docs / path, text)


if __name__ == "__main__":
    sys.exit(main())
