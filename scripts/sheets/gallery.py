"""The gallery docs/effects.md and docs/effects/: a page an effect, with a moving picture.

What is written by hand, a clip and a sentence an effect, stands in gallery.toml.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcgrid.errors import UsageError
from dcgrid.recipes import EffectRecipe, list_effects
from scripts.sheets.credits import Credit, credit_of

PREVIEWS = Path("pictures") / "effects"
"""Where the moving pictures are, from docs/."""
_TABLE = Path(__file__).with_suffix(".toml")
_WRITTEN = (
    "Written by `python -m scripts.sheets pages` from recipes/effects/ and "
    "scripts/sheets/gallery.toml."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """What shows an effect."""

    credit: Credit
    """The clip."""
    start_s: float
    """Seconds of the clip before the part that is shown."""
    sentence: str
    """What to see in it, by hand."""


def read_exhibits() -> dict[str, Exhibit]:
    """Return what gallery.toml says, by the effect's name."""
    table = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return {
        name: Exhibit(credit=credit(row["clip"]), start_s=row["start_s"], sentence=row["sentence"])
        for name, row in table.items()
    }


def credit(clip: str) -> Credit:
    """Return the credit of a clip.

    Raises:
        UsageError: It has none, so pictures of it may not be passed on.
    """
    found = credit_of(clip)
    if found is None:
        raise UsageError(
            f"{clip} is not among the clips whose licence lets pictures of it be passed on",
            hint="see scripts/sheets/credits.py",
        )
    return found


def gallery_pages() -> dict[str, str]:
    """Return every page of the gallery, by its path from docs/."""
    effects, exhibits = list_effects(), read_exhibits()
    pages = {f"effects/{one.name}.md": _effect_page(one, exhibits[one.name]) for one in effects}
    return {"effects.md": _index(effects, exhibits), **pages}


def _index(effects: Sequence[EffectRecipe], exhibits: Mapping[str, Exhibit]) -> str:
    rows = "\n".join(_row(effect) for effect in effects)
    shown = "\n".join(
        f"## [{one.title}](effects/{one.name}.md)\n\n{exhibits[one.name].sentence}\n\n"
        f"![{one.title}: a clip, and its edit](pictures/effects/{one.name}.webp)\n"
        for one in effects
    )
    return f"""# Effects

<!-- {_WRITTEN} -->

`dcgrid edit input.mp4 --effect NAME` takes any of these {len(effects)}, up to three in one pass.
Left the clip, right the edit, as the embedded model `mini` makes it; whom the clips are owed to:
[pictures/CREDITS.md](pictures/CREDITS.md).

{shown}
## As a table

| name | title | kind | text of the cell | one answer |
|---|---|---|---|---|
{rows}

*One answer* is yes where the effect is a function of the clip (tone and light), so that an edit can
be compared with the truth pixel by pixel; [benchmarks.md](benchmarks.md) does. Effects with chance
in them (rain, smoke) have no single truth.

## Your own

An effect is one small text file; `dcgrid recipes show NAME` prints one. Give the path of yours to
`--effect`, or put it into `recipes/effects/` of your configuration folder.
[prompt-language.md](prompt-language.md) says what its text may hold.
"""


def _row(effect: EffectRecipe) -> str:
    answer = "yes" if effect.deterministic else "no"
    clause = effect.clause.replace("|", r"\|")
    name = f"[`{effect.name}`](effects/{effect.name}.md)"
    return f"| {name} | {effect.title} | {effect.kind} | {clause} | {answer} |"


def _effect_page(effect: EffectRecipe, exhibit: Exhibit) -> str:
    owner = exhibit.credit
    phrases = ", ".join(f'"{phrase}"' for phrase in effect.phrases)
    answer = (
        "One answer: the effect is a function of the clip, and "
        "[benchmarks.md](../benchmarks.md) compares edits with it."
        if effect.deterministic
        else "No one answer: chance decides where things are; another `--seed` puts them elsewhere."
    )
    return f"""# {effect.title}

<!-- {_WRITTEN} -->

{exhibit.sentence}

![{effect.title}: a clip, and its edit](../{PREVIEWS.as_posix()}/{effect.name}.webp)

*Left {owner.clip}, right the edit. {owner.author}, {owner.license}, {owner.source}*

```sh
dcgrid edit input.mp4 --effect {effect.name}
```

| | |
|---|---|
| kind | {effect.kind} |
| text of the cell | {effect.clause} |
| negative text | {effect.negative} |
| may be typed as | {phrases} |

{answer}

[All effects](../effects.md) · [how an edit works](../edit.md) ·
[write your own](../prompt-language.md)
"""
