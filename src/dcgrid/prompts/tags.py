"""Names in brackets: which tags a text names, and whether they are known. No torch here."""

import re
from collections.abc import Collection, Iterable

from dcgrid.errors import PromptError
from dcgrid.prompts.source import nearest

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_SHOWN = 24
"""Most known tags that a hint lists."""


def named_tags(texts: Iterable[str]) -> tuple[str, ...]:
    """Return what stands in square brackets, without them, each once and in order."""
    names = (name for text in texts for name in _BRACKETS.findall(text))
    return tuple(dict.fromkeys(names))


def check_tags(texts: Iterable[str], known: Collection[str], *, hint: str) -> None:
    """See that every name in brackets is a known tag.

    Args:
        texts: Texts of cells, without the names of cells.
        known: Names of tags, without brackets.
        hint: What to do where no tag is known at all.

    Raises:
        PromptError: One is not: the model would read it as words that it may never have seen.
    """
    for text in texts:
        for name in named_tags([text]):
            if name in known:
                continue
            if not known:
                raise PromptError(
                    f"{text[:120]!r} names the tag [{name[:80]}], and no tags are loaded", hint=hint
                )
            listed = ", ".join(f"[{tag}]" for tag in list(known)[:_SHOWN])
            more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
            raise PromptError(
                f"{text[:120]!r} names [{name[:80]}], a tag that is not known"
                f"{nearest(name, known)}",
                hint=f"known tags: {listed}{more}",
            )
