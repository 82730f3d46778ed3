"""How a user names a weight file: inside the package, in a hub repository, or a path."""

import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from dcgrid.errors import WeightsError


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightReference:
    """A parsed weight reference; `str()` gives back the text it came from."""

    source: Literal["package", "hub", "file"]
    """Who holds the file."""
    path: str
    """Path inside the package's weights folder or the repository, or of the local file; empty: the
    only safetensors file of the repository."""
    repo: str = ""
    """Hub repository "owner/name"; empty unless `source` is "hub"."""
    revision: str = ""
    """Commit, tag or branch of `repo`."""

    def __str__(self) -> str:
        """Return the reference as a user writes it."""
        if self.source == "package":
            return f"package:{self.path}"
        if self.source == "file":
            return self.path
        return f"hf:{self.repo}@{self.revision}" + (f"/{self.path}" if self.path else "")


def parse_reference(text: str) -> WeightReference:
    """Read a weight reference: `package:NAME`, `hf:OWNER/REPO[@REVISION][/FILE]`, or a path.

    Args:
        text: The reference as a user or a recipe writes it.

    Returns:
        The reference; an `hf:` one without a revision means the branch "main".

    Raises:
        WeightsError: The text starts like a reference but is incomplete, or leads out of the
            repository.
    """
    if text.startswith("package:"):
        name = text.removeprefix("package:")
        if not is_inside(name):
            _raise_malformed(text)
        return WeightReference(source="package", path=name)
    if not text.startswith("hf:"):
        if not text:
            _raise_malformed(text)
        return WeightReference(source="file", path=text)
    owner, _, rest = text.removeprefix("hf:").partition("/")
    name, slash, path = rest.partition("/")
    name, at, revision = name.partition("@")
    if not (owner and name) or (slash and not path) or (at and not revision):
        _raise_malformed(text)
    if not all(is_inside(part) for part in (owner, name, revision or "main", path or "file")):
        _raise_malformed(text)
    return WeightReference(
        source="hub", repo=f"{owner}/{name}", revision=revision or "main", path=path
    )


def is_inside(path: str) -> bool:
    """Return True for a relative path that stays inside its folder on every system.

    Args:
        path: With forward slashes; backslashes, drives and control characters are refused.
    """
    parts = path.split("/")
    return not (re.search(r"[\\:\x00-\x1f\x7f]", path) or {"", ".", ".."} & set(parts))


def _raise_malformed(text: str) -> NoReturn:
    raise WeightsError(
        f"weight reference {text[:300]!r} is incomplete or leads out of its folder",
        hint="write package:NAME, hf:OWNER/REPO@REVISION/FILE, or the path of a file",
    )
