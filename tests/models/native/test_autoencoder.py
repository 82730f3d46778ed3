"""The causal autoencoder: time runs one way, sizes fit, the linear path is the PCA optimum."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dcgrid.models.native.autoencoder import Autoencoder, LinearPath
from dcgrid.models.native.config import MINI, PAPER, TINY, AutoencoderConfig

CONFIGS = {
    "mini": replace(MINI.autoencoder, base_channels=8, latent_channels=6),
    "paper": replace(
        PAPER.autoencoder,
        base_channels=4,
        multipliers=(1, 1, 2, 2, 2),
        encoder_blocks=(1, 1, 1, 1, 1),
        decoder_blocks=(1, 1, 1, 1, 1),
        latent_channels=5,
    ),
    "tiny": TINY.autoencoder,
}
"""Small stand-ins: mini's and the paper's strides, padding and norms, with few channels."""


def build(config: AutoencoderConfig) -> Autoencoder:
    """Build an autoencoder none of whose weights is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        autoencoder = Autoencoder(config)
        for parameter in autoencoder.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        autoencoder.latent_mean += torch.randn(config.latent_channels)
        autoencoder.latent_scale *= 0.5 + torch.rand(config.latent_channels)
    return autoencoder.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def autoencoder(request: pytest.FixtureRequest) -> Autoencoder:
    return build(CONFIGS[request.param])


def clip_for(autoencoder: Autoencoder, latent_frames: int = 4, batch: int = 1) -> torch.Tensor:
    config = autoencoder.config
    frames = config.total_stride_T * (latent_frames - 1) + 1
    size = 2 * config.total_stride_HW
    generator = torch.Generator().manual_seed(9)
    return torch.rand(batch, 3, frames, size, size, generator=generator) * 2 - 1


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_future_frame_never_changes_the_past_latents(autoencoder: Autoencoder, kept: int) -> None:
    clip = clip_for(autoencoder)
    expected = autoencoder.encode(clip)
    past = autoencoder.config.total_stride_T * (kept - 1) + 1
    # NaN spreads through everything that reads it, even times zero.
    clip[:, :, past:] = float("nan")
    poisoned = autoencoder.encode(clip)
    torch.testing.assert_close(poisoned[:, :, :kept], expected[:, :, :kept], rtol=1e-5, atol=1e-5)
    assert poisoned[:, :, kept:].isnan().any(dim=1).all()


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_future_latent_never_changes_the_past_frames(autoencoder: Autoencoder, kept: int) -> None:
    latents = autoencoder.encode(clip_for(autoencoder))
    expected = autoencoder.decode(latents)
    latents[:, :, kept:] = float("nan")
    poisoned = autoencoder.decode(latents)
    past = autoencoder.config.total_stride_T * (kept - 1) + 1
    torch.testing.assert_close(poisoned[:, :, :past], expected[:, :, :past], rtol=1e-5, atol=1e-5)
    assert poisoned[:, :, past:].isnan().any(dim=1).all()


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_shorter_clip_is_the_beginning_of_a_longer_one(
    autoencoder: Autoencoder, kept: int
) -> None:
    clip = clip_for(autoencoder)
    past = autoencoder.config.total_stride_T * (kept - 1) + 1
    latents = autoencoder.encode(clip)
    alone = autoencoder.encode(clip[:, :, :past])
    torch.testing.assert_close(alone, latents[:, :, :kept], rtol=1e-5, atol=1e-5)
    frames = autoencoder.decode(latents)[:, :, :past]
    torch.testing.assert_close(autoencoder.decode(alone), frames, rtol=1e-5, atol=1e-5)


