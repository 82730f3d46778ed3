"""DINO ViT-S/16 (Caron et al., 2021): frames by what is in them.

Letters: T frames, H W height/width, C the 3 colours, E embedding.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.preprocess import chunks, normalised, square
from dcgrid.runtime.install import need

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT = 256
"""What the shorter side is scaled to before the middle square is taken, as in DINO's own eval."""
HEAD_WIDTH = 64
"""Width of an attention head in all published ViTs of this kind."""
VIT_S16 = (384, 12, 16)
"""Width, layers and pixels of a patch of ViT-S/16."""
# Names of timm's files, in which DINO is published without pickles, and those of transformers'.
_NAMES = (
    (r"^(vit|dino)\.", ""),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"^norm\.", "layernorm."),
)
_PARTS = ("query", "key", "value")


class DinoEncoder:
    """DINO from a safetensors file in timm's layout or that of transformers' ViTModel.

    Args:
        path: The file.
        device: Where it runs.
        shape: Width, layers and patch that it must have; None: any.

    Raises:
        UsageError: transformers is not installed.
        WeightsError: The file is damaged, or of another network.
    """

    def __init__(
        self, path: Path, device: torch.device, shape: tuple[int, int, int] | None = None
    ) -> None:
        transformers = need("transformers")
        try:
            weights = transformers_names(load_file(path))
            sizes = _sizes(weights)
            model, report = transformers.ViTModel.from_pretrained(
                None,
                config=transformers.ViTConfig(**sizes, layer_norm_eps=1e-6),
                state_dict=weights,
                add_pooling_layer=False,
                output_loading_info=True,
            )
            if report["missing_keys"]:
                raise KeyError(f"it has no {', '.join(sorted(report['missing_keys']))}")
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise WeightsError(
                f"DINO in {path} cannot be loaded: {str(error)[:200]}",
                hint="dcgrid models pull dino-vits16 --update",
            ) from error
        found = (sizes["hidden_size"], sizes["num_hidden_layers"], sizes["patch_size"])
        if shape is not None and found != shape:
            raise WeightsError(
                f"{path} holds another network than ViT-S/16: width, layers and patch are "
                f"{found}, not {shape}",
                hint="dcgrid models pull dino-vits16",
            )
        self._model: Any = model.to(device).eval().requires_grad_(requires_grad=False)
        self._device, self._side = device, sizes["image_size"]

    @torch.inference_mode()
    def frames(self, frames_THWC: Tensor) -> Tensor:
        """Return the class tokens TE of frames (uint8), on the CPU.

        The shorter side is scaled to 256 pixels, and the middle square of 224 is taken.
        """
        found = []
        for some_THWC in chunks(frames_THWC):
            pixels_TCHW = square(some_THWC, SHORT * self._side // 224, self._side)
            given = normalised(pixels_TCHW, MEAN, SPREAD, self._device)
            found.append(self._model(given).last_hidden_state[:, 0].cpu())
        return torch.cat(found)


def transformers_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ViT under the names of transformers' files, float32.

    Args:
        weights: Under the names of timm, which keeps queries, keys and values in one matrix, or of
            transformers' ViTModel. What a class token does not take is left out.
    """
    renamed = {}
    for name, weight in weights.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if not name.startswith(("pooler.", "head.", "classifier.", "embeddings.mask_token")):
            renamed[name] = weight.float()
    for name in [name for name in renamed if ".attn.qkv." in name]:
        for part, weight in zip(_PARTS, renamed.pop(name).chunk(3), strict=True):
            renamed[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = weight
    return renamed


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes of a ViT as transformers' config names them."""
    width, _, patch, _ = weights["embeddings.patch_embeddings.projection.weight"].shape
    layers = [name.split(".")[2] for name in weights if name.startswith("encoder.layer.")]
    tokens = weights["embeddings.position_embeddings"].shape[1]
    return {
        "hidden_size": width,
        "num_hidden_layers": 1 + max(map(int, layers)),
        "num_attention_heads": width // HEAD_WIDTH,
        "intermediate_size": len(weights["encoder.layer.0.intermediate.dense.weight"]),
        "image_size": patch * round((tokens - 1) ** 0.5),
        "patch_size": patch,
    }
