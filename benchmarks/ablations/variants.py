"""What is trained, and which two of them answer which question of the paper."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Family = Literal["fill", "composition", "moved"]
"""fill: Grid-Fill on edits, one given cell. composition: Grid on fusions, no given cell.
moved: Grid-Fill on cells whose subject stands elsewhere."""

FEW, MANY = 1, 6
"""Steps of the sampler; mini's recipes take one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to train or to use an adapter."""

    name: str
    """Name of its files."""
    family: Family
    """What is trained, and what is measured."""
    loss: Mapping[str, float] = field(default_factory=dict)
    """Keys of the recipe's table [loss] that differ from the family's."""
    given: Literal["clean", "replace"] = "clean"
    """How given cells enter."""
    given_first: bool = False
    """Given cells read given cells alone."""
    joined: bool = False
    """What a cell reads is encoded as one text, not segment by segment."""
    masked_words: float = 0.0
    """Probability with which each word of a text is left away before the text is encoded."""
    all_text: bool = False
    """Every cell reads the clauses of all cells."""
    routed: bool = False
    """Two adapters, one for cell A and one for cell B, and their mean for the fusions."""
    inference_noise: float = 1.0
    """s of the sampler."""
    multi_dc: float = 0.0
    """Strength of the Multi-DC LoRA at inference; in training it is `loss["dc_strength"]`."""
    bare: bool = False
    """The base alone, without any adapter."""
    stand_in: Literal["", "copy", "truth"] = ""
    """What stands for the generated cells: nothing, they are generated; a given cell as it is; or
    the truth after the autoencoder."""
    trained_as: str = ""
    """Name of the variant whose adapter this one uses; empty: it is trained."""


FILL = Variant(name="fill", family="fill")
"""What the others of its family differ from: all as `mini` has it, no text masked or dropped."""
ON_MULTI_DC = Variant(name="multi-dc-dropped", family="fill", loss={"dc_strength": 1.0})
"""Trained on the frozen Multi-DC LoRA, as the loss of section 3.3 has it."""
ROUTED = Variant(name="routed-visible", family="composition", routed=True)
"""The paper's way: structured LoRAs, and text that is visible to its cells alone."""

