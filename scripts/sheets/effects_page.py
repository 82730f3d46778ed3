"""The page docs/effects.md: every shipped effect, its text and its picture."""

from collections.abc import Sequence
from pathlib import Path

from dcgrid.recipes import EffectRecipe
from scripts.sheets.credits import Credit

PREVIEWS = Path("pictures") / "effects"
"""Where the previews are, from the page."""


def effects_page(effects: Sequence[EffectRecipe], docs: Path, preview: Credit) -> str:
    """Return the page.

    Args:
        effects: The recipes to list.
        docs: Folder of the page; a preview that is not below it is left out.
        preview: The clip that the previews show.
    """
    rows = "\n".join(_row(effect, docs) for effect in effects)
    return f"""# Effects

Written by `python -m scripts.sheets effects` from recipes/effects/; change the recipes, not this
page.

`dcgrid edit input.mp4 --effect NAME` takes any of these {len(effects)}, up to three in one pass.
`dcgrid recipes show NAME` prints a recipe with its negative text and its sampler values. An effect
is one small text file: to make your own, give the path of one like it to `--effect`, or put it into
`recipes/effects/` of your configuration folder. [prompt-language.md](prompt-language.md) says what
its text may hold.

*One answer* is yes where the effect is a function of the clip (tone and light), so that an edit can
be compared with the truth pixel by pixel; [benchmarks.md](benchmarks.md) does. Effects with chance
in them (rain, smoke) have no single truth.

The previews show {preview.clip} ({preview.author}, {preview.license}): above the
original, below the edit.

| name | title | kind | text of the cell | one answer | preview |
|---|---|---|---|---|---|
{rows}
"""


def _row(effect: EffectRecipe, docs: Path) -> str:
    picture = PREVIEWS / f"{effect.name}.webp"
    # A link to a picture that is not there would be worse than none.
    shown = f"![{effect.title}]({picture.as_posix()})" if (docs / picture).exists() else "-"
    answer = "yes" if effect.deterministic else "no"
    clause = effect.clause.replace("|", r"\|")
    return f"| `{effect.name}` | {effect.title} | {effect.kind} | {clause} | {answer} | {shown} |"
