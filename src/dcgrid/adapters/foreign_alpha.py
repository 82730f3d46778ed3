"""The alpha of a LoRA that its tensors do not tell: PEFT's config, in the metadata or beside it.

PEFT multiplies B A by alpha / R, or by alpha / sqrt(R) where `use_rslora` is set; a layer named in
`alpha_pattern` has an alpha of its own.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcgrid.errors import AdapterError

_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the config, each key after "transformer."."""
_PART = "transformer."
_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_MAX_BYTES = 4 * 1024 * 1024
_HINT = "fetch the file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphas:
    """What a config says of the scale of each layer."""

    alpha: float | None = None
    """For all layers; None: R of each."""
    patterns: Mapping[str, float] = field(default_factory=dict)
    """For layers of these names, or with these ends after a dot."""
    root: bool = False
    """True: divided by the square root of R."""

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
    return name == literal or (literal == pattern and name.endswith(f".{literal}"))


def read_alphas(path: Path, metadata: Mapping[str, str], naming: str) -> Alphas:
    """Return what a LoRA file, or PEFT's config beside it, says of alphas.

    Args:
        path: The file.
        metadata: The file's.
        naming: How the file names its layers, see `foreign.Naming`.

    Raises:
        AdapterError: The config is damaged, or asks for DoRA.
    """
    if _METADATA in metadata:
        values = _parse(path, metadata[_METADATA])
        values = {k.removeprefix(_PART): v for k, v in values.items() if k.startswith(_PART)}
        return _alphas(path, values)
    config = path.parent / _PEFT_CONFIG
    if naming != "peft" or path.name != _PEFT_FILE or not config.is_file():
        return Alphas()
    try:
        with config.open("rb") as file:
            content = file.read(_MAX_BYTES)
    except OSError as error:
        raise AdapterError(f"cannot read {config}: {error.strerror}", hint=_HINT) from error
    return _alphas(config, _parse(config, content))


def _parse(path: Path, text: str | bytes) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: its LoRA config is not JSON", hint=_HINT) from error
    if not isinstance(values, dict):
        raise AdapterError(f"{path}: its LoRA config is not a table", hint=_HINT)
    return values


def _alphas(path: Path, values: Mapping[str, Any]) -> Alphas:
    if values.get("use_dora"):
        raise AdapterError(f"{path} is a DoRA, not a plain LoRA", hint="fetch a plain LoRA")
    patterns = values.get("alpha_pattern") or {}
    alpha = values.get("lora_alpha")
    numbers = [*patterns.values()] if isinstance(patterns, dict) else [None]
    if not all(_is_number(one) for one in (*numbers, 1 if alpha is None else alpha)):
        raise AdapterError(f"{path}: its LoRA config has an alpha that is no number", hint=_HINT)
    return Alphas(
        alpha=None if alpha is None else float(alpha),
        patterns={str(key): float(value) for key, value in patterns.items()},
        root=values.get("use_rslora") is True,
    )


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        # An int too large for a float would overflow.
        and abs(value) < 1e30
    )
