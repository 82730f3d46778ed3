"""High dynamic range to standard: light in nits, gamut, a curve for highlights, gamma.

Phones record HLG or PQ with wide primaries; read as if they were ordinary video, such clips look
grey and pale. Read `to_standard`.

Sources: ITU-R BT.2100 (PQ and HLG), BT.2408 (reference white), BT.1886 (gamma of displays).
"""

import torch

PQ, HLG = "PQ", "HLG"
REFERENCE_WHITE = 203.0
"""Nits of a white sheet of paper in HDR video (BT.2408); it becomes a white, not the brightest."""
PEAK = 1000.0
"""Nits of the brightest light that is told apart from white: the nominal peak of HLG."""
KNEE = 0.5
"""Light below this share of reference white is kept as it is; above, highlights are rolled off."""

# Linear light of the primaries to linear light of BT.709; rows sum to 1, so grey stays grey.
_TO_BT709 = {
    9: ((1.6605, -0.5876, -0.0729), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1188)),
    12: ((1.2249, -0.2249, 0.0), (-0.0420, 1.0420, 0.0), (-0.0197, -0.0786, 1.0983)),
}
"""By AVColorPrimaries: 9 is BT.2020, 12 is P3 with the white of daylight."""


def to_standard(signal_HWC: torch.Tensor, transfer: str, primaries: int) -> torch.Tensor:
    """Turn HDR picture values into those of an ordinary (BT.709) picture.

    Args:
        signal_HWC: RGB as stored, full range, float in [0, 1], C = 3.
        transfer: `PQ` or `HLG`.
        primaries: AVColorPrimaries of the file; unknown ones are taken as BT.2020, 1 is BT.709.

    Returns:
        RGB for an ordinary display, in [0, 1], same shape.

    Raises:
        ValueError: Another transfer.
    """
    light_HWC = to_light(signal_HWC, transfer) / REFERENCE_WHITE
    if primaries != 1:
        matrix = torch.tensor(_TO_BT709.get(primaries, _TO_BT709[9]), dtype=light_HWC.dtype)
        light_HWC = light_HWC @ matrix.T
    # One factor for all three colours, so that a bright orange stays orange.
    brightest_HW1 = light_HWC.amax(-1, keepdim=True).clamp_min(1e-6)
    shown_HWC = light_HWC * (roll_off(brightest_HW1) / brightest_HW1)
    return shown_HWC.clamp(0, 1) ** (1 / 2.4)


def to_light(signal_HWC: torch.Tensor, transfer: str) -> torch.Tensor:
    """Return what a reference display shows for a signal in [0, 1], in nits. Source: BT.2100.

    Raises:
        ValueError: Another transfer than `PQ` and `HLG`.
    """
    if transfer == PQ:
        power = signal_HWC ** (32 / 2523)
        share = (power - 3424 / 4096).clamp_min(0) / (2413 / 128 - 2392 / 128 * power)
        return 10_000 * share ** (16_384 / 2610)
    if transfer != HLG:
        raise ValueError(f"no transfer {transfer!r}")
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    bright = (torch.exp((signal_HWC - c) / a) + b) / 12
    scene_HWC = torch.where(signal_HWC <= 0.5, signal_HWC.square() / 3, bright)
    luma_HW1 = scene_HWC @ scene_HWC.new_tensor([0.2627, 0.6780, 0.0593])[:, None]
    return PEAK * luma_HW1**0.2 * scene_HWC


def roll_off(light: torch.Tensor) -> torch.Tensor:
    """Bring light (1 is reference white) into [0, 1]: straight to the knee, then ever flatter.

    1   |            ___-----  PEAK
        |       _--
    KNEE|    /
        |  /
        +-----------------------  light
    """
    above = (light - KNEE).clamp_min(0) / (1 - KNEE)
    most = (PEAK / REFERENCE_WHITE - KNEE) / (1 - KNEE)
    curved = KNEE + (1 - KNEE) * above * (1 + above / most**2) / (1 + above)
    return torch.where(light <= KNEE, light, curved.clamp(max=1))
