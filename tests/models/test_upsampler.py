"""The guided upsampler: a guided filter before training, the same in strips as at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dcgrid.errors import WeightsError
from dcgrid.models.block_motion import find_motion
from dcgrid.models.particles import FIELDS, PLANES
from dcgrid.models.upsampler import (
    SHARPNESS,
    UNCERTAIN,
    WEIGHTS,
    WINDOW,
    GuidedUpsampler,
    load_upsampler,
)
from dcgrid.models.weights import save_weights


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trained(widths: tuple[int, ...] = (4, 6, 8)) -> GuidedUpsampler:
    """Return a network whose every layer does something."""
    model = GuidedUpsampler(widths, ("rain", "snow")).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def fitted_lines(given_HW: np.ndarray, made_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a line in each window and average slopes and offsets, pixel by pixel (He et al.)."""
    reach, (height, width) = WINDOW // 2, given_HW.shape

    def windows(of: np.ndarray, y: int, x: int) -> np.ndarray:
        return of[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]

    slope, offset = np.zeros((height, width)), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            a, b = windows(given_HW, y, x), windows(made_HW, y, x)
            slope[y, x] = (a * b).mean() - a.mean() * b.mean()
            slope[y, x] /= (a * a).mean() - a.mean() ** 2 + UNCERTAIN
            offset[y, x] = b.mean() - slope[y, x] * a.mean()
    mean = lambda of: np.array(  # noqa: E731
        [[windows(of, y, x).mean() for x in range(width)] for y in range(height)]
    )
    return mean(slope), mean(offset)


def test_untrained_is_a_guided_filter_under_a_faint_enlargement() -> None:
    given, generated = pictures(1, 3, 16, 24), pictures(1, 3, 16, 24, seed=1)
    generated = 0.6 * given + 0.2 * generated
    source = pictures(1, 3, 32, 48, seed=2)
    result = GuidedUpsampler((4, 6)).requires_grad_(False)(given, generated, source)
    opacity = 1 / (1 + np.exp(2.0))
    for colour in range(3):
        slope, offset = fitted_lines(
            given[0, colour].double().numpy(), generated[0, colour].double().numpy()
        )
        # Coefficients live at half the size; the source is twice as large as the cell.
        lines = torch.from_numpy(np.stack((slope, offset)))[None]
        half = F.avg_pool2d(lines, 2)
        small = F.interpolate(half, size=(16, 24), mode="bilinear")
        large = F.interpolate(small, size=(32, 48), mode="bilinear")[0]
        toned = large[0] * source[0, colour] + large[1]
        overlay = F.interpolate(generated.double(), scale_factor=4, mode="bicubic")
        enlarged = F.interpolate(overlay, size=(32, 48), mode="bilinear")[0, colour]
        expected = (1 - opacity) * toned + opacity * enlarged
        # A little of what the cell has and the result has not.
        cell = (1 - opacity) * (small[0, 0] * given[0, colour] + small[0, 1])
        cell += opacity * F.avg_pool2d(overlay, 4)[0, colour]
        missing = (generated[0, colour] - cell)[None, None] / (1 + np.exp(3.0))
        missing = F.interpolate(missing, scale_factor=4, mode="bicubic")
        expected += F.interpolate(missing, size=(32, 48), mode="bilinear")[0, 0]
        torch.testing.assert_close(result[0, colour].double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(70, 131), (40, 24), (13, 9)])
