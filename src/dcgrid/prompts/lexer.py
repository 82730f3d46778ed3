"""Template text to tokens: runs of text, and names, strings and signs between braces.

Knows the characters of the language and nothing of its grammar (that is parser.py).
"""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from dcgrid.prompts.source import Source, unprintable

MAX_TEMPLATE = 20_000
"""Most characters of a template."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STRING = re.compile(r'"((?:[^"\\\n]|\\["\\])*)"')
_TEXT = re.compile(r"(?:[^{}]|\{\{|\}\})+")


class TokenKind(enum.Enum):
    """What a token is."""

    TEXT = "text"
    OPEN = "{"
    CLOSE = "}"
    NAME = "name"
    STRING = "string"
    PIPE = "|"
    END = "end of template"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token and the characters it was read from."""

    kind: TokenKind
    value: str
    """Text or string with escapes resolved, or the name or sign itself."""
    start: int
    end: int


def tokens(source: Source) -> Iterator[Token]:
    """Read the tokens of a template; the last one is END.

    Raises:
        PromptError: Too long, a control character, a stray brace, an open string, an unknown sign.
    """
    text = source.text
    if len(text) > MAX_TEMPLATE:
        problem = f"template of {len(text)} characters; at most {MAX_TEMPLATE} are allowed"
        raise source.error(0, 1, problem)
    bad = unprintable(text)
    if bad is not None:
        raise source.error(bad, bad + 1, f"control character U+{ord(text[bad]):04X}")
    position = 0
    while position < len(text):
        match = _TEXT.match(text, position)
        if match:
            value = match[0].replace("{{", "{").replace("}}", "}")
            yield Token(kind=TokenKind.TEXT, value=value, start=position, end=match.end())
            position = match.end()
        elif text[position] == "}":
            raise source.error(position, position + 1, "'}' closes nothing; write }} for a brace")
        else:
            for token in _tag_tokens(source, position):
                yield token
                position = token.end
    yield Token(kind=TokenKind.END, value="", start=len(text), end=len(text))


def _tag_tokens(source: Source, opening: int) -> Iterator[Token]:
    """Read the tokens of one tag, from its opening brace to its closing one."""
    text = source.text
    yield Token(kind=TokenKind.OPEN, value="{", start=opening, end=opening + 1)
    position = opening + 1
    while position < len(text):
        character = text[position]
        if character.isspace():
            position += 1
            continue
        token = _tag_token(source, position)
        yield token
        if token.kind is TokenKind.CLOSE:
            return
        position = token.end
    problem = "'{' is never closed; write {{ for a brace"
    raise source.error(opening, opening + 1, problem)


def _tag_token(source: Source, position: int) -> Token:
    """Read the one token of a tag that starts at a position."""
    text, character = source.text, source.text[position]
    if character in "|}":
        kind = TokenKind.PIPE if character == "|" else TokenKind.CLOSE
        return Token(kind=kind, value=character, start=position, end=position + 1)
    name = _NAME.match(text, position)
    if name:
        return Token(kind=TokenKind.NAME, value=name[0], start=position, end=name.end())
    if character != '"':
        raise source.error(position, position + 1, f"unexpected {character!r} inside braces")
    string = _STRING.match(text, position)
    if not string:
        problem = 'string is not closed on its line; inside it only \\" and \\\\ may follow \\'
        raise source.error(position, position + 1, problem)
    value = re.sub(r'\\(["\\])', r"\1", string[1])
    return Token(kind=TokenKind.STRING, value=value, start=position, end=string.end())
