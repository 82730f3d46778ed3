"""Read LoRA files that other programs wrote for Wan. Read `read_foreign`.

    diffusers   transformer.<layer>.lora_A.weight ..., LoraConfig in the metadata
    peft        base_model.model.<layer>.lora_A.weight ..., adapter_config.json beside it
    comfyui     diffusion_model.<original layer>.lora_A.weight, or lora_down; .alpha, .diff, .diff_b
    kohya       lora_unet_<original_layer>.lora_down.weight, .lora_up.weight, .alpha
    bare        no prefix (DiffSynth)

The update of a layer is scale * B A, scale = alpha / R. Where neither the layer nor what
foreign_alpha.py reads has an alpha, it is 1, and `ForeignLora.scale_line` says so. Nothing in a
file is passed over: what cannot be applied is refused by name.

Letters: D width, R rank.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dcgrid.adapters.foreign_alpha import Alphas, read_alphas
from dcgrid.adapters.reading import FORMAT, KEY_PREFIX, product_rms
from dcgrid.adapters.wan_names import diffusers_name, size_name
from dcgrid.errors import AdapterError

Naming = Literal["diffusers", "peft", "comfyui", "kohya", "bare"]
"""How a file names its layers."""
Side = Literal["down", "up", "up_bias", "alpha", "diff", "diff_b", "diff_m"]
"""What a tensor of a layer is."""

_PREFIXES: tuple[tuple[str, Naming], ...] = (
    (KEY_PREFIX, "peft"),
    ("transformer.", "diffusers"),
    ("model.diffusion_model.", "comfyui"),
    ("diffusion_model.", "comfyui"),
    ("lora_unet_", "kohya"),
    ("", "bare"),
)
_ENDS: tuple[tuple[str, Side], ...] = (
    *((f".{side}.weight", "down") for side in ("lora_A", "lora_A.default", "lora_down")),
    *((f".{side}.weight", "up") for side in ("lora_B", "lora_B.default", "lora_up")),
    *((f".{side}.bias", "up_bias") for side in ("lora_B", "lora_B.default", "lora_up")),
    (".alpha", "alpha"),
    (".diff", "diff"),
    (".diff_b", "diff_b"),
    (".diff_m", "diff_m"),
)
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "oft_": "OFT",
    "lora_mid": "LoRA with Tucker factors",
}
"""What stands in the keys of adapters whose update is not B A."""
_IMAGE_PARTS = ("img_emb", "k_img", "v_img", "image_embedder", "add_k_proj", "add_v_proj")
"""What stands in the keys of adapters for image-to-video models."""
_TABLE = "scale_shift_table"
"""What Wan's modulation is called in diffusers."""
_KNOWN = "LoRA files of diffusers, PEFT, ComfyUI and kohya for Wan can be read"
_AGAIN = "fetch the file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The update of one layer: scale * up_DR @ down_RD."""

    down_RD: Tensor
    """A, in the dtype of the file."""
    up_DR: Tensor
    """B."""
    scale: float
    """alpha / R."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignLora:
    """What a LoRA file of another program holds, under diffusers' names."""

    path: Path
    """The file."""
    naming: Naming
    """How it names its layers."""
    layers: Mapping[str, Factors]
    """Updates by layer."""
    deltas: Mapping[str, Tensor]
    """What is added to whole parameters (biases, norms, modulation) by parameter, float32."""
    scale_source: str
    """Where the alphas stand, or that none does and a scale of 1 is assumed."""

    @property
    def scale_line(self) -> str:
        """Scales of the layers and where they stand, such as "scale 4 (lora_alpha 16 of ...)"."""
        scales = sorted({one.scale for one in self.layers.values()}) or [1.0]
        span = " to ".join(f"{one:.4g}" for one in dict.fromkeys((scales[0], scales[-1])))
        return f"scale {span} ({self.scale_source})"

    @property
    def ranks(self) -> tuple[int, ...]:
        """Each R that there is, smallest first."""
        return tuple(sorted({len(one.down_RD) for one in self.layers.values()}))

    @property
    def width(self) -> int | None:
        """Width of the tokens that it was made for; None: it does not tell."""
        widths = Counter(
            one.down_RD.shape[1] for name, one in self.layers.items() if ".attn" in name
        ) or Counter(
            one.down_RD.shape[1]
            for name, one in self.layers.items()
            if name.endswith("ffn.net.0.proj")
        )
        return widths.most_common(1)[0][0] if widths else None


