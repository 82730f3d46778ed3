"""From noise to video: a plain loop over times that never touches the given cells.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns, N filled cells.

Only the filled cells are state. The model sees them beside the given ones:

    given  x0 ------------------------------- x0     cloned, never computed with
    filled s e -> x_t -> x_t' -> ... -> x0           float32, one solver step a time

Single latent frames of a filled cell may be given, too: the window before has generated them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from dcgrid.flow.path import noisy
from dcgrid.flow.schedule import Schedule

VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""Maps cells_BKCFYX and time_BKF to velocity_BKCFYX."""
SlopeFn = Callable[[Tensor, float], Tensor]
"""Maps a state and a flow time to the state's slope."""
Solver = Literal["euler", "heun", "ab2"]
OnStep = Callable[[int, int], None]
"""Called with steps done and steps in all, after each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """How to walk from noise to data."""

    schedule: Schedule
    """Times to visit."""
    solver: Solver = "ab2"
    """euler: order 1. heun: order 2, two calls a step. ab2 (Adams-Bashforth): order 2, one call."""
    noise_scale: float = 1.0
    """s, the paper's sigma at inference."""
    given: Literal["clean", "replace"] = "clean"
    """clean: given cells enter at time 0. replace: they enter noised to the common time, for
    backbones trained with one time for all tokens."""


def combine_guidance(
    conditional_BKCFYX: Tensor,
    unconditional_BKCFYX: Tensor,
    guidance_scale: float,
    fill_K: Tensor,
) -> Tensor:
    """Return v_u + g (v_c - v_u) on filled cells and v_c on the given ones.

    Paper: sec. 8 (cfg 4-5)
    """
    filled = fill_K.to(conditional_BKCFYX.device)
    guided_BNCFYX = torch.lerp(
        unconditional_BKCFYX[:, filled].float(),
        conditional_BKCFYX[:, filled].float(),
        guidance_scale,
    )
    velocity_BKCFYX = conditional_BKCFYX.clone()
    velocity_BKCFYX[:, filled] = guided_BNCFYX.to(velocity_BKCFYX.dtype)
    return velocity_BKCFYX


@torch.no_grad()
def sample(
    velocity: VelocityFn,
    cells_BKCFYX: Tensor,
    noise_BKCFYX: Tensor,
    fill_K: Tensor,
    settings: SampleSettings,
    on_step: OnStep | None = None,
) -> Tensor:
    """Fill the grid: return cells with every filled one generated, given ones bit-identical.

    Args:
        velocity: The model, guidance and text included.
        cells_BKCFYX: Latents; given cells hold video, what filled cells hold is not read.
        noise_BKCFYX: Standard normal noise, see `flow.noise.draw_noise`.
        fill_K: True where the model generates; or fill_KF, for each latent frame of a cell.
        settings: Schedule, solver, noise scale.
        on_step: Told of each finished step.

    Returns:
        A new tensor of the shape, dtype and device of `cells_BKCFYX`.

    Raises:
        ValueError: If the noise has another shape or no cell is filled.

    Paper: sec. 3.4
    """
    if noise_BKCFYX.shape != cells_BKCFYX.shape or not fill_K.any():
        raise ValueError(f"noise {tuple(noise_BKCFYX.shape)} does not fit, or nothing to fill")
    view = _GridView(velocity, cells_BKCFYX, noise_BKCFYX, fill_K, settings)
    # The given cells' own noise may be anything, so state is cut out before it is scaled.
    state_BNCFYX = settings.noise_scale * noise_BKCFYX[:, view.filled].float()
    state_BNCFYX = walk(
        view.slope, state_BNCFYX, settings.schedule.times(), settings.solver, on_step
    )
    return view.assemble(state_BNCFYX)