def test_every_frame_reaches_its_own_latent(autoencoder: Autoencoder) -> None:
    clip = clip_for(autoencoder).requires_grad_()
    autoencoder.encode(clip)[:, :, -1].sum().backward()
    assert clip.grad is not None
    stride = autoencoder.config.total_stride_T
    assert (clip.grad[:, :, -stride:].abs().amax(dim=(0, 1, 3, 4)) > 0).all()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_latent_reaches_all_of_its_own_frames(name: str) -> None:
    # The decoder alone: norms and the linear path would carry latents to their frames as well.
    config = replace(CONFIGS[name], adaptive_norm=False, linear_path=False, deep_encoder=True)
    decoder = build(config).decoder
    latents = torch.randn(1, config.latent_channels, 3, 2, 2).requires_grad_()
    stride = config.total_stride_T
    for frame, pixels in enumerate(decoder(latents).unbind(dim=2)):
        grad = torch.autograd.grad(pixels.square().sum(), latents, retain_graph=True)[0]
        reached = grad.abs().amax(dim=(0, 1, 3, 4)) > 0
        own = -(-frame // stride)
        assert reached[own]
        assert not reached[own + 1 :].any()


@pytest.mark.parametrize("latent_frames", [1, 2, 3])
def test_sizes_follow_the_strides(autoencoder: Autoencoder, latent_frames: int) -> None:
    clip = clip_for(autoencoder, latent_frames, batch=2)
    latents = autoencoder.encode(clip)
    assert latents.shape == (2, autoencoder.config.latent_channels, latent_frames, 2, 2)
    decoded = autoencoder.decode(latents)
    assert decoded.shape == clip.shape
    assert decoded.abs().max() <= 1


def test_clips_that_do_not_fit_are_refused(autoencoder: Autoencoder) -> None:
    config = autoencoder.config
    size = config.total_stride_HW
    for frames in range(1, config.total_stride_T + 2):
        clip = torch.zeros(1, 3, frames, size, size)
        if (frames - 1) % config.total_stride_T == 0:
            autoencoder.encode(clip)
            continue
        with pytest.raises(ValueError, match=f"{frames} x {size}"):
            autoencoder.encode(clip)
    for height, width in ((size + 1, size), (size, size - 1), (size // 2, size)):
        with pytest.raises(ValueError, match=f"{height} x {width}"):
            autoencoder.encode(torch.zeros(1, 3, 1, height, width))


def test_normalised_latents_undo_mean_and_scale(autoencoder: Autoencoder) -> None:
    clip = clip_for(autoencoder)
    raw, log_variance = autoencoder.moments(clip)
    for channel in range(raw.shape[1]):
        mean = float(autoencoder.latent_mean[channel])
        scale = float(autoencoder.latent_scale[channel])
        normalised = autoencoder.encode(clip)[:, channel]
        torch.testing.assert_close(normalised, (raw[:, channel] - mean) / scale)
    expected = autoencoder.reconstruct(raw).clamp(-1, 1)
    torch.testing.assert_close(
        autoencoder.decode(autoencoder.encode(clip)), expected, rtol=1e-4, atol=1e-4
    )
    assert log_variance.min() >= -20
    assert log_variance.max() <= 4


def test_the_paper_s_configuration_compresses_8x16x16_to_32_channels() -> None:
    config = PAPER.autoencoder
    assert (config.total_stride_T, config.total_stride_HW) == (8, 16)
    assert config.latent_channels == 32
    assert config.padding == "replicate"
    assert config.adaptive_norm


def test_replicate_padding_copies_the_border() -> None:
    """A clip of one colour stays one colour only if its border is padded with itself."""
    flat = torch.full((1, 3, 9, 32, 32), 0.3)
    latents = build(CONFIGS["paper"]).encode(flat)
    torch.testing.assert_close(latents, latents[..., :1, :1].expand_as(latents))


def linear_path(channels: int = 6) -> LinearPath:
    config = replace(CONFIGS["mini"], latent_channels=channels, input_patch=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return LinearPath(config).requires_grad_(False)


def moving_clips(path: LinearPath) -> torch.Tensor:
    """Clips with few degrees of freedom and a mean far from zero, plus noise."""
    generator = torch.Generator().manual_seed(2)
    frames, size = 2 * path.stride_T + 1, 6 * path.stride_HW
    low = torch.randn(3, 3, frames, size // 8, size // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(low, size=(frames, size, size), mode="trilinear")
    return 0.3 + 0.5 * smooth + 0.02 * torch.randn(smooth.shape, generator=generator)


def blocks_by_hand(path: LinearPath, clips: torch.Tensor) -> np.ndarray:
    """Cut blocks with loops, one row a block; the first frame alone fills the first block."""
    pixels = clips.double().numpy()
    stride_T, stride_HW = path.stride_T, path.stride_HW
    rows = []
    for clip in pixels:
        for latent in range((clip.shape[1] - 1) // stride_T + 1):
            last = latent * stride_T
            frames = [max(0, last - stride_T + 1 + r) for r in range(stride_T)]
            for top in range(0, clip.shape[2], stride_HW):
                for left in range(0, clip.shape[3], stride_HW):
                    block = clip[:, frames, top : top + stride_HW, left : left + stride_HW]
                    rows.append(block.reshape(-1))
    return np.stack(rows)


def test_fit_gives_the_optimum_that_an_svd_gives() -> None:
    path = linear_path()
    clips = moving_clips(path)
    rows_MP = path.blocks(clips).flatten(0, 3)
    by_hand_MP = blocks_by_hand(path, clips)
    np.testing.assert_allclose(rows_MP.numpy(), by_hand_MP, rtol=1e-6)
    path.fit(rows_MP.mean(0), torch.cov(rows_MP.T, correction=0))

    mean_P = by_hand_MP.mean(0)
    left, values, right = np.linalg.svd(by_hand_MP - mean_P, full_matrices=False)
    expected_MP = mean_P + (left[:, :6] * values[:6]) @ right[:6]
    fitted_MP = path.to_pixels(path.to_latents(rows_MP)).numpy()
    np.testing.assert_allclose(fitted_MP, expected_MP, atol=2e-4)
    error = ((fitted_MP - by_hand_MP) ** 2).sum()
    # Eckart-Young: what no codec of six numbers a block can keep.
    np.testing.assert_allclose(error, (values[6:] ** 2).sum(), rtol=1e-3)


def test_fitted_latents_are_centred_and_not_correlated() -> None:
    path = linear_path()
    clips = moving_clips(path)
    rows_MP = path.blocks(clips).flatten(0, 3)
    path.fit(rows_MP.mean(0), torch.cov(rows_MP.T))
    latents_MC = path.to_latents(rows_MP)
    covariance_CC = torch.cov(latents_MC.T)
    torch.testing.assert_close(latents_MC.mean(0), torch.zeros(6), rtol=0, atol=1e-4)
    off_diagonal = covariance_CC - covariance_CC.diag().diag()
    assert off_diagonal.abs().max() < 1e-3 * covariance_CC.max()
    spread_C = covariance_CC.diag()
    assert (spread_C[:-1] >= spread_C[1:]).all()


def test_a_linear_path_grows_without_touching_what_it_had() -> None:
    """Two channels kept, four fitted anew: as good as six fitted together, if the two are best."""
    path = linear_path()
    clips = moving_clips(path)
    rows_MP = path.blocks(clips).flatten(0, 3)
    mean_P, covariance_PP = rows_MP.mean(0), torch.cov(rows_MP.T, correction=0)
    path.fit(mean_P, covariance_PP)
    best_MP = path.to_pixels(path.to_latents(rows_MP))
    held = path.to_latents.weight[:2].clone(), path.to_pixels.weight[:, :2].clone()
    for weight in (path.to_latents.weight[2:], path.to_pixels.weight[:, 2:]):
        weight.normal_()
    path.fit(mean_P + 0.1, covariance_PP, kept=2)
    assert torch.equal(path.to_latents.weight[:2], held[0])
    assert torch.equal(path.to_pixels.weight[:, :2], held[1])
    torch.testing.assert_close(
        path.to_pixels(path.to_latents(rows_MP)), best_MP, rtol=1e-3, atol=1e-3
    )


def test_linear_path_keeps_everything_with_as_many_channels_as_pixels() -> None:
    path = linear_path(channels=3 * 4 * 4 * 4)
    clips = moving_clips(path)
    rows_MP = path.blocks(clips).flatten(0, 3)
    path.fit(rows_MP.mean(0), torch.cov(rows_MP.T))
    torch.testing.assert_close(path.decode(path.encode(clips)), clips, rtol=1e-3, atol=1e-3)


def test_a_fresh_deep_path_leaves_the_fitted_linear_one_alone() -> None:
    config = replace(CONFIGS["mini"], latent_channels=6)
    fresh = Autoencoder(config).requires_grad_(False)
    assert fresh.linear is not None
    clip = torch.rand(1, 3, 5, 16, 16) - 0.5
    mean, log_variance = fresh.moments(clip)
    torch.testing.assert_close(mean, fresh.linear.encode(clip))
    torch.testing.assert_close(fresh.reconstruct(mean), fresh.linear.decode(mean))
    assert (log_variance == -8).all()


def test_mini_encodes_with_its_linear_path_alone() -> None:
    autoencoder = build(CONFIGS["mini"])
    assert autoencoder.encoder is None
    assert autoencoder.linear is not None
    clip = clip_for(autoencoder)
    mean, log_variance = autoencoder.moments(clip)
    torch.testing.assert_close(mean, autoencoder.linear.encode(clip))
    assert (log_variance == -8).all()


def test_an_autoencoder_that_could_not_encode_is_refused() -> None:
    with pytest.raises(ValueError, match="linear path"):
        Autoencoder(replace(CONFIGS["mini"], linear_path=False))
