"""LPIPS (Zhang et al., 2018): VGG-16 of ImageNet, and a learned weight a channel.

Letters: T frames, H W height/width, C channels.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.preprocess import chunks, normalised
from dcgrid.eval.metrics import lpips_distances

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five layers that are compared."""
LINEAR_FILE = Path(__file__).parents[1] / "weights" / "lpips-vgg-linear.safetensors"
"""The learned weights, 1,472 of them; made by scripts/lpips_weights.py, see docs/models."""
SMALLEST = 16
"""Pixels that the shorter side must have for four halvings."""
# The published shift and scale are of values -1..1; these are the same of values 0..1.
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CHUNK = 4
# Places of the convolutions in the published order of layers; what follows is a halving.
_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


class LpipsNetwork:
    """LPIPS from a VGG-16 in timm's or torchvision's layout.

    Args:
        path: safetensors file of VGG-16.
        device: Where it runs.

    Raises:
        WeightsError: The file is damaged, or of another network.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            weights = load_file(path)
            self._layers = [
                [
                    (weights[f"features.{at}.weight"].float(), weights[f"features.{at}.bias"])
                    for at in stage
                ]
                for stage in _STAGES
            ]
        except (OSError, SafetensorError, KeyError) as error:
            raise WeightsError(
                f"VGG-16 in {path} cannot be loaded: {str(error)[:200]}",
                hint="dcgrid models pull lpips-vgg --update",
            ) from error
        found = tuple(len(stage[-1][0]) for stage in self._layers)
        if found != WIDTHS:
            raise WeightsError(f"{path} holds another network than VGG-16: layers of {found}")
        self._layers = [
            [(kernel.to(device), bias.float().to(device)) for kernel, bias in stage]
            for stage in self._layers
        ]
        linear = load_file(LINEAR_FILE)
        self._linear = [linear[f"lin{index}"].to(device) for index in range(len(WIDTHS))]
        self._device = device

    @torch.inference_mode()
    def distances(self, result_THWC: Tensor, truth_THWC: Tensor) -> list[float]:
        """Return the distance of each frame (uint8) from the truth's."""
        found: list[float] = []
        both = zip(chunks(result_THWC, _CHUNK), chunks(truth_THWC, _CHUNK), strict=True)
        for result, truth in both:
            features = [self.features(one) for one in (result, truth)]
            found += lpips_distances(features[0], features[1], self._linear)
        return found

    def features(self, frames_THWC: Tensor) -> list[Tensor]:
        """Return the features TCHW of the five layers, after their last ReLU."""
        now = normalised(frames_THWC.permute(0, 3, 1, 2), MEAN, SPREAD, self._device)
        found = []
        for index, stage in enumerate(self._layers):
            now = F.max_pool2d(now, 2) if index else now
            for kernel, bias in stage:
                now = F.relu(F.conv2d(now, kernel, bias, padding=1))
            found.append(now)
        return found
