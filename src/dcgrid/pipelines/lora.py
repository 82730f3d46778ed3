"""`--lora FILE[:STRENGTH]`: LoRAs that go into the base before its Grid-Fill adapter. No torch.

A reference may hold colons itself (hf:OWNER/REPO/FILE), so only a number after the last one is a
strength.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dcgrid import hub
from dcgrid.errors import UsageError

MAX_STRENGTH = 4.0
"""Largest strength, either way; beyond it pictures only break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraChoice:
    """One LoRA of a job."""

    reference: str
    """See `adapters.find.find_adapter`."""
    strength: float
    """0 changes nothing, 1 is as trained."""

    def __str__(self) -> str:
        """Return the choice as a user writes it."""
        return f"{self.reference}:{self.strength!r}"


def parse_lora(text: str) -> LoraChoice:
    """Read FILE[:STRENGTH]; without a strength it is 1.

    Raises:
        UsageError: There is no file, or the strength is no number in [-4, 4].
    """
    reference, colon, tail = text.rpartition(":")
    strength = _number(tail) if colon and reference not in ("hf", "package") else None
    if strength is None and not reference.endswith(".safetensors"):
        reference, strength = text, 1.0
    if not reference.strip() or strength is None or not abs(strength) <= MAX_STRENGTH:
        raise UsageError(
            f"--lora {text!r} is no FILE or FILE:STRENGTH with a strength from "
            f"{-MAX_STRENGTH:g} to {MAX_STRENGTH:g}",
            hint="for example --lora steps.safetensors:0.8",
        )
    return LoraChoice(reference=reference, strength=strength)


def absolute_loras(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the same LoRAs as they are found from any folder, as a manifest needs them."""
    choices = map(parse_lora, texts)
    return tuple(str(replace(one, reference=absolute_reference(one.reference))) for one in choices)


def absolute_reference(reference: str) -> str:
    """Return the same weight reference as it is found from any folder.

    "default" and "none", which name no weights, stay as they are.
    """
    if reference in ("default", "none") or hub.parse_reference(reference).source != "file":
        return reference
    return str(Path(reference).expanduser().resolve())


def lora_part(number: int) -> str:
    """Return what the LoRA of this number, counted from 1, is called among the weights."""
    return f"lora {number}"


def lora_lines(texts: Sequence[str]) -> list[str]:
    """Return the LoRAs of a plan as a sentence, if there are any."""
    told = [f"{one.reference} at {one.strength:g}" for one in map(parse_lora, texts)]
    return [f"LoRA: {', '.join(told)}."] if told else []


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