VARIANTS: tuple[Variant, ...] = (
    FILL,
    Variant(name="masking", family="fill", loss={"text_masking": 0.6}),
    Variant(name="masking-words", family="fill", masked_words=0.6),
    Variant(name="dropping", family="fill", loss={"caption_dropout": 0.6}),
    Variant(name="noise", family="fill", loss={"noise_scale": 1.9}, inference_noise=1.8),
    Variant(name="replaced", family="fill", given="replace"),
    Variant(name="given-first", family="fill", given_first=True),
    Variant(name="sampled", family="fill", loss={"sampled_share": 0.25}),
    Variant(name="joined", family="fill", joined=True),
    ON_MULTI_DC,
    replace(ON_MULTI_DC, name="multi-dc-kept", multi_dc=1.0, trained_as=ON_MULTI_DC.name),
    Variant(name="moved", family="fill", loss={"moved_share": 0.5}),
    Variant(name="moved-copy", family="moved", bare=True, stand_in="copy"),
    Variant(name="moved-fill", family="moved", trained_as="fill"),
    Variant(name="moved-pairs", family="moved", trained_as="moved"),
    Variant(name="moved-ceiling", family="moved", bare=True, stand_in="truth"),
    ROUTED,
    Variant(name="naive", family="composition", all_text=True),
    Variant(name="one-lora", family="composition"),
    Variant(name="all-text", family="composition", routed=True, all_text=True),
    Variant(name="no-adapter", family="composition", bare=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One claim, and the two variants that put it to the test."""

    asks: str
    """What is compared."""
    claim: str
    """What the paper says and where; else whose the choice is, and on which page it stands."""
    first: str
    """Name of the variant that is measured from."""
    second: str
    """Name of the variant whose figures less those of the first answer it."""


QUESTIONS: tuple[Question, ...] = (
    Question(
        asks="naive LoRA and text, against routed LoRAs and visible text",
        claim="naive finetuning leaks concepts, structured LoRAs with masks less (Fig. 7)",
        first="naive",
        second="routed-visible",
    ),
    Question(
        asks="the base without adapter, against routed LoRAs and visible text",
        claim="ours; says what of a leak is the base's own",
        first="no-adapter",
        second="routed-visible",
    ),
    Question(
        asks="routing alone (text visible in both)",
        claim="ours to ask: the paper has it with masks only (Fig. 7)",
        first="one-lora",
        second="routed-visible",
    ),
    Question(
        asks="visible text alone (LoRAs routed in both)",
        claim="masked attention reduces leaking (sec. 5.2.1)",
        first="all-text",
        second="routed-visible",
    ),
    Question(
        asks="without sampled grids, against a quarter of them",
        claim="sampled grids augment the data of Grid-Fill (sec. 5.1, Table 1)",
        first="fill",
        second="sampled",
    ),
    Question(
        asks="trained on Multi-DC: kept at inference, against left away",
        claim="leaving it away keeps more of the identity (sec. 5.1, Table 1)",
        first="multi-dc-kept",
        second="multi-dc-dropped",
    ),
    Question(
        asks="trained without Multi-DC, against trained on it and left away at inference",
        claim="the grid-fill loss has the frozen Multi-DC weights in it (sec. 3.3)",
        first="fill",
        second="multi-dc-dropped",
    ),
    Question(
        asks="trained without Multi-DC, against trained on it and kept at inference",
        claim="ours; says what the whole of Multi-DC does to an edit",
        first="fill",
        second="multi-dc-kept",
    ),
    Question(
        asks="text token masking 0 against 0.6",
        claim="0.6 in Grid-Fill (sec. 8)",
        first="fill",
        second="masking",
    ),
    Question(
        asks="tokens masked after the text encoder, against words before it",
        claim="ours: the paper does not say where it masks (docs/decisions/0020)",
        first="masking",
        second="masking-words",
    ),
    Question(
        asks="whole captions dropped 0 against 0.6",
        claim="ours; what masking was here at first",
        first="fill",
        second="dropping",
    ),
    Question(
        asks="noise scale 1 against 1.9 (1.8 at inference)",
        claim="1.9 and 1.8 (sec. 8)",
        first="fill",
        second="noise",
    ),
    Question(
        asks="given cells clean, against noised like the rest",
        claim="visible cells stay fixed (sec. 3.3); clean at time 0 is our reading",
        first="fill",
        second="replaced",
    ),
    Question(
        asks="full attention, against given-first",
        claim="given-first is ours (docs/decisions/0014)",
        first="fill",
        second="given-first",
    ),
    Question(
        asks="text encoded segment by segment, against as one",
        claim="segments of their own are ours; the paper says who reads what (sec. 3.2)",
        first="fill",
        second="joined",
    ),
    Question(
        asks="edits in place: trained on these alone, against half on moved pairs",
        claim="ours; says what moved pairs cost",
        first="fill",
        second="moved",
    ),
    Question(
        asks="moved pairs: the given cell as it is, against trained on moved pairs",
        claim="edits are not aligned to the pixels (sec. 5.2.2, Fig. 6)",
        first="moved-copy",
        second="moved-pairs",
    ),
    Question(
        asks="moved pairs: trained on edits in place, against half on moved pairs",
        claim="edits are not aligned to the pixels (sec. 5.2.2, Fig. 6)",
        first="moved-fill",
        second="moved-pairs",
    ),
    Question(
        asks="moved pairs: trained on moved pairs, against the truth after the autoencoder",
        claim="ours; says what is left to be won",
        first="moved-pairs",
        second="moved-ceiling",
    ),
)
