"""DINO ViT-S/16 (Caron et al., 2021): frames by what is in them.

Letters: T frames, H W height/width, C the 3 colours, E embedding, S tokens, N heads, P head width.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.preprocess import chunks, normalised, square

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT = 256
"""What the shorter side is scaled to before the middle square is taken, as in DINO's own eval."""
HEAD_WIDTH = 64
"""Width of an attention head in all published ViTs of this kind."""
VIT_S16 = (384, 12, 16)
"""Width, layers and pixels of a patch of ViT-S/16."""
# Names of transformers' ViTModel, of both of its generations, and timm's; the first that fits.
_NAMES = (
    (r"^(vit|dino)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.(attention\.)?(query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.)?(key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.)?(value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.fc2)\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
)


class DinoEncoder:
    """DINO from a safetensors file in timm's layout or that of transformers' ViTModel.

    Args:
        path: The file.
        device: Where it runs.
        shape: Width, layers and patch that it must have; None: any.

    Raises:
        WeightsError: The file is damaged, or of another network.
    """

    def __init__(
        self, path: Path, device: torch.device, shape: tuple[int, int, int] | None = None
    ) -> None:
        try:
            weights = timm_names(load_file(path))
            network = _Vit(weights)
            network.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise WeightsError(
                f"DINO in {path} cannot be loaded: {str(error)[:200]}",
                hint="dcgrid models pull dino-vits16 --update",
            ) from error
        if shape is not None and network.shape != shape:
            raise WeightsError(
                f"{path} holds another network than ViT-S/16: width, layers and patch are "
                f"{network.shape}, not {shape}",
                hint="dcgrid models pull dino-vits16",
            )
        self._network = network.to(device).eval().requires_grad_(requires_grad=False)
        self._device = device

    @torch.inference_mode()
    def frames(self, frames_THWC: Tensor) -> Tensor:
        """Return the class tokens TE of frames (uint8), on the CPU.

        The shorter side is scaled to 256 pixels, and the middle square of 224 is taken.
        """
        side, found = self._network.side, []
        for some_THWC in chunks(frames_THWC):
            pixels_TCHW = square(some_THWC, SHORT * side // 224, side)
            given = normalised(pixels_TCHW, MEAN, SPREAD, self._device)
            found.append(self._network(given).cpu())
        return torch.cat(found)


def timm_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ViT under timm's names; what a class token does not take is left out.

    Args:
        weights: Under the names of timm or of transformers' ViTModel.
    """
    renamed = {}
    for name, weight in weights.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if not name.startswith(("pooler.", "head.", "classifier.", "embeddings.mask_token")):
            renamed[name] = weight.float()
    for name in [name for name in renamed if ".attn.q." in name]:
        parts = [renamed.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        renamed[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return renamed


class _Vit(nn.Module):
    """A vision transformer that gives its class token; sizes are read from the weights."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        tokens = weights["pos_embed"].shape[1]
        self.shape = (width, layers, patch)
        self.side = patch * round((tokens - 1) ** 0.5)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        hidden = len(weights["blocks.0.mlp.fc1.weight"])
        self.blocks = nn.ModuleList(_Block(width, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels_TCHW: Tensor) -> Tensor:
        """Return the class tokens TE."""
        patches_TSE = self.patch_embed["proj"](pixels_TCHW).flatten(2).transpose(1, 2)
        first_TSE = self.cls_token.expand(len(patches_TSE), -1, -1)
        tokens_TSE = torch.cat([first_TSE, patches_TSE], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens_TSE = block(tokens_TSE)
        found: Tensor = self.norm(tokens_TSE[:, 0])
        return found


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, tokens_TSE: Tensor) -> Tensor:
        """Return the tokens after attention and the two linear layers."""
        queries = self.attn["qkv"](self.norm1(tokens_TSE))
        q_TNSP, k_TNSP, v_TNSP = queries.unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        read_TNSP = F.scaled_dot_product_attention(q_TNSP, k_TNSP, v_TNSP)
        tokens_TSE = tokens_TSE + self.attn["proj"](read_TNSP.transpose(1, 2).flatten(2))
        between = F.gelu(self.mlp["fc1"](self.norm2(tokens_TSE)))
        found: Tensor = tokens_TSE + self.mlp["fc2"](between)
        return found