def is_foreign(path: Path) -> bool:
    """Return True for a safetensors file that this program did not write.

    Raises:
        AdapterError: It is missing, cut, or no safetensors file.
    """
    metadata, _ = _read(path, tensors=False)
    return not _is_own(metadata)


def assumed_scale(path: Path) -> str:
    """Return why the scale of another program's LoRA is assumed; empty: it is known.

    Alphas and shapes are read, no other numbers: a plan has no time for them.

    Raises:
        AdapterError: The file or its config is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            named = [(key, *_place(key)) for key in file.keys()]  # noqa: SIM118 - no mapping
            known = {raw for _, _, raw, side in named if side == "alpha"}
            ranks = {
                raw: int(file.get_slice(key).get_shape()[0])
                for key, _, raw, side in named
                if side == "down"
            }
    except (SafetensorError, OSError, IndexError) as error:
        raise AdapterError(f"cannot read adapter {path}: {error}", hint=_AGAIN) from error
    if _is_own(metadata) or not set(ranks) - known:
        return ""
    alphas = read_alphas(path, metadata, ranks)
    return alphas.source if alphas.alpha is None and not alphas.patterns else ""


def _is_own(metadata: Mapping[str, str]) -> bool:
    """Return True for what any version of this program says of its files."""
    return metadata.get("format", "").startswith(FORMAT.rsplit("-", 1)[0])


def read_foreign(path: Path) -> ForeignLora:
    """Read a LoRA file that another program wrote.

    Raises:
        AdapterError: It is missing, cut or damaged, no LoRA, or one that cannot be applied whole:
            for an image-to-video model, or of another kind (DoRA, LoKr, LoHa).
    """
    metadata, tensors = _read(path)
    if _is_own(metadata):
        # Its alpha is in a spec that other programs know nothing of.
        raise AdapterError(
            f"{path} is an adapter that dcgrid wrote, not another program's",
            hint=f"use it as it is: --adapter {path}, or --lora {path}",
        )
    parts, naming = _sorted_parts(path, tensors)
    downs = {raw: sides["down"] for raw, sides in parts.items() if "down" in sides}
    ranks = {raw: down.shape[0] for raw, down in downs.items() if down.ndim == 2}
    without = sum("alpha" not in parts[raw] for raw in ranks)
    alphas = read_alphas(path, metadata, ranks)
    alphas.require_known(path, parts)
    layers: dict[str, Factors] = {}
    deltas: dict[str, Tensor] = {}
    for raw, sides in parts.items():
        _take(path, raw, sides, alphas, (layers, deltas))
    source = "alpha of each layer"
    if without:
        some = f"{without} of {len(ranks)} layers: " if without < len(ranks) else ""
        source = some + alphas.source
    return ForeignLora(path=path, naming=naming, layers=layers, deltas=deltas, scale_source=source)


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata and tensors of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: the file may be replaced while we still hold its tensors.
            keys = file.keys() if tensors else ()
            return file.metadata() or {}, {key: file.get_tensor(key).clone() for key in keys}
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        if _is_pickle(path):
            raise AdapterError(
                f"{path} is a pickle, which is never loaded, for it may run any code",
                hint="fetch it as .safetensors",
            ) from error
        raise AdapterError(f"cannot read adapter {path}: {error}", hint=_AGAIN) from error


def _is_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        return False
    # torch.save writes a zip archive, older ones a bare pickle of protocol 2 or later.
    return head == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05")


def _sorted_parts(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, dict[Side, Tensor]], Naming]:
    """Return the tensors of each layer under its name in the file, and how most are named."""
    parts: dict[str, dict[Side, Tensor]] = {}
    namings: Counter[Naming] = Counter()
    unknown: list[str] = []
    for key, tensor in tensors.items():
        _refuse_kind(path, key)
        naming, raw, side = _place(key)
        if side is None:
            unknown.append(key)
            continue
        namings[naming] += 1
        sides = parts.setdefault(raw, {})
        if side in sides:
            raise AdapterError(f"{path} holds {key[:200]} twice", hint=_KNOWN)
        # An alpha may be a whole number.
        if side != "alpha" and not tensor.is_floating_point():
            raise AdapterError(f"{path}: {key[:200]} is {tensor.dtype}", hint=_KNOWN)
        if not tensor.float().isfinite().all():
            raise AdapterError(f"{path}: {key[:200]} holds numbers not finite", hint=_AGAIN)
        sides[side] = tensor
    if not parts:
        first = f"its first tensor is {unknown[0][:120]}" if unknown else "it is empty"
        raise AdapterError(
            f"{path} is not an adapter that dcgrid wrote, nor a LoRA of a kind that it knows "
            f"({first})",
            hint=_KNOWN,
        )
    if unknown:
        raise AdapterError(
            f"{path}: {len(unknown)} of {len(tensors)} tensors are no part of a LoRA, "
            f"such as {unknown[0][:200]}",
            hint=_KNOWN,
        )
    return parts, namings.most_common(1)[0][0]


def _place(key: str) -> tuple[Naming, str, Side | None]:
    """Return who names a tensor so, its layer's name without prefix, and what it is of it."""
    prefix, naming = next(one for one in _PREFIXES if key.startswith(one[0]))
    end, side = next((one for one in _ENDS if key.endswith(one[0])), ("", None))
    return naming, key.removeprefix(prefix).removesuffix(end), side


