"""The straight path from data to noise, and the loss that teaches its velocity.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns.

    t = 0                                   t = 1
    data x0 ---- x_t = (1-t) x0 + t s e ---- noise s e        velocity dx/dt = s e - x0

Times are per cell and latent frame (`time_BKF`), so that given cells can stand at t = 0.
"""

from einops import rearrange
from torch import Tensor


def spread_time(time_BKF: Tensor) -> Tensor:
    """Give times the six axes of latents, so that they broadcast: BKF to BK1F11."""
    return rearrange(time_BKF, "b k f -> b k 1 f 1 1")


def noisy(
    data_BKCFYX: Tensor, noise_BKCFYX: Tensor, time_BKF: Tensor, noise_scale: float = 1.0
) -> Tensor:
    """Return x_t = (1-t) x0 + t s e; where t = 0 it equals the data exactly.

    Args:
        data_BKCFYX: Normalised latents x0, finite.
        noise_BKCFYX: Standard normal noise e.
        time_BKF: Flow time in [0, 1].
        noise_scale: s, the paper's sigma.

    Paper: sec. 8 (sigma)
    """
    time = spread_time(time_BKF)
    return (1 - time) * data_BKCFYX + time * (noise_scale * noise_BKCFYX)


def velocity_target(data_BKCFYX: Tensor, noise_BKCFYX: Tensor, noise_scale: float = 1.0) -> Tensor:
    """Return the velocity of the path, s e - x0: the same at all times.

    Paper: sec. 3.1 (flow-matching loss)
    """
    return noise_scale * noise_BKCFYX - data_BKCFYX


def data_from_velocity(noisy_BKCFYX: Tensor, velocity_BKCFYX: Tensor, time_BKF: Tensor) -> Tensor:
    """Return the data that a velocity points to: x0 = x_t - t v."""
    return noisy_BKCFYX - spread_time(time_BKF) * velocity_BKCFYX


def flow_loss(velocity_BKCFYX: Tensor, target_BKCFYX: Tensor, fill_BKF: Tensor) -> Tensor:
    """Return the mean squared error over what the model generates, a float32 scalar.

    Args:
        velocity_BKCFYX: Predicted velocity, any float dtype.
        target_BKCFYX: True velocity.
        fill_BKF: True where the model generates; B may be 1. Elsewhere nothing counts.

    Raises:
        ValueError: If nothing is generated.

    Paper: sec. 3.3 (grid-fill loss)
    """
    error_BKF = (velocity_BKCFYX.float() - target_BKCFYX.float()).square().mean(dim=(2, 4, 5))
    generated_N = error_BKF[fill_BKF.expand_as(error_BKF)]
    if generated_N.numel() == 0:
        raise ValueError("the loss needs at least one filled cell")
    return generated_N.mean()