@pytest.mark.parametrize("cell", [(16, 24), (13, 22)])
def test_applied_in_strips_equals_the_whole(
    cell: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For sizes that are no multiples of anything, larger and smaller than the cell."""
    monkeypatch.setattr("dcgrid.models.edit_frames.STRIP", 11)
    model = trained()
    given, generated = pictures(1, 3, *cell), pictures(1, 3, *cell, seed=1)
    source = pictures(3, *size, seed=2)
    whole = model(given, generated, source[None])[0].clamp(-1, 1)
    applied = model.analyze(given, generated).frame(0.0, source)
    assert applied.shape == source.shape
    torch.testing.assert_close(applied, whole, rtol=0, atol=1e-3)


def test_averaged_down_a_trusted_edit_is_what_was_generated() -> None:
    """But for the interpolation between pixels of the cell, whatever the guide shows."""
    model = trained()
    given, generated = pictures(1, 3, 24, 32), pictures(1, 3, 24, 32, seed=1)
    smooth = F.interpolate(F.avg_pool2d(generated, 8), size=(24, 32), mode="bicubic")
    source = F.interpolate(given, scale_factor=4)[0]
    far = {}
    for trusted in (False, True):
        # A source without detail of its own: the cell says nothing of that.
        result = model.analyze(given, smooth, trusted=trusted).frame(0.0, source)
        far[trusted] = float((F.avg_pool2d(result, 4) - smooth[0]).abs().mean())
    assert far[True] < 0.35 * far[False]


def test_frames_are_looked_at_one_by_one() -> None:
    model = trained()
    given, generated = pictures(3, 3, 16, 16), pictures(3, 3, 16, 16, seed=1)
    source = pictures(3, 32, 32, seed=2)
    together = model.analyze(given, generated)
    assert len(together) == 3
    for frame in range(3):
        alone = model.analyze(given[frame : frame + 1], generated[frame : frame + 1])
        torch.testing.assert_close(together.frame(float(frame), source), alone.frame(0.0, source))
    for outside, held in ((-3.0, 0.0), (7.5, 2.0)):
        assert torch.equal(together.frame(outside, source), together.frame(held, source))
    with pytest.raises(ValueError, match=r"\(3, 3, 16, 16\) and \(2, 3, 16, 16\)"):
        model.analyze(given, generated[:2])


def dots(down: int, right: int) -> torch.Tensor:
    """Draw a few soft dots on black, 1 3 48 64, moved from where they are at first."""
    y, x = torch.arange(48.0)[:, None], torch.arange(64.0)
    picture = torch.zeros(48, 64)
    for top, left in ((10, 12), (14, 40), (25, 25), (30, 50)):
        away = (y - top - down) ** 2 + (x - left - right) ** 2
        picture += torch.exp(-away / (2 * 1.2**2))
    return picture.expand(1, 3, 48, 64)


@pytest.mark.parametrize("way", [(0, 0), (4, 0), (8, 1), (-3, -2)])
def test_motion_is_found_where_something_is_to_be_seen(way: tuple[int, int]) -> None:
    found = find_motion(dots(0, 0), dots(*way))
    at_dots = dots(0, 0)[0, 0] > 0.5
    for axis, truth in ((0, way[1]), (1, way[0])):
        assert (found[0, axis][at_dots] - truth).abs().max() < 0.6


def test_between_frames_a_dot_is_on_its_way_and_not_there_twice() -> None:
    """A dot that falls 8 pixels from frame to frame, seen at every quarter of its way."""
    model = GuidedUpsampler((4, 6)).requires_grad_(False)
    model.overlay_head.bias[:16] = 20.0  # all opaque: what was generated is shown
    given = torch.zeros(2, 3, 48, 64)
    generated = torch.cat((dots(0, 0), dots(8, 0))) - 0.5
    coefficients = model.analyze(given, generated)
    for quarter in range(5):
        shown = coefficients.frame(quarter / 4, torch.zeros(3, 96, 128)).mean(0) + 0.5
        # Only one of the dots lies in these columns.
        column = shown[:, 2 * 12 - 6 : 2 * 12 + 7].sum(1)
        middle = float((column * (torch.arange(96) + 0.5)).sum() / column.sum()) / 2
        assert middle == pytest.approx(10.5 + 8 * quarter / 4, abs=1.0)
        assert float(shown[:, 24].max()) > 0.7


def test_particles_lie_over_the_edit_as_strong_and_as_coloured_as_the_network_says() -> None:
    """Plane 3 at opacity 0.5 and in one colour: each pixel by hand."""
    model = GuidedUpsampler((4, 6)).requires_grad_(False)
    colour = torch.tensor([0.4, -0.2, 0.1])
    model.particle_head.bias[::4] = -10.0
    model.particle_head.bias[12] = 0.0
    model.particle_head.bias[13:16] = (colour - 0.4) / SHARPNESS
    given, generated = pictures(2, 3, 16, 24), pictures(2, 3, 16, 24, seed=1)
    source, plane = pictures(3, 64, 96, seed=2), pictures(1, 64, 96, seed=3).abs()
    noise = torch.zeros(2, FIELDS + PLANES, 16, 24)
    bare = model.analyze(given, generated)
    assert bare.planes == ()
    known = model.analyze(given, generated, noise)
    assert known.planes == (3,)
    for position in (0.0, 0.3, 1.0):
        without = bare.frame(position, source)
        laid = known.frame(position, source, plane)
        expected = without * (1 - 0.5 * plane) + 0.5 * plane * colour[:, None, None]
        torch.testing.assert_close(laid, expected, rtol=0, atol=1e-4)
        assert torch.equal(known.frame(position, source), without)


def test_training_lays_them_as_inference_does() -> None:
    model = trained()
    given, generated = pictures(1, 3, 16, 24), pictures(1, 3, 16, 24, seed=1)
    source = pictures(1, 3, 64, 96, seed=2)
    fields = pictures(1, FIELDS, 16, 24, seed=4)
    planes = pictures(1, PLANES, 64, 96, seed=5).clamp_min(0) * 0.3
    looks = torch.cat((fields, F.avg_pool2d(planes, 4)), dim=1)
    known = model.analyze(given, generated, looks, "snow")
    laid = known.frame(0.0, source[0], planes[0, list(known.planes)])
    together = model(given, generated, source, (fields, planes), ["snow"])[0].clamp(-1, 1)
    torch.testing.assert_close(laid, together, rtol=0, atol=2e-3)
    assert (laid - known.frame(0.0, source[0])).abs().max() > 0.01


def test_it_can_be_trained_after_it_was_used_in_the_same_process() -> None:
    """What is kept between calls must not come from inference mode; no other test has this size."""
    network = GuidedUpsampler()
    given, generated = torch.rand(2, 1, 3, 22, 26) * 2 - 1
    network.analyze(given, generated)
    source = torch.rand(1, 3, 88, 104) * 2 - 1
    network(given, generated, source).square().mean().backward()
    assert network.overlay_head.weight.grad is not None


def test_a_file_is_loaded_with_its_widths_and_words(tmp_path: Path) -> None:
    model = trained((4, 6, 10))
    path = tmp_path / "upsampler.safetensors"
    save_weights(path, model.state_dict(), {"vocabulary": ["rain", "snow"]}, torch.float32)
    loaded = load_upsampler(path)
    assert loaded.widths == (4, 6, 10)
    given, generated = pictures(1, 3, 8, 8), pictures(1, 3, 8, 8, seed=1)
    source = pictures(1, 3, 16, 16, seed=2)
    results = {}
    for text in ("", "rain", "snow"):
        results[text] = loaded(given, generated, source, None, [text])
        again = model(given, generated, source, None, [text])
        torch.testing.assert_close(results[text], again, rtol=1e-4, atol=1e-5)
    assert (results["rain"] - results["snow"]).abs().max() > 1e-3
    assert torch.equal(results[""], loaded(given, generated, source))
    save_weights(path, {"weight": torch.ones(2, 2)}, {}, torch.float32)
    with pytest.raises(WeightsError, match="holds no upsampler"):
        load_upsampler(path)


def test_shipped_weights_keep_detail_of_the_source_and_colours_of_the_edit() -> None:
    """A darker, bluer scene: nearer to the truth than enlarging it, by far."""
    assert WEIGHTS.stat().st_size < 2_500_000
    model = load_upsampler()
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 24, 40, generator=generator)
    fine = torch.rand(1, 1, 192, 320, generator=generator)
    source = F.interpolate(coarse, size=(192, 320), mode="bicubic") * 0.6 + 0.4 * fine
    truth = source * torch.tensor([0.35, 0.45, 0.7]).reshape(1, 3, 1, 1) + 0.05
    given, generated = (F.avg_pool2d(one, 4) * 2 - 1 for one in (source, truth))
    result = model.analyze(given, generated).frame(0.0, source[0] * 2 - 1)
    plain = F.interpolate(generated, size=(192, 320), mode="bicubic")[0]
    error, plain_error = ((one - truth[0] * 2 + 1).square().mean() for one in (result, plain))
    assert error < plain_error / 4