def _refuse_kind(path: Path, key: str) -> None:
    for mark, kind in _OTHER_KINDS.items():
        if mark in key:
            raise AdapterError(f"{path} is a {kind} ({key[:120]}), not a plain LoRA", hint=_KNOWN)
    if any(part in key for part in _IMAGE_PARTS):
        raise AdapterError(
            f"{path} is for an image-to-video model ({key[:120]}), and dcgrid runs "
            "text-to-video ones",
            hint="fetch the LoRA for text-to-video (T2V)",
        )
    if key.startswith("transformer_2."):
        raise AdapterError(
            f"{path} is for a model with two transformers ({key[:120]})",
            hint="fetch the LoRA for a model with one: Wan 2.1, or Wan 2.2 5B",
        )


def _take(
    path: Path,
    raw: str,
    sides: Mapping[Side, Tensor],
    alphas: Alphas,
    found: tuple[dict[str, Factors], dict[str, Tensor]],
) -> None:
    """Put what a file holds of one layer under the layer's name here."""
    layers, deltas = found
    name = diffusers_name(raw) or raw
    if "down" in sides or "up" in sides:
        if name.endswith(_TABLE):
            # Wan's is a parameter, which has no product; other models have layers so named.
            name = raw
        if name in layers:
            raise AdapterError(f"{path} holds {name[:200]} under two names", hint=_KNOWN)
        layers[name] = _factors(path, raw, sides, alphas)
    elif {"alpha", "up_bias"} & set(sides):
        raise AdapterError(f"{path}: {raw[:200]} has no lora_A and lora_B", hint=_AGAIN)
    for place, delta_D in _deltas(raw, name, sides, layers):
        if place in deltas:
            raise AdapterError(f"{path} holds {place[:200]} under two names", hint=_KNOWN)
        deltas[place] = delta_D


