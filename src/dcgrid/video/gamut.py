"""Primaries and transfer of ordinary (not HDR) video to those of bt709, as a display shows them.

Light is what a display shows: video made for television has the gamma of BT.1886 whichever camera
curve its file names, so bt709, smpte170m, smpte240m, bt2020 and xvYCC differ in primaries alone.

Sources: ITU-T H.273 (codes, primaries, curves), BT.1886 (gamma of displays).
"""

import functools
from collections.abc import Callable

import torch

_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
# Red, green, blue and white, x and y of each, by AVColorPrimaries.
_CORNERS = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    4: ((0.670, 0.330), (0.210, 0.710), (0.140, 0.080), _C),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    10: ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1 / 3, 1 / 3)),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}
_NAMES = {
    4: "bt470m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
}
# Those of television in standard definition are so near that players show them as bt709's.
_NEAR = {5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 22: "ebu3213"}
_GAMMA = 2.4
# Light of a signal in [0, 1], by AVColorTransferCharacteristic; all others have the gamma above.
_LIGHT: dict[int, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    4: ("gamma22", lambda signal: signal**2.2),
    5: ("gamma28", lambda signal: signal**2.8),
    8: ("linear", lambda signal: signal),
    9: ("log100", lambda signal: 10 ** (2 * (signal - 1))),
    10: ("log316", lambda signal: 10 ** (2.5 * (signal - 1))),
    17: ("smpte428", lambda signal: signal**2.6 * 52.37 / 48),
}
_SHOWN_ALIKE = frozenset({0, 1, 2, 3, 6, 7, 11, 12, 14, 15})
_SRGB = 13
_UNTAGGED = frozenset({0, 1, 2, 3})
# From XYZ to the cone responses in which white is moved (Bradford).
_CONES = torch.tensor(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]],
    dtype=torch.float64,
)


def is_converted(primaries: int, transfer: int) -> bool:
    """Return True if pictures with these tags are not bt709's already."""
    return primaries in _NAMES or transfer in _LIGHT


def gamut_lines(primaries: int, transfer: int) -> tuple[str, ...]:
    """Return what becomes of the colours of a file with these tags, as sentences."""
    names = [f"primaries {_NAMES[primaries]}"] if primaries in _NAMES else []
    names += [f"transfer {_LIGHT[transfer][0]}"] if transfer in _LIGHT else []
    lines = [f"Colours ({' and '.join(names)}) are converted to bt709."] if names else []
    if transfer == _SRGB:
        lines.append("The sRGB transfer is not converted: players show it as they show bt709.")
    elif transfer not in _SHOWN_ALIKE | _LIGHT.keys():
        lines.append(f"Transfer {transfer} of the file is not known and not converted.")
    if primaries in _NEAR:
        near = _NEAR[primaries]
        lines.append(f"Primaries {near} are not converted: players show them as bt709's.")
    elif primaries not in _UNTAGGED | _NAMES.keys():
        lines.append(f"Primaries {primaries} of the file are not known and not converted.")
    return tuple(lines)


def to_bt709(signal_HWC: torch.Tensor, primaries: int, transfer: int) -> torch.Tensor:
    """Turn picture values of other primaries or another transfer into those of bt709.

    Args:
        signal_HWC: RGB as stored, full range, float in [0, 1], C = 3.
        primaries: AVColorPrimaries of the file; unknown ones are taken as bt709's.
        transfer: AVColorTransferCharacteristic of the file; unknown ones likewise.

    Returns:
        RGB in [0, 1], same shape; colours that bt709 does not have are clipped.
    """
    light_HWC: torch.Tensor
    light_HWC = _LIGHT[transfer][1](signal_HWC) if transfer in _LIGHT else signal_HWC**_GAMMA
    if primaries in _NAMES:
        light_HWC = light_HWC @ _to_bt709_light(primaries).to(light_HWC.dtype).T
    return light_HWC.clamp(0, 1).pow(1 / _GAMMA)


@functools.cache
def _to_bt709_light(primaries: int) -> torch.Tensor:
    """Return the matrix from linear light of some primaries to that of bt709's; float64, 3x3."""
    source, white = _to_xyz(primaries)
    target, day = _to_xyz(1)
    scale = torch.diag((_CONES @ day) / (_CONES @ white))
    return target.inverse() @ _CONES.inverse() @ scale @ _CONES @ source


def _to_xyz(primaries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrix from linear RGB to CIE XYZ, and the XYZ of white."""
    *corners, white = (
        torch.tensor([x, y, 1 - x - y], dtype=torch.float64) for x, y in _CORNERS[primaries]
    )
    white = white / white[1]
    columns = torch.stack(corners, dim=1)
    return columns * (columns.inverse() @ white), white
