"""CLIP (Radford et al., 2021): texts and frames in one space.

Letters: T frames, H W height/width, C the 3 colours, E embedding.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.preprocess import chunks, normalised, square
from dcgrid.runtime.install import need

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VIT_L14 = {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14}
"""What the config of the picture part of ViT-L/14 says."""


class ClipEncoder:
    """CLIP from a folder in transformers' layout; safetensors alone.

    Args:
        folder: Where config.json, model.safetensors and the tokenizer's files are.
        device: Where it runs.
        shape: What its vision config must say; None: anything.

    Raises:
        UsageError: transformers is not installed.
        WeightsError: The files are damaged, or of another network.
    """

    def __init__(
        self, folder: Path, device: torch.device, shape: dict[str, int] | None = None
    ) -> None:
        transformers = need("transformers")
        transformers.utils.logging.disable_progress_bar()
        try:
            config = transformers.CLIPConfig.from_pretrained(folder, local_files_only=True)
            _require_shape(folder, config, shape)
            self._tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(
                folder, local_files_only=True
            )
            model = transformers.CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsError(
                f"CLIP in {folder} cannot be loaded: {str(error)[:200]}",
                hint="dcgrid models pull clip-vit-l14 --update",
            ) from error
        self._model: Any = model.to(device).eval().requires_grad_(requires_grad=False)
        self._device = device
        self._side = int(config.vision_config.image_size)
        self._tokens = int(config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def text(self, prompt: str) -> Tensor:
        """Return the embedding E of a text, on the CPU; what is beyond 77 tokens is not read."""
        tokens = self._tokenizer(
            [prompt], truncation=True, max_length=self._tokens, return_tensors="pt"
        ).to(self._device)
        found: Tensor = self._model.get_text_features(**tokens).pooler_output[0]
        return found.float().cpu()

    @torch.inference_mode()
    def frames(self, frames_THWC: Tensor) -> Tensor:
        """Return the embeddings TE of frames (uint8), on the CPU.

        The shorter side is scaled to the network's 224 pixels and the middle square is taken, as
        CLIP's own preprocessing does.
        """
        found = []
        for some_THWC in chunks(frames_THWC):
            pixels_TCHW = square(some_THWC, self._side, self._side)
            given = normalised(pixels_TCHW, MEAN, SPREAD, self._device)
            found.append(self._model.get_image_features(pixel_values=given).pooler_output.cpu())
        return torch.cat(found).float()


def _require_shape(folder: Path, config: Any, shape: dict[str, int] | None) -> None:  # noqa: ANN401
    for key, value in (shape or {}).items():
        if getattr(config.vision_config, key) != value:
            raise WeightsError(
                f"{folder} holds another CLIP than ViT-L/14: its {key} is "
                f"{getattr(config.vision_config, key)}, not {value}",
                hint="dcgrid models pull clip-vit-l14",
            )