def _factors(path: Path, raw: str, sides: Mapping[Side, Tensor], alphas: Alphas) -> Factors:
    if "down" not in sides or "up" not in sides:
        lacking = "lora_A" if "down" not in sides else "lora_B"
        raise AdapterError(f"{path}: {raw[:200]} has no {lacking}", hint=_AGAIN)
    down_RD, up_DR = sides["down"], sides["up"]
    if down_RD.ndim != 2 or up_DR.ndim != 2 or down_RD.shape[0] != up_DR.shape[1]:
        raise AdapterError(
            f"{path}: {raw[:200]} has sides of {tuple(down_RD.shape)} and {tuple(up_DR.shape)}, "
            "which have no product",
            hint=_KNOWN,
        )
    rank = len(down_RD)
    if rank == 0:
        raise AdapterError(f"{path}: {raw[:200]} has rank 0", hint=_AGAIN)
    if "alpha" not in sides:
        return Factors(down_RD=down_RD, up_DR=up_DR, scale=alphas.scale(raw, rank))
    if sides["alpha"].numel() != 1:
        raise AdapterError(f"{path}: the alpha of {raw[:200]} is no single number", hint=_AGAIN)
    return Factors(down_RD=down_RD, up_DR=up_DR, scale=float(sides["alpha"]) / rank)


def _deltas(
    raw: str, name: str, sides: Mapping[Side, Tensor], layers: Mapping[str, Factors]
) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter that is changed as a whole, and what is added to it."""
    if "diff" in sides:
        # The modulation of a block is a parameter, not a layer with a weight.
        bare = name.endswith(_TABLE)
        yield name if bare else f"{name}.weight", sides["diff"].float()
    if "diff_b" in sides:
        yield f"{name}.bias", sides["diff_b"].float()
    if "up_bias" in sides:
        yield f"{name}.bias", sides["up_bias"].float() * layers[name].scale
    if "diff_m" in sides:
        inner = f"{raw}.modulation"
        yield diffusers_name(inner) or inner, sides["diff_m"].float()


def check_foreign_fit(lora: ForeignLora, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check every layer and parameter of a LoRA against a network.

    Args:
        lora: From `read_foreign`.
        shapes: Shape of every parameter of the network, by name.

    Raises:
        AdapterError: Something has no place in the network, or another shape.
    """
    changed: dict[str, tuple[str, tuple[int, ...]]] = {
        f"{name}.weight": (name, (one.up_DR.shape[0], one.down_RD.shape[1]))
        for name, one in lora.layers.items()
    }
    # A file may hold both a product and a whole delta for one weight.
    places = [*changed.items(), *((p, (p, tuple(t.shape))) for p, t in lora.deltas.items())]
    odd = [(place, name, shape) for place, (name, shape) in places if shapes.get(place) != shape]
    if not odd:
        return
    place, name, shape = odd[0]
    there = shapes.get(place)
    reason = "which this model lacks" if there is None else f"{shape} there and {there} here"
    raise AdapterError(
        f"LoRA {lora.path} does not fit this model{_other_size(lora, shapes)}: "
        f"{len(places) - len(odd)} of {len(places)} parts match, {len(odd)} do not, "
        f"such as {name[:200]}, {reason}",
        hint="fetch the LoRA for this size of the model, or name another model",
    )


def _other_size(lora: ForeignLora, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return which size a LoRA is for, where it is another than the network's."""
    here = shapes.get("blocks.0.attn1.to_q.weight")
    if lora.width is None or here is None or lora.width == here[1]:
        return ""
    return f": it is for width {size_name(lora.width)}, the model has {size_name(here[1])}"


def mean_foreign_update(lora: ForeignLora) -> float:
    """Return the mean over all changed parameters of the root mean square of what is added."""
    sizes = [abs(o.scale) * product_rms(o.up_DR, o.down_RD) for o in lora.layers.values()]
    sizes += [float(delta.square().mean().sqrt()) for delta in lora.deltas.values()]
    return math.fsum(sizes) / len(sizes)
