"""Names of Wan's layers: diffusers', which ours are, and those of the model's own code.

ComfyUI and most trainers go by the model's own code. kohya's trainers write its names with "_" in
place of each dot, so a name is looked up without regard to which of both parts it.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"} | {
    name: name for name in ("norm_q", "norm_k")
}
_BLOCK: Mapping[str, str] = MappingProxyType(
    {f"self_attn.{own}": f"attn1.{name}" for own, name in _ATTENTION.items()}
    | {f"cross_attn.{own}": f"attn2.{name}" for own, name in _ATTENTION.items()}
    | {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2", "norm3": "norm2"}
    | {"modulation": "scale_shift_table"}
)
"""Parts of a block: the model's own name, diffusers' name."""
_OUTSIDE: Mapping[str, str] = MappingProxyType(
    {
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "head.head": "proj_out",
        "head.modulation": "scale_shift_table",
        "patch_embedding": "patch_embedding",
    }
)
"""Parts outside of the blocks."""


def _by_flat_name(table: Mapping[str, str]) -> Mapping[str, str]:
    """Return diffusers' names by either name, its dots made "_"."""
    return MappingProxyType(
        {either.replace(".", "_"): name for own, name in table.items() for either in (own, name)}
    )


_FLAT_BLOCK, _FLAT_OUTSIDE = _by_flat_name(_BLOCK), _by_flat_name(_OUTSIDE)

WIDTHS: Mapping[int, str] = MappingProxyType({5120: "14B", 3072: "5B", 1536: "1.3B"})
"""Sizes of Wan by the width of its tokens."""


def diffusers_name(name: str) -> str | None:
    """Return diffusers' name of a part of Wan; None: Wan has no such part.

    Args:
        name: In either naming, with dots or "_" between its parts.
    """
    block = re.fullmatch(r"blocks[._](\d{1,4})[._](.+)", name)
    if block is None:
        return _FLAT_OUTSIDE.get(name.replace(".", "_"))
    part = _FLAT_BLOCK.get(block[2].replace(".", "_"))
    return None if part is None else f"blocks.{int(block[1])}.{part}"


def original_name(name: str) -> str | None:
    """Return the name in the model's own code of a part; None: Wan has no such part.

    Args:
        name: diffusers' name.
    """
    block = re.fullmatch(r"(blocks\.\d{1,4}\.)(.+)", name)
    before, part, table = (block[1], block[2], _BLOCK) if block else ("", name, _OUTSIDE)
    return next((before + own for own, other in table.items() if other == part), None)


def size_name(width: int) -> str:
    """Return a width with the size of Wan that has it, such as "5120 (Wan 14B)"."""
    return f"{width} (Wan {WIDTHS[width]})" if width in WIDTHS else str(width)
