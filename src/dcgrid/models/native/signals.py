"""What surrounds the transformer: embedded times and places, and the mixture that `mini` predicts.

Letters: B batch, K cells, C channels, F Y X latent or token frames/rows/columns, S tokens,
U distinct times.
"""

import math

import torch
from einops import rearrange

PLACE_CHANNELS = 40
"""Sines and cosines, 4 rates, 5 axes."""
TIME_CHANNELS = 256
"""Width of the sinusoidal embedding of flow time."""


def embed_time(time_U: torch.Tensor) -> torch.Tensor:
    """Return sinusoids of flow times (scaled by 1000), shape U TIME_CHANNELS."""
    half = TIME_CHANNELS // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=time_U.device) / half)
    angle = 1000 * time_U.float()[:, None] * rates[None, :]
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def place_features(
    size_FYX: tuple[int, int, int], device: torch.device, margin: float = 0.0
) -> torch.Tensor:
    """Return where in its cell each token of one cell stands, shape (F Y X) PLACE_CHANNELS.

    Sines and cosines of latent frames; of rows and columns over the cell's height and width, so
    that the left edge is the left edge in cells of every size; and of their distance from the
    middle over the shorter side, in which a round light is round in cells of every shape. A margin
    of tokens around the picture has places outside of it.
    """
    frames, tall, wide = size_FYX
    row = torch.arange(tall, device=device) + 0.5 - margin
    column = torch.arange(wide, device=device) + 0.5 - margin
    rows, columns = tall - 2 * margin, wide - 2 * margin
    shares = (torch.arange(frames, device=device) / 8, row / rows, column / columns)
    short = min(rows, columns)
    lengths = ((row - rows / 2) / (2 * short), (column - columns / 2) / (2 * short))
    grid_S3 = torch.cartesian_prod(*shares).reshape(-1, 3)
    plane_N2 = torch.cartesian_prod(*lengths).reshape(-1, 2)
    rates = math.pi * 2.0 ** torch.arange(4, device=device)
    parts = []
    for places in (grid_S3, plane_N2.repeat(frames, 1)):
        angles = (places[:, :, None] * rates).flatten(1)
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)


def linear_guess(
    noisy_BKCFYX: torch.Tensor, time_BKF: torch.Tensor, spread_C: torch.Tensor
) -> torch.Tensor:
    """Return the best linear guess of the data, a x_t; see `velocity_of_mixture`.

    This is what a network that predicts a mixture is shown: clean cells as they are, and of noise
    only as much as says something. At t = 1 it sees nothing of it, and there the best prediction
    does not depend on the noise.

    Differs: docs/decisions/0003.
    """
    time, spread, power = _powers(time_BKF, spread_C)
    return noisy_BKCFYX * (spread.square() * (1 - time) / power)


def noise_guess(
    noisy_BKCFYX: torch.Tensor, time_BKF: torch.Tensor, spread_C: torch.Tensor
) -> torch.Tensor:
    """Return the best linear guess of the noise in x_t: the noise itself at t = 1, 0 at t = 0.

    Data of spread s (one number a channel) and noise of unit spread share what x_t holds:
    t x_t / p with p as in `velocity_of_mixture`.

    Differs: docs/decisions/0009.
    """
    time, _, power = _powers(time_BKF, spread_C)
    return noisy_BKCFYX * (time / power)


def velocity_of_mixture(
    noisy_BKCFYX: torch.Tensor,
    mixture_BKCFYX: torch.Tensor,
    time_BKF: torch.Tensor,
    spread_C: torch.Tensor,
) -> torch.Tensor:
    """Return the velocity for a network that predicts data near noise and noise near data.

    For data of spread s (one number a channel) and noise of unit spread, the best linear guess of
    the data is a x_t; the network predicts what is left, brought to unit spread:

        x0 = a x_t + b m      p = s^2 (1-t)^2 + t^2      a = s^2 (1-t) / p      b = s t / sqrt(p)

    So at t = 1 it says the data itself, as an edit that copies a given cell wants, at t = 0 it can
    change nothing, and at every time all channels ask about equally much of it.

    Differs: docs/decisions/0003 (the paper predicts the velocity).
    """
    time, spread, power = _powers(time_BKF, spread_C)
    # v = (x_t - x0) / t, divided by hand so that t = 0 is no special case.
    from_noisy = (time - spread.square() * (1 - time)) / power
    return from_noisy * noisy_BKCFYX - mixture_BKCFYX * spread * power.rsqrt()


def _powers(
    time_BKF: torch.Tensor, spread_C: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return t, s and p, shaped to broadcast over latents."""
    time = rearrange(time_BKF, "b k f -> b k 1 f 1 1")
    spread = rearrange(spread_C, "c -> c 1 1 1")
    return time, spread, (spread * (1 - time)).square() + time.square()