def walk(
    slope_at: SlopeFn,
    state: Tensor,
    times: Sequence[float],
    solver: Solver = "ab2",
    on_step: OnStep | None = None,
) -> Tensor:
    """Carry a state along its slope from the first of some falling times to the last.

    Args:
        slope_at: Maps state and time to dx/dt, of the state's shape.
        state: Where it starts, any shape.
        times: Flow times to visit; a single one changes nothing.
        solver: See `SampleSettings`.
        on_step: Told of each finished step.
    """
    previous: tuple[Tensor, float] | None = None
    for done, (time, time_next) in enumerate(pairwise(times), start=1):
        slope = slope_at(state, time)
        step = time_next - time
        if solver == "heun" and time_next > 0:
            slope_next = slope_at(state + step * slope, time_next)
            state = state + step * 0.5 * (slope + slope_next)
        elif solver == "ab2" and previous is not None:
            state = state + step * _extrapolate(slope, step, *previous)
        else:
            state = state + step * slope
        previous = (slope, step)
        if on_step is not None:
            on_step(done, len(times) - 1)
    return state


def _extrapolate(slope: Tensor, step: float, slope_before: Tensor, step_before: float) -> Tensor:
    """Return the slope at the middle of the step, from the last two; steps may differ in length."""
    return slope + (0.5 * step / step_before) * (slope - slope_before)


class _GridView:
    """Shows the filled cells to the model as part of the whole grid."""

    def __init__(
        self,
        velocity: VelocityFn,
        cells_BKCFYX: Tensor,
        noise_BKCFYX: Tensor,
        fill_K: Tensor,
        settings: SampleSettings,
    ) -> None:
        self.velocity = velocity
        self.cells_BKCFYX = cells_BKCFYX
        self.noise_BKCFYX = noise_BKCFYX
        fill_KF = (
            fill_K if fill_K.ndim == 2 else repeat(fill_K, "k -> k f", f=noise_BKCFYX.shape[3])
        )
        self.fill_KF = fill_KF.to(cells_BKCFYX.device)
        self.filled = self.fill_KF.any(dim=1)
        self.settings = settings

    def assemble(self, state_BNCFYX: Tensor) -> Tensor:
        """Put the filled cells beside untouched copies of the given ones."""
        whole_BKCFYX = self.cells_BKCFYX.clone()
        generated_NF = rearrange(self.fill_KF[self.filled], "n f -> n 1 f 1 1")
        state_BNCFYX = state_BNCFYX.to(whole_BKCFYX.dtype)
        whole_BKCFYX[:, self.filled] = torch.where(
            generated_NF, state_BNCFYX, whole_BKCFYX[:, self.filled]
        )
        return whole_BKCFYX

    def slope(self, state_BNCFYX: Tensor, time: float) -> Tensor:
        """Ask the model for the velocity of the filled cells, float32."""
        batch = len(self.cells_BKCFYX)
        grid_BKCFYX = self.assemble(state_BNCFYX)
        time_KF = torch.where(self.fill_KF, time, 0.0)
        if self.settings.given == "replace":
            time_KF = torch.full_like(time_KF, time)
            grid_BKCFYX = self._noise_given(grid_BKCFYX, rearrange(time_KF, "k f -> 1 k f"))
        time_BKF = repeat(time_KF, "k f -> b k f", b=batch)
        return self.velocity(grid_BKCFYX, time_BKF)[:, self.filled].float()

    def _noise_given(self, grid_BKCFYX: Tensor, time_1KF: Tensor) -> Tensor:
        """Noise what is given to the common time, always with the same noise."""
        given_KF = rearrange(~self.fill_KF, "k f -> k 1 f 1 1")
        # What filled cells hold is not read, whatever it is.
        known_BKCFYX = torch.where(given_KF, self.cells_BKCFYX, 0.0)
        noise_BKCFYX = torch.where(given_KF, self.noise_BKCFYX, 0.0)
        noised = noisy(
            known_BKCFYX.float(), noise_BKCFYX.float(), time_1KF, self.settings.noise_scale
        )
        return torch.where(given_KF, noised.to(grid_BKCFYX.dtype), grid_BKCFYX)
