"""What an adapter is, without its numbers, and which layers it acts on.

Torch-free, so that plans and listings are fast.
"""

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt

from dcgrid.errors import AdapterError
from dcgrid.grid.routing import Mode
from dcgrid.io.schema import parse_json
from dcgrid.models.native.config import NativeConfig

Stage = Literal["dc", "grid", "fill"]
"""dc: many dynamic concepts. grid: whole grids. fill: missing cells."""
Form = Literal["plain", "structured"]
"""plain: A and B. structured: two input sides, for appearance and motion, and one output side."""


_Scale = Annotated[float, Gt(0), Le(1e3)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """Facts about one LoRA adapter; they travel in its file.

    Raises:
        AdapterError: If a value is out of range.

    Paper: sec. 3.1-3.3, 8
    """

    name: str
    """Letters, digits, "_" and "-"."""
    stage: Stage
    """Which of the three stages made it."""
    mode: Mode = "consistent"
    """What its grids show."""
    form: Form = "plain"
    """How its update is made up."""
    rank: Annotated[int, Ge(1), Le(2**16)]
    """R, width of the bottleneck."""
    alpha: Annotated[float, Gt(0), Le(1e9)]
    """The update is alpha / rank * B A; > 0."""
    targets: tuple[str, ...]
    """Linear layers it acts on: full names, or their ends after a dot."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability that an input of a plain adapter is dropped in training; in [0, 1). A structured
    one drops numbers of the side that learns, see `structured.learn_part`."""
    layout: str = "2x2"
    """Grid it was trained on, ROWSxCOLS."""
    noise_scale: _Scale = 1.0
    """s in training; > 0."""
    inference_noise_scale: _Scale | None = None
    """s of samplers; > 0. None: as in training."""
    inference_time_shift: _Scale | None = None
    """Shift of samplers' times towards noise; > 0. None: the model's."""
    self_conditioning: bool = False
    """True: it was trained on a network that read its last estimate of the clean latents."""
    given: Literal["clean", "replace"] = "clean"
    """How given cells entered in training: clean at time 0, or noised like the rest."""
    given_first: bool = False
    """True: it was trained with given cells that read given cells alone (docs/decisions/0014)."""
    dc_strength: Annotated[float, Ge(0), Le(100)] = 0.0
    """Strength of the frozen Multi-DC LoRA that acted under it in training; 0: none did."""
    dc_sha256: str = ""
    """The `sha256` in the file of that Multi-DC LoRA; empty where none acted."""
    base: str = ""
    """Name of the model it was trained on."""
    base_hash: str = ""
    """Hash of that model's weights; empty: unknown, not checked."""
    recipe: str = ""
    """Name or text of the training recipe."""
    tokens: tuple[str, ...] = ()
    """Identity and motion tags that it knows, such as [Cat_identity]."""
    prompts: tuple[str, ...] = ()
    """Prompts that show what it can do."""

    def __post_init__(self) -> None:
        """Refuse values that cannot make an adapter."""
        checks = {
            "name": re.fullmatch(r"[A-Za-z0-9_-]{1,100}", self.name) is not None,
            "stage": self.stage in get_args(Stage),
            "mode": self.mode in get_args(Mode),
            "form": self.form in get_args(Form),
            "given": self.given in ("clean", "replace"),
            "rank": self.rank >= 1,
            "alpha": 0 < self.alpha < math.inf,
            "targets": len(self.targets) > 0 and all(self.targets),
            "dropout": 0 <= self.dropout < 1,
            "layout": re.fullmatch(r"[1-9][0-9]{0,2}x[1-9][0-9]{0,2}", self.layout) is not None,
            "noise_scale": 0 < self.noise_scale < math.inf,
            "inference_noise_scale": self.inference_noise_scale is None
            or 0 < self.inference_noise_scale < math.inf,
            "inference_time_shift": self.inference_time_shift is None
            or 0 < self.inference_time_shift < math.inf,
            "dc_strength": 0 <= self.dc_strength < math.inf,
        }
        for key, fits in checks.items():
            if not fits:
                raise AdapterError(
                    f"adapter {self.name[:100]!r} has {key} = {str(getattr(self, key))[:200]!r}",
                    hint="Correct the value in the training recipe, or fetch the adapter again.",
                )

    @property
    def scale(self) -> float:
        """Factor of B A at strength 1."""
        return self.alpha / self.rank

    @property
    def sampled_noise_scale(self) -> float:
        """Return s that samplers take. Paper: sec. 8 (1.90 in training, 1.80 at inference)."""
        asked = self.inference_noise_scale
        return self.noise_scale if asked is None else asked

    def to_json(self) -> str:
        """Return the spec as JSON with sorted keys; `spec_from_json` reads it."""
        return json.dumps(asdict(self), sort_keys=True)


def spec_from_json(text: str) -> AdapterSpec:
    """Read what `AdapterSpec.to_json` wrote.

    Raises:
        AdapterError: If the text is not JSON, a key is unknown or missing, or a value is wrong.
    """
    hint = "fetch the adapter again, or train it with this version"
    return parse_json(text, "the adapter's spec", AdapterError, hint=hint).build(AdapterSpec)


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
