"""Which layers adapters act on, of the program's own models and of checkouts."""

from dataclasses import dataclass

from dcgrid.models.native.config import NativeConfig

_SIDES = ("query", "key", "value", "out")
_WAN_SIDES = ("to_q", "to_k", "to_v", "to_out.0")
_WAN_FEED = ("ffn.net.0.proj", "ffn.net.2")
_WAN_ALL = (*(f"{one}.{side}" for one in ("attn1", "attn2") for side in _WAN_SIDES), *_WAN_FEED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Linear layers that the adapters of each stage act on, by the ends of their names."""

    dc: tuple[str, ...]
    """Multi-DC: attention and MLP. What looks from cell to cell at one place is left out: with a
    single cell it has nothing to learn."""
    routed: tuple[str, ...]
    """Grid, composition: q of attention, whose weights differ from cell to cell. Paper: eqs. 1-3"""
    all: tuple[str, ...]
    """Grid and Grid-Fill: all of attention and MLP, and what else a model has."""


_WAN = Targets(dc=_WAN_ALL, routed=("attn1.to_q", "attn2.to_q"), all=_WAN_ALL)


def adapter_targets(config: NativeConfig | None) -> Targets:
    """Return the layers that adapters of a model act on.

    Args:
        config: Its preset; None: a checkout.
    """
    if config is None:
        return _WAN
    luck = ("luck",) if config.dit.noise_motion else ()
    attention = ("grid_attention", "text_attention")
    plain = (*(f"{one}.{side}" for one in attention for side in _SIDES), "mlp_in", "mlp_out")
    more = (*_SIDES, "gate", "mlp_in", "mlp_out", "modulation", *luck)
    return Targets(
        dc=plain,
        routed=tuple(f"{one}.query" for one in attention),
        # The paper's network has no layers but those of attention, MLP and modulation.
        all=more if config.dit.peer_head else plain,
    )
