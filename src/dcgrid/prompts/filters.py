"""The filters of the template language: pure functions from text to text."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

# Words after which English takes no further article.
_DETERMINERS = frozenset(
    (
        *("a", "an", "the", "this", "that", "these", "those", "my", "your", "his", "her", "its"),
        *("our", "their", "some", "any", "no", "every", "each", "both", "all", "another", "many"),
        *("several", "few", "one", "two", "three", "four", "five", "six", "seven", "eight"),
        *("nine", "ten"),
    )
)
# Spelled with a vowel but spoken with a consonant ("a unicorn"), and the reverse ("an hour").
_SPOKEN_CONSONANT = (
    *("eu", "ewe", "one", "once", "ukulele", "unic", "unif", "union", "uniq", "unit", "univ"),
    *("ura", "use", "usu", "ute"),
)
_SPOKEN_VOWEL = ("heir", "honest", "honor", "honour", "hour")


def article(text: str) -> str:
    """Put "a" or "an" in front, unless the text has a determiner, a number or a capital.

    >>> article("cat"), article("old man"), article("the subject"), article("Lincoln")
    ('a cat', 'an old man', 'the subject', 'Lincoln')
    """
    words = text.split()
    if not words or not words[0][0].isalpha() or words[0][0].isupper():
        return text
    first = words[0].lower()
    if first in _DETERMINERS:
        return text
    vowel = first[0] in "aeiou" and not first.startswith(_SPOKEN_CONSONANT)
    spoken_vowel = vowel or first.startswith(_SPOKEN_VOWEL)
    return f"{'an' if spoken_vowel else 'a'} {text.lstrip()}"


def bare(text: str) -> str:
    """Strip white space and closing punctuation, so that the template can set its own."""
    return text.strip().rstrip(".,;:!? \t\n")


def capital(text: str) -> str:
    """Make the first character upper case and leave the rest alone."""
    stripped = text.lstrip()
    return stripped[:1].upper() + stripped[1:]


def lower(text: str) -> str:
    """Make the whole text lower case."""
    return text.lower()


def tag(text: str) -> str:
    """Write a concept tag: in square brackets, blanks as underscores; no text, no tag.

    >>> tag("Cat_identity"), tag("[SparkEffect]"), tag("my dog")
    ('[Cat_identity]', '[SparkEffect]', '[my_dog]')
    """
    name = text.strip()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    joined = "_".join(name.split())
    return f"[{joined}]" if joined else ""


FILTERS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"article": article, "bare": bare, "capital": capital, "lower": lower, "tag": tag}
)
"""Every filter by its name in templates."""
