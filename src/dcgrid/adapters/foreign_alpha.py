"""The alpha of a LoRA that its tensors do not hold: in the header of the file, or beside it.

    header      lora_alpha, network_alpha, ss_network_alpha or alpha, with or without "transformer."
    header      a JSON table with the same keys, such as diffusers' lora_adapter_metadata
    beside it   PEFT's adapter_config.json

PEFT multiplies B A by alpha / R, or by alpha / sqrt(R) where `use_rslora` is set; a layer named in
`alpha_pattern` has an alpha of its own.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcgrid.adapters.wan_names import diffusers_name
from dcgrid.errors import AdapterError

PEFT_CONFIG = "adapter_config.json"
"""Where PEFT keeps alpha and rank, in the folder of its weights."""
ASSUMED = "assumed: no alpha in its header nor in an adapter_config.json beside it"
"""What is said of a scale of 1 that stands nowhere."""
_PEFT_FILE = "adapter_model.safetensors"
_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the config, each key after "transformer."."""
_NAMES = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")
"""What trainers call alpha; where they differ, the first one counts."""
_HEADS = ("", "transformer", "diffusion_model", "model", "unet", "dit")
"""What may stand before the dot of a key; a later one wins. Text encoders are not listed."""
_MAX_BYTES = 4 * 1024 * 1024
_HINT = "fetch the file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphas:
    """What a header or a config says of the scale of each layer."""

    alpha: float | None = None
    """For all layers; None: R of each."""
    patterns: Mapping[str, float] = field(default_factory=dict)
    """For layers of these names, or with these ends after a dot."""
    root: bool = False
    """True: divided by the square root of R."""
    source: str = ASSUMED
    """Where `alpha` stands, or that it is assumed."""

    def scale(self, name: str, rank: int) -> float:
        """Return the factor of B A in a layer.

        Args:
            name: The layer's in the file, without prefix.
            rank: R.
        """
        own = next((a for pattern, a in self.patterns.items() if _is_named(name, pattern)), None)
        alpha = own if own is not None else self.alpha
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.root else rank)

    def require_known(self, path: Path, names: Iterable[str]) -> None:
        """Check that each pattern names a layer of the file.

        Raises:
            AdapterError: One does not: its alpha would be passed over.
        """
        there = list(names)
        for pattern in self.patterns:
            if not any(_is_named(name, pattern) for name in there):
                raise AdapterError(
                    f"{path}: its alpha_pattern {pattern[:120]!r} names no layer of the file",
                    hint="name layers in full, or by their ends after a dot",
                )


def _is_named(name: str, pattern: str) -> bool:
    literal = pattern.removeprefix("^")
    # A config may have diffusers' names where the file has those of the model's own code.
    names = (name, diffusers_name(name) or name)
    return literal in names or (
        literal == pattern and any(one.endswith(f".{literal}") for one in names)
    )


def read_alphas(path: Path, metadata: Mapping[str, str], ranks: Mapping[str, int]) -> Alphas:
    """Return what a LoRA file, or PEFT's config beside it, says of alphas.

    Args:
        path: The file.
        metadata: The file's header.
        ranks: R of each layer by its name in the file, without prefix.

    Raises:
        AdapterError: The config is damaged, or asks for DoRA.
    """
    for source, values in _header_tables(path, metadata):
        if (alphas := _alphas(path, values, source)) is not None:
            return alphas
    return _alphas_beside(path, ranks) or Alphas()


def _header_tables(
    path: Path, metadata: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the tables of a header, diffusers' own first, the header itself last."""
    if _METADATA in metadata:
        yield f"{_METADATA} in its header", _parse(path, metadata[_METADATA])
    values = {key: _json_value(text) for key, text in metadata.items() if key != _METADATA}
    for key, value in values.items():
        # kohya's ss_ tables count tags and images, which may be called anything.
        if isinstance(value, dict) and not key.startswith("ss_"):
            yield f"{key} in its header", value
    # Text that is no number names no alpha; kohya's trainers take R where theirs is None or 0.
    alphas = {key: value for key, value in values.items() if key.rpartition(".")[2] in _NAMES}
    useless = {
        key
        for key, value in alphas.items()
        if not _is_number(value) or (key.startswith("ss_") and not value)
    }
    yield "its header", {key: value for key, value in values.items() if key not in useless}


def _json_value(text: str) -> object:
    """Return the number, table or truth that a text of a header stands for, or the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _alphas_beside(path: Path, ranks: Mapping[str, int]) -> Alphas | None:
    """Return what PEFT's config beside a file says; None: there is none, or it is another's."""
    config = path.parent / PEFT_CONFIG
    if not config.is_file():
        return None
    try:
        with config.open("rb") as file:
            content = file.read(_MAX_BYTES)
    except OSError as error:
        raise AdapterError(f"cannot read {config}: {error.strerror}", hint=_HINT) from error
    values = _parse(config, content)
    # A folder of downloads may hold the config of one LoRA and the files of many.
    if path.name != _PEFT_FILE and not _fits(values, ranks):
        return Alphas(source=f"assumed: {PEFT_CONFIG} beside it has other ranks or layers")
    return _alphas(config, values, PEFT_CONFIG)


def _fits(values: Mapping[str, Any], ranks: Mapping[str, int]) -> bool:
    """Return True if a config can be that of a file with such layers."""
    own = values.get("rank_pattern")
    known = [values.get("r"), *(own.values() if isinstance(own, dict) else ())]
    if values.get("r") is not None and not set(ranks.values()) <= {*filter(_is_number, known)}:
        return False
    targets = values.get("target_modules")
    if not isinstance(targets, list):
        return True
    return all(any(_is_named(name, str(one)) for one in targets) for name in ranks)


def _parse(path: Path, text: str | bytes) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: its LoRA config is not JSON", hint=_HINT) from error
    if not isinstance(values, dict):
        raise AdapterError(f"{path}: its LoRA config is not a table", hint=_HINT)
    return values


def _table(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a table that is about the transformer, without what stands before dots."""
    found: dict[str, Any] = {}
    for head in _HEADS:
        inner = values.get(head)
        found |= inner if isinstance(inner, dict) else {}
        found |= {
            key.rpartition(".")[2]: value
            for key, value in values.items()
            if key.rpartition(".")[0] == head
        }
    return found


def _alphas(path: Path, values: Mapping[str, Any], source: str) -> Alphas | None:
    """Return what a config says; None: nothing."""
    values = _table(values)
    if values.get("use_dora"):
        raise AdapterError(f"{path} is a DoRA, not a plain LoRA", hint="fetch a plain LoRA")
    patterns = values.get("alpha_pattern") or {}
    name = next((one for one in _NAMES if values.get(one) is not None), None)
    alpha = None if name is None else values[name]
    numbers = [*patterns.values()] if isinstance(patterns, dict) else [None]
    if not all(_is_number(one) for one in (*numbers, 1 if alpha is None else alpha)):
        raise AdapterError(f"{path}: its LoRA config has an alpha that is no number", hint=_HINT)
    if alpha is None and not patterns:
        return None
    named = f"{name} {alpha:g}" if alpha is not None else "alpha_pattern"
    others = [f"{one} {values[one]}" for one in _NAMES if values.get(one) not in (None, alpha)]
    differs = f", which has {', '.join(others)[:100]} as well" if others else ""
    return Alphas(
        alpha=None if alpha is None else float(alpha),
        patterns={str(key): float(value) for key, value in patterns.items()},
        root=values.get("use_rslora") is True,
        source=f"{named} of {source}{differs}",
    )


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        # An int too large for a float would overflow.
        and abs(value) < 1e30
    )
