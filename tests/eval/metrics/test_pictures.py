"""Distances from the truth, against independent implementations."""

import pytest
import torch

from dcgrid.eval.metrics import change, leak, lpips, lpips_distances, psnr, ssim
from dcgrid.eval.metrics.pictures import lab
from tests.eval.places import lacks


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def smooth(count=3, height=40, width=56, seed=0):
    """Frames with structure, and a noisy copy of them."""
    coarse = torch.rand(count, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    frames = (fine * 200 + 20).clamp(0, 255).permute(0, 2, 3, 1)
    dirty = frames + torch.randn(frames.shape, generator=torch.Generator().manual_seed(9)) * 12
    return frames.to(torch.uint8), dirty.clamp(0, 255).to(torch.uint8)


@lacks("cv2")
def test_psnr_is_opencvs():
    import cv2

    one, two = smooth()
    wanted = [cv2.PSNR(a.numpy(), b.numpy()) for a, b in zip(one, two, strict=True)]
    score = psnr(one, two)
    assert score.series == pytest.approx(tuple(wanted))
    assert score.value == pytest.approx(sum(wanted) / 3)
    assert psnr(one, one).value == 100.0


def plain_ssim(one, two):
    """Window by window, as the paper writes it."""
    import numpy as np

    at = np.arange(11) - 5
    gauss = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    gauss /= gauss.sum()
    grey = [frame @ np.array([0.299, 0.587, 0.114]) for frame in (one, two)]
    found = []
    for top in range(one.shape[0] - 10):
        for left in range(one.shape[1] - 10):
            x, y = (g[top : top + 11, left : left + 11] for g in grey)
            mx, my = (gauss * x).sum(), (gauss * y).sum()
            vx, vy = (gauss * (x - mx) ** 2).sum(), (gauss * (y - my) ** 2).sum()
            shared = (gauss * (x - mx) * (y - my)).sum()
            c1, c2 = 6.5025, 58.5225
            light = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
            found.append(light * (2 * shared + c2) / (vx + vy + c2))
    return float(np.mean(found))


def test_ssim_is_the_papers():
    pytest.importorskip("numpy")
    one, two = smooth(count=1, height=24, width=30)
    score = ssim(one, two)
    assert score.value == pytest.approx(plain_ssim(one[0].numpy(), two[0].numpy()), abs=1e-9)
    assert 0.05 < score.value < 0.95
    assert ssim(one, one).value == pytest.approx(1.0)
    assert "less than 11" in ssim(one[:, :8], one[:, :8]).reason


def test_lpips_distances_against_loops():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 6, 5), (2, 3, 2, 2)]
    one, two = ([torch.randn(s, generator=generator) for s in shapes] for _ in range(2))
    weights = [torch.rand(s[1], generator=generator) for s in shapes]
    wanted = []
    for t in range(2):
        total = 0.0
        for a, b, w in zip(one, two, weights, strict=True):
            places = []
            for y in range(a.shape[2]):
                for x in range(a.shape[3]):
                    u, v = a[t, :, y, x], b[t, :, y, x]
                    apart = u / u.square().sum().sqrt() - v / v.square().sum().sqrt()
                    places.append(float((w * apart * apart).sum()))
            total += sum(places) / len(places)
        wanted.append(total)
    found = lpips_distances(one, two, weights)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert lpips(found).value == pytest.approx(sum(wanted) / 2, rel=1e-5)
    assert lpips([float("nan")]).value is None


@lacks("cv2")
def test_lab_is_opencvs():
    import cv2

    frame = noise(32, 32, 3)
    theirs = cv2.cvtColor(frame.numpy().astype("float32") / 255, cv2.COLOR_RGB2LAB)
    # OpenCV looks its values up in a table, in steps of an eighth and more.
    assert (lab(frame) - torch.from_numpy(theirs)).abs().max() < 0.4


def test_change_is_the_mean_delta_e():
    black, white = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.full((2, 4, 4, 3), 255).byte()
    assert change(black, white).value == pytest.approx(100, abs=0.01)
    assert change(white, white).value == 0
    # A known pair: sRGB red is L 53.24, a 80.09, b 67.20 under D65.
    red = torch.tensor([255, 0, 0]).byte().expand(1, 2, 2, 3)
    assert change(black[:1, :2, :2], red).value == pytest.approx(117.34, abs=0.1)


def test_change_is_split_by_the_mask():
    source = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    result, mask = source.clone(), torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, :, :2] = True
    result[:, :, :2] = 255
    assert change(source, result, mask).value == pytest.approx(100, abs=0.01)
    # The second frame has no subject, so all of it is background, half of it changed.
    assert change(source, result, ~mask).series == pytest.approx((0, 50), abs=0.01)
    assert change(source, result, mask).series[1] is None
    assert change(source, result, mask & False).reason == "the mask is empty"


def test_sizes_must_fit():
    one, two = noise(2, 16, 16, 3), noise(3, 16, 16, 3)
    for measure in (psnr, ssim, change):
        with pytest.raises(ValueError, match="against"):
            measure(one, two)
    with pytest.raises(ValueError, match="mask"):
        change(one, one, torch.ones(2, 8, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(3, 16, 16, 3\)"):
        leak(one, two, one)
    with pytest.raises(ValueError, match="mask"):
        leak(one, one, one, torch.ones(2, 16, dtype=torch.bool))
    for measure in (psnr, ssim, change):
        assert measure(one[:0], one[:0]).reason == "no frames"
    assert leak(one[:0], one[:0], one[:0]).reason == "no frames"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, -0.25])
def test_leak_is_the_share_of_the_other(share):
    own, other = (noise(3, 8, 8, 3, seed=s).double() for s in (0, 1))
    assert leak(own + share * (other - own), own, other).value == pytest.approx(share)
    # What differs from both, at a right angle, does not count.
    line = (other - own).flatten()
    extra = torch.randn(line.shape, dtype=torch.double, generator=torch.Generator().manual_seed(5))
    extra -= (extra @ line) / (line @ line) * line
    dirty = own + share * (other - own) + extra.view_as(own)
    assert leak(dirty, own, other).value == pytest.approx(share, abs=1e-9)


def test_leak_looks_at_the_mask_alone_and_at_embeddings():
    own, other = noise(2, 8, 8, 3), noise(2, 8, 8, 3, seed=1)
    result, mask = own.clone(), torch.zeros(2, 8, 8, dtype=torch.bool)
    result[:, :4], mask[:, :4] = other[:, :4], True
    assert leak(result, own, other, mask).value == pytest.approx(1)
    assert leak(result, own, other, ~mask).value == pytest.approx(0)
    assert 0 < leak(result, own, other).value < 1
    rows = torch.eye(4)
    assert leak(rows[:1], rows[:1], rows[1:2]).value == 0
    assert leak(own, own, own).reason == "both clips are the same"
    assert leak(rows * float("nan"), rows, rows + 1).value is None
