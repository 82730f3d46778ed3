"""The guided upsampler: an edit at the size of its source, with the source as guide.

A frame of an edit differs from the frame of the source by a smooth change of colour and by things
that were not there. Both are low in resolution; the detail is in the source. So a network looks at
the small pictures, the given cell and the generated one, and says two things of every place:

    given cell     --+         +-- coefficients of a colour transform -> source, full size
                     +- U-Net -+
    generated cell --+         +-- opacity and colour of an overlay   -> over it

    result = (1 - opacity) transform(source) + opacity enlarge(generated) + residual

A third thing it says where the noise is known that the cell was generated from and some of it
drifts: how much there is of the drops, flakes and sparks that the noise stands for, and in which
colour. A cell is too small to show them (models/particles.py, docs/decisions/0024). Which of them
an edit is about, its words say (models/text_summary.py, docs/decisions/0025).

Where the generated cell shows something else than the given one (it moves, it stands differently,
it is new) the opacity is 1, and what is generated is enlarged without the source. But for noise
and words, which may be missing, the network sees pixels only, so it serves every model. What is
done at full size is in edit_frames.py.

Letters: T frames, C channels, H W height/width of a cell, B batch (frames of whatever clips), N
planes of particles.

Paper: sec. 3.4 (a light-weight convolution-based upsampler; with the given clip as guide).
Differs: docs/decisions/0021, 0024, 0028.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgrid.errors import WeightsError
from dcgrid.models.block_motion import find_motion
from dcgrid.models.edit_frames import (
    OVERLAY_SCALE,
    TERMS,
    Coefficients,
    compose,
    lay_particles,
    resize_weights,
    resized,
    transform_colors,
)
from dcgrid.models.particles import FIELDS, PLANES
from dcgrid.models.text_summary import SUMMARY_WIDTH, TextSummary
from dcgrid.models.weights import load_weights, read_weights

FEATURES = 18 + FIELDS + PLANES
"""Channels that the network looks at, see `_features`; the last are what noise says."""
SHARPNESS = 4.0
"""What the head of the particles is multiplied by, so that it is learned as fast as all else: they
are dark nearly everywhere."""
FAINT = 0.03
"""Planes of particles that are on average less opaque than so, and nowhere more than `LOCAL`, are
left away: each takes time, and rain of two hundredths is not to be seen."""
LOCAL = 0.4
"""Opacity of what is to be seen though it stands in one place only."""
WINDOW = 7
"""Side of the windows in which a first colour transform is fitted."""
UNCERTAIN = 1e-3
"""Variance (of pixels in [-1, 1]) below which a window shows nothing that could be fitted."""
WIDTHS = (24, 48, 64, 96)
"""Channels at the size of the cell, its half, quarter and eighth."""
WEIGHTS = Path(__file__).parent / "weights" / "upsampler.safetensors"
"""The shipped weights."""


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        hidden = self.first(F.relu(x_BCHW))
        result: Tensor = x_BCHW + self.second(F.relu(hidden))
        return result


class GuidedUpsampler(nn.Module):
    """Enlarges what a model generated, with the source of the given cell as guide.

    Untrained it is a guided filter (He et al., 2013): each colour of the edit is fitted by a line
    on that of the given cell, window by window, and the lines are applied to the source.

    Args:
        widths: Channels at each level of the U-Net, from the cell's size on.
        vocabulary: Words of edits that it knows.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, vocabulary: Sequence[str] = ()) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.text = TextSummary(vocabulary)
        self.text_in = nn.ModuleList(
            nn.Linear(SUMMARY_WIDTH, width, bias=False) for width in widths
        )
        self.stem = nn.Conv2d(FEATURES, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(wide, narrow, 2, stride=2) for wide, narrow in pairwise(widths)
        )
        self.enter = nn.ModuleList(_Block(width) for width in widths)
        self.up = nn.ModuleList(nn.Conv2d(narrow, wide, 1) for wide, narrow in pairwise(widths))
        self.leave = nn.ModuleList(_Block(width) for width in widths[:-1])
        self.transform_head = nn.Conv2d(widths[1], 3 * TERMS, 3, padding=1)
        self.particle_head = nn.Conv2d(widths[1], 4 * PLANES, 3, padding=1)
        # A way of its own: what the trunk keeps of the text is what transforms need.
        self.particle_text = nn.Linear(SUMMARY_WIDTH, 4 * PLANES, bias=False)
        shuffled = 4 * OVERLAY_SCALE**2
        self.overlay_in = nn.Conv2d(widths[0] + 9, widths[0], 3, padding=1)
        self.overlay_head = nn.Conv2d(widths[0], shuffled, 3, padding=1)
        self.residual_head = nn.Conv2d(widths[0], 1, 3, padding=1)
        for linear in (*self.text_in, self.particle_text):
            nn.init.zeros_(linear.weight)
        heads = self.transform_head, self.overlay_head, self.particle_head, self.residual_head
        for head in heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            # At first the source shows through nearly everywhere.
            self.overlay_head.bias[: OVERLAY_SCALE**2] = -2.0  # type: ignore[index]
            self.residual_head.bias.fill_(-3.0)  # type: ignore[union-attr]

    def forward(
        self,
        given_BCHW: Tensor,
        generated_BCHW: Tensor,
        source_BCHW: Tensor,
        noise: tuple[Tensor, Tensor] | None = None,
        texts: Sequence[str] | None = None,
    ) -> Tensor:
        """Return frames at the source's size, for training: one source for each pair of cells.

        All in [-1, 1]; the result may leave it a little.

        Args:
            given_BCHW: Frames of given cells, as the autoencoder gives them back.
            generated_BCHW: Frames of generated cells.
            source_BCHW: Frames of sources.
            noise: What is known of the noise: soft fields at the size of the cell and planes of
                particles at `OVERLAY_SCALE` times it, BNHW each.
            texts: Words of the edits, "" where they are not known; None: of none.
        """
        looked = None
        if noise is not None:
            looked = torch.cat((noise[0], F.avg_pool2d(noise[1], OVERLAY_SCALE)), dim=1)
        transform_BCHW, overlay_BCHW, particles_BCHW = self.look(
            given_BCHW, generated_BCHW, looked, texts
        )
        if noise is not None:
            particles_BCHW = resized(particles_BCHW, overlay_BCHW.shape[-2:])
            overlay_BCHW = lay_particles(overlay_BCHW, particles_BCHW, noise[1])
        size = source_BCHW.shape[-2:]
        return compose(resized(transform_BCHW, size), resized(overlay_BCHW, size), source_BCHW)

    def look(
        self,
        given_BCHW: Tensor,
        generated_BCHW: Tensor,
        noise_BCHW: Tensor | None = None,
        texts: Sequence[str] | None = None,
        *,
        trusted: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is known of an edit from its cells.

        Args:
            given_BCHW: Frames of given cells.
            generated_BCHW: Frames of generated cells.
            noise_BCHW: `FIELDS` soft fields and all `PLANES` at the size of the cell; None: not
                known.
            texts: Words of the edits, "" where they are not known; None: of none.
            trusted: True: results averaged down are what was generated; else as far as the network
                trusts it.

        Returns:
            Transform (B 3*TERMS H W), overlay (B 4, `OVERLAY_SCALE` times H and W) and particles
            (B 4*N at half of H and W, rounded up).
        """
        height, width = given_BCHW.shape[-2:]
        multiple = 2 ** (len(self.widths) - 1)
        margin = (0, -width % multiple, 0, -height % multiple)
        given_BCHW = F.pad(given_BCHW, margin, mode="replicate")
        generated_BCHW = F.pad(generated_BCHW, margin, mode="replicate")
        features_BCHW, slope_BCHW, offset_BCHW = _features(given_BCHW, generated_BCHW)
        if noise_BCHW is None:
            noise_BCHW = features_BCHW.new_zeros(
                len(features_BCHW), FIELDS + PLANES, *features_BCHW.shape[-2:]
            )
        else:
            noise_BCHW = F.pad(noise_BCHW, margin, mode="replicate")
        text_BE = self.text([""] * len(given_BCHW) if texts is None else texts)
        full_BCHW, half_BCHW = self._trunk(torch.cat((features_BCHW, noise_BCHW), dim=1), text_BE)
        transform_BCHW = self._transform(half_BCHW, slope_BCHW, offset_BCHW)
        shown_BCHW = transform_colors(transform_BCHW, given_BCHW)
        overlay_BCHW = self._overlay(full_BCHW, shown_BCHW, generated_BCHW, trusted=trusted)
        particles_BCHW = self._particles(half_BCHW, text_BE)
        rows, columns = OVERLAY_SCALE * height, OVERLAY_SCALE * width
        return (
            transform_BCHW[..., :height, :width],
            overlay_BCHW[..., :rows, :columns],
            particles_BCHW[..., : -(-height // 2), : -(-width // 2)],
        )

    @torch.inference_mode()
    def analyze(
        self,
        given_TCHW: Tensor,
        generated_TCHW: Tensor,
        noise_TCHW: Tensor | None = None,
        text: str = "",
        *,
        trusted: bool = False,
    ) -> Coefficients:
        """Look at a stretch of an edit, once for all its frames.

        Args:
            given_TCHW: Frames of the given cell in [-1, 1], the picture only (no padding), at the
                model's rate; best as its autoencoder gives them back (docs/decisions/0028).
            generated_TCHW: Frames of the generated cell, of the same shape.
            noise_TCHW: `FIELDS` soft fields and all `PLANES` of each frame; None: not known.
            text: Words of the edit; "": not known.
            trusted: As in `look`.

        Returns:
            What frames are made from, on the network's device; about 230 bytes for each pixel
            of a frame.

        Raises:
            ValueError: The shapes differ or are none of clips.
        """
        if given_TCHW.shape != generated_TCHW.shape or given_TCHW.ndim != 4 or not len(given_TCHW):
            raise ValueError(
                f"cells must be two clips of one shape (T, 3, H, W), got "
                f"{tuple(given_TCHW.shape)} and {tuple(generated_TCHW.shape)}"
            )
        device = self.stem.weight.device
        transforms, overlays, particles, extras = [], [], [], []
        for number in range(len(given_TCHW)):
            given_1CHW, generated_1CHW = (
                cell_TCHW[number, None].float().to(device)
                for cell_TCHW in (given_TCHW, generated_TCHW)
            )
            noise_1CHW = None if noise_TCHW is None else noise_TCHW[number, None].to(device)
            looked = self.look(given_1CHW, generated_1CHW, noise_1CHW, [text], trusted=trusted)
            transform_1CHW, overlay_1CHW, particles_1CHW = looked
            small_1CHW = F.avg_pool2d(overlay_1CHW, OVERLAY_SCALE)
            shown_1CHW = transform_colors(transform_1CHW, given_1CHW)
            extras.append(small_1CHW[:, 1:] - small_1CHW[:, :1] * shown_1CHW)
            transforms.append(transform_1CHW)
            overlays.append(overlay_1CHW.half())
            particles.append(particles_1CHW)
        motion = [find_motion(one, other) for one, other in pairwise(extras)]
        nothing_TCHW = torch.zeros(0, 2, *given_TCHW.shape[-2:], device=device)
        by_plane_TNCHW = torch.cat(particles).unflatten(1, (PLANES, 4))
        opacity_TNHW = by_plane_TNCHW[:, :, 0]
        seen_N = (opacity_TNHW.mean((0, 2, 3)) > FAINT) | (opacity_TNHW.amax((0, 2, 3)) > LOCAL)
        seen_N &= noise_TCHW is not None
        return Coefficients(
            transform_TCHW=torch.cat(transforms),
            overlay_TCHW=torch.cat(overlays),
            motion_TCHW=torch.cat(motion) if motion else nothing_TCHW,
            particles_TCHW=by_plane_TNCHW[:, seen_N].flatten(1, 2),
            planes=tuple(seen_N.nonzero()[:, 0].tolist()),
        )

    def _trunk(self, features_BCHW: Tensor, text_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the U-Net makes of the features, at the cell's size and its half."""
        hidden, kept = features_BCHW, list[Tensor]()
        for down, text_in, enter in zip(
            (self.stem, *self.down), self.text_in, self.enter, strict=True
        ):
            hidden = enter(down(hidden) + text_in(text_BE)[:, :, None, None])
            kept.append(hidden)
        for level in reversed(range(len(self.widths) - 1)):
            larger = F.interpolate(self.up[level](hidden), scale_factor=2.0, mode="nearest")
            hidden = self.leave[level](kept[level] + larger)
            kept[level] = hidden
        return kept[0], kept[1]

    def _transform(self, half_BCHW: Tensor, slope_BCHW: Tensor, offset_BCHW: Tensor) -> Tensor:
        """Return the coefficients: those of the fitted lines and what the network adds.

        Coarser than the cell, so that nothing that moves can be in them.
        """
        added_BCHW = self.transform_head(F.relu(half_BCHW))
        lines_BCHW = torch.zeros_like(added_BCHW)
        # The line of each colour stands on the diagonal of the linear terms.
        lines_BCHW[:, [0, 4, 8]] = F.avg_pool2d(slope_BCHW, 2)
        lines_BCHW[:, -3:] = F.avg_pool2d(offset_BCHW, 2)
        return resized(lines_BCHW + added_BCHW, slope_BCHW.shape[-2:])

    def _particles(self, half_BCHW: Tensor, text_BE: Tensor) -> Tensor:
        """Return opacity and premultiplied colour of each plane of particles."""
        drawn_BCHW = self.particle_head(F.relu(half_BCHW))
        drawn_BCHW = SHARPNESS * (drawn_BCHW + self.particle_text(text_BE)[:, :, None, None])
        by_plane_BNCHW = drawn_BCHW.unflatten(1, (PLANES, 4))
        # At first all are there, half opaque and pale: those that should not be there are seen by
        # the loss and go at once. The other way round it hardly sees the few that should.
        opacity_BN1HW = torch.sigmoid(by_plane_BNCHW[:, :, :1])
        colour_BNCHW = opacity_BN1HW * (by_plane_BNCHW[:, :, 1:] + 0.4)
        return torch.cat((opacity_BN1HW, colour_BNCHW), dim=2).flatten(1, 2)

    def _overlay(
        self, full_BCHW: Tensor, shown_BCHW: Tensor, generated_BCHW: Tensor, *, trusted: bool
    ) -> Tensor:
        """Return opacity and premultiplied colour of what the transform does not explain."""
        unexplained_BCHW = generated_BCHW - shown_BCHW
        seen = torch.cat((full_BCHW, shown_BCHW, generated_BCHW, 4 * unexplained_BCHW), dim=1)
        hidden = F.relu(self.overlay_in(seen))
        drawn = F.pixel_shuffle(self.overlay_head(hidden), OVERLAY_SCALE)
        opacity_B1HW = torch.sigmoid(drawn[:, :1])
        enlarged_BCHW = _bicubic(generated_BCHW)
        colour_BCHW = torch.addcmul(drawn[:, 1:], opacity_B1HW, enlarged_BCHW)
        # Averaged down, a result should be what was generated, as far as that can be trusted.
        small_BCHW = F.avg_pool2d(colour_BCHW, OVERLAY_SCALE)
        small_BCHW = small_BCHW + (1 - F.avg_pool2d(opacity_B1HW, OVERLAY_SCALE)) * shown_BCHW
        missing_BCHW = generated_BCHW - small_BCHW
        if not trusted:
            missing_BCHW = torch.sigmoid(self.residual_head(hidden)) * missing_BCHW
        return torch.cat((opacity_B1HW, colour_BCHW + _bicubic(missing_BCHW)), dim=1)


def _bicubic(picture_BCHW: Tensor) -> Tensor:
    """Enlarge pictures of a cell to the size of the overlay."""
    down_HH, across_WW = (
        resize_weights(OVERLAY_SCALE * side, side, picture_BCHW.device, "bicubic")
        for side in picture_BCHW.shape[-2:]
    )
    return down_HH @ (picture_BCHW @ across_WW.T)


def _features(given_BCHW: Tensor, generated_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the network looks at, and slope and offset of the lines fitted.

    Beside both pictures and their difference: how far a line in each window explains one by the
    other, which says where they show the same.
    """
    mean_BCHW, made_mean_BCHW = _window_mean(given_BCHW), _window_mean(generated_BCHW)
    together_BCHW = _window_mean(given_BCHW * generated_BCHW) - mean_BCHW * made_mean_BCHW
    spread_BCHW = _window_mean(given_BCHW.square()) - mean_BCHW.square()
    made_spread_BCHW = _window_mean(generated_BCHW.square()) - made_mean_BCHW.square()
    slope_BCHW = together_BCHW / (spread_BCHW + UNCERTAIN)
    alike_BCHW = together_BCHW / ((spread_BCHW + UNCERTAIN) * (made_spread_BCHW + UNCERTAIN)).sqrt()
    offset_BCHW = _window_mean(made_mean_BCHW - slope_BCHW * mean_BCHW)
    slope_BCHW = _window_mean(slope_BCHW)
    left_BCHW = generated_BCHW - slope_BCHW * given_BCHW - offset_BCHW
    seen = (
        given_BCHW, generated_BCHW, generated_BCHW - given_BCHW, slope_BCHW.clamp(-4, 4),
        4 * left_BCHW, alike_BCHW,
    )  # fmt: skip
    return torch.cat(seen, dim=1), slope_BCHW, offset_BCHW


def _window_mean(picture_BCHW: Tensor) -> Tensor:
    """Return the mean over the window around each pixel, as far as it lies in the picture."""
    height, width = picture_BCHW.shape[-2:]
    down_HH, across_WW = (_mean_lines(side, picture_BCHW.device) for side in (height, width))
    return down_HH @ (picture_BCHW @ across_WW.T)


@lru_cache(maxsize=16)
def _mean_lines(side: int, device: torch.device) -> Tensor:
    """Return how much each pixel of a line counts in the mean around each."""
    with torch.inference_mode(False):  # kept, and used in training, too
        place_W = torch.arange(side, device=device)
        near_WW = ((place_W[:, None] - place_W).abs() <= WINDOW // 2).float()
        return near_WW / near_WW.sum(1, keepdim=True)


def load_upsampler(path: Path = WEIGHTS, device: torch.device | str = "cpu") -> GuidedUpsampler:
    """Load the upsampler, at rest.

    Args:
        path: Its weights; without one those of the package.
        device: Where it computes.

    Raises:
        WeightsError: The file is missing or damaged, or of another network.
    """
    tensors, facts = read_weights(path)
    levels = sorted(
        name for name in tensors if name.startswith("enter.") and name.endswith("first.bias")
    )
    if not levels:
        raise WeightsError(f"{path} holds no upsampler", hint="install dcgrid again")
    model = GuidedUpsampler(
        tuple(len(tensors[name]) for name in levels), facts.get("vocabulary", ())
    )
    load_weights(path, model)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval().requires_grad_(False)
