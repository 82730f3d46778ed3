"""Stage `autoencoder`: the causal video autoencoder, on clips of the procedural world.

First the linear path is fitted in closed form, then the deep networks are trained on what is left.

Differs: docs/decisions/0002 (the paper does not say how its autoencoder was trained).
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from dcgrid.errors import WeightsError
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.weights import load_weights, read_weights, save_weights
from dcgrid.runtime.device import autocast, training_dtype
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips, chance, pick
from dcgrid.train.facts import preset_of
from dcgrid.train.job import (
    Reporter,
    TrainJob,
    facts_of,
)
from dcgrid.train.loop import train
from dcgrid.train.networks import (
    start_from,
)
from dcgrid.train.settings import AutoencoderLoss, Phase, TrainRecipe


def draw_pixels(
    world: WorldClips, phase: Phase, effect_share: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw a batch of clips, some of them under an effect; BCTHW in [-1, 1]."""
    size = phase.sizes[pick(len(phase.sizes), generator)]
    clips = []
    for _ in range(phase.batch):
        drawn = world.draw(phase.frames, size, generator)
        if chance(generator) < effect_share:
            name = EFFECT_NAMES[pick(len(EFFECT_NAMES), generator)]
            clips.append(world.render(name, drawn, generator))
        else:
            clips.append(drawn.clip_CTHW)
    return torch.stack(clips) * 2 - 1


def trained_names(model: Autoencoder, *, decoder_only: bool) -> frozenset[str]:
    """Return the names of the parameters that the stage trains.

    The linear path stays as it was fitted: it is the best there is, and steps could only shake it.
    """
    frozen = ("linear.", "encoder.") if decoder_only else ("linear.",)
    names = (name for name, _ in model.named_parameters())
    return frozenset(name for name in names if not name.startswith(frozen))


class AutoencoderStage:
    """The loss of the autoencoder."""

    def __init__(
        self, model: Autoencoder, world: WorldClips, recipe: TrainRecipe, *, decoder_only: bool
    ) -> None:
        self.model: Autoencoder = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.world = world
        self.recipe = recipe
        self.decoder_only = decoder_only

    @property
    def knobs(self) -> AutoencoderLoss:
        """Weights and shares of the recipe."""
        return self.recipe.loss_as(AutoencoderLoss)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """All deep weights, or those of the decoder when latents must stay as they are."""
        names = trained_names(self.model, decoder_only=self.decoder_only)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in names)
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def remember(self) -> dict[str, torch.Tensor]:
        """Return what is fitted or loaded and not trained: without it a checkpoint is no model."""
        return {f"fixed.{name}": tensor.detach() for name, tensor in self._fixed().items()}

    def recall(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Put back what `remember` returned; nothing from a checkpoint of before it did.

        Raises:
            ValueError: Names or shapes are not the model's.
        """
        fixed = self._fixed()
        shapes = {f"fixed.{name}": tensor.shape for name, tensor in fixed.items()}
        if kept and shapes != {name: tensor.shape for name, tensor in kept.items()}:
            raise ValueError("what is not trained does not fit the model")
        with torch.no_grad():
            for name, tensor in kept.items():
                fixed[name.removeprefix("fixed.")].copy_(tensor)

    def _fixed(self) -> dict[str, torch.Tensor]:
        frozen = {n: p for n, p in self.model.named_parameters() if not p.requires_grad}
        return {**frozen, **dict(self.model.named_buffers())}

    def loss(
        self, phase: Phase, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Squared and absolute error, error of the differences in space and time, and KL."""
        weights = self.knobs
        video = draw_pixels(self.world, phase, weights.effect_share, generator)
        with autocast(video.device, training_dtype(self.recipe.precision, video.device)):
            mean, log_variance = self.model.moments(video)
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            # Besides the posterior's own noise, some in proportion to each channel's scale: the
            # decoder will read what a transformer made, not what an encoder made.
            spread = (0.5 * log_variance).exp() + weights.latent_noise * self._scale()
            latents = mean + noise * spread
            restored = self.model.reconstruct(latents)
        error = restored.float() - video
        # The squared error alone blurs: the absolute one and that of differences keep edges.
        squared = error.pow(2).mean()
        kl = self._divergence(video, mean, log_variance)
        total = (
            weights.squared * squared
            + weights.absolute * error.abs().mean()
            + weights.differences * error_of_differences(error)
            + weights.kl * kl
        )
        psnr = 10 * torch.log10(4 / error.detach().pow(2).mean((1, 2, 3, 4))).mean()
        return total, {"psnr": float(psnr), "kl": float(kl.detach())}

    def _scale(self) -> torch.Tensor:
        return self.model.latent_scale.reshape(1, -1, 1, 1, 1)

    def _divergence(
        self, video: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor
    ) -> torch.Tensor:
        """KL from a unit normal around the linear latents (around 0 without a linear path)."""
        center = torch.zeros_like(mean)
        if self.model.linear is not None:
            with torch.no_grad():
                center = self.model.linear.encode(video)
        away, log_variance = (mean - center).float(), log_variance.float()
        return 0.5 * (away.pow(2) + log_variance.exp() - 1 - log_variance).mean()


def error_of_differences(error_BCTHW: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of the differences between neighbours: keeps edges and streaks.

    A clip of one frame has none in time.
    """
    axes = [axis for axis in (2, 3, 4) if error_BCTHW.shape[axis] > 1]
    differences = [error_BCTHW.diff(dim=axis).abs().mean() for axis in axes]
    return sum(differences, error_BCTHW.new_zeros(()))


@torch.no_grad()
def fit_linear_path(
    model: Autoencoder,
    world: WorldClips,
    phase: Phase,
    recipe: TrainRecipe,
    report: Callable[[str], None],
    kept: int = 0,
) -> None:
    """Fit the linear codec on blocks of drawn clips (principal components).

    The first `kept` channels, of an earlier edition, stay as they are.
    """
    if model.linear is None:
        return
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    count, total, outer = 0, torch.zeros(()), torch.zeros(())
    for _ in range(int(recipe.loss_as(AutoencoderLoss).fit_batches)):
        video = draw_pixels(world, phase, recipe.loss_as(AutoencoderLoss).effect_share, generator)
        blocks_NP = model.linear.blocks(video).flatten(0, 3).cpu()  # not every GPU has doubles
        count += blocks_NP.shape[0]
        total = total + blocks_NP.double().sum(0)
        outer = outer + (blocks_NP.T @ blocks_NP).double()
    mean_P = total / count
    model.linear.fit(mean_P.float(), outer / count - torch.outer(mean_P, mean_P), kept)
    report(f"linear path fitted on {count} blocks")


@torch.no_grad()
def measure_latents(
    model: Autoencoder, world: WorldClips, phase: Phase, recipe: TrainRecipe, kept: int = 0
) -> None:
    """Set `latent_mean`, `latent_scale` and `latent_spread` from drawn clips.

    The scale of a channel is the root of its spread, not the spread: channels that carry much of
    the picture stay the larger ones, so that an error in latents costs about what it costs in
    pixels. A common factor brings the mean square over channels to 1. Differs: docs/decisions/0002.
    The first `kept` channels, of an earlier edition, keep their numbers and its common factor.
    """
    generator = torch.Generator().manual_seed(recipe.seed + 2)
    latents = []
    for _ in range(int(recipe.loss_as(AutoencoderLoss).fit_batches) // 2):
        video = draw_pixels(world, phase, recipe.loss_as(AutoencoderLoss).effect_share, generator)
        mean, _ = model.moments(video)
        latents.append(mean.transpose(0, 1).flatten(1))
    stacked_CN = torch.cat(latents, dim=1)
    spread_C = stacked_CN.std(dim=1).clamp_min(1e-4)
    scale_C = spread_C.sqrt()
    common = (spread_C / scale_C).pow(2).mean().sqrt()
    if kept:
        earlier_K = model.latent_scale[:kept]
        common = (earlier_K / model.latent_spread[:kept]).mean().sqrt()
    model.latent_mean[kept:] = stacked_CN.mean(dim=1)[kept:]
    model.latent_scale[kept:] = (scale_C * common)[kept:]
    model.latent_spread[kept:] = (spread_C / (scale_C * common))[kept:]


def run_autoencoder(job: TrainJob, reporter: Reporter) -> Path:
    """Fit the linear path and the scale of latents, then train what is deep.

    Without a deep encoder the latents are final once fitted, so the file is written at once and
    later stages can start while the decoder still trains.
    """
    config = preset_of(job.model, job.recipe.stage)
    path = job.out / "autoencoder.safetensors"
    world = WorldClips(WorldStore(job.store), job.device, job.facts.fps)
    model = Autoencoder(config.autoencoder).to(job.device)
    if job.decoder_only or (job.resume and path.is_file()):
        load_weights(path, model)  # resumed: the checkpoint then says it exactly
    elif not job.resume:
        kept = _start_autoencoder(job, model)
        fit_linear_path(model, world, job.recipe.phases[0], job.recipe, reporter.say, kept)
        if not config.autoencoder.deep_encoder:
            measure_latents(model, world, job.recipe.phases[-1], job.recipe, kept)
            facts = {"model": job.model, "stage": "autoencoder", "steps": "0"}
            save_weights(path, model.state_dict(), facts, job.stored_as)
    stage = AutoencoderStage(model, world, job.recipe, decoder_only=job.decoder_only)
    state = train(stage, job.recipe, job.loop, reporter.progress, reporter.say)
    model.load_state_dict(state.averaged, strict=False)
    if config.autoencoder.deep_encoder and not job.decoder_only:
        measure_latents(model, world, job.recipe.phases[-1], job.recipe)
    save_weights(path, model.state_dict(), facts_of(job, state), job.stored_as)
    return path


def _start_autoencoder(job: TrainJob, model: Autoencoder) -> int:
    """Load an earlier edition, if one is named; return how many latent channels stay as they are.

    Raises:
        WeightsError: The file is missing or damaged, does not fit, or has a deep encoder.
    """
    if job.start is None:
        return 0
    path = job.start / "autoencoder.safetensors"
    if model.encoder is not None:
        raise WeightsError(
            f"--start-from: {job.model} has a deep encoder, whose latents all change"
        )
    start_from(path, model)
    tensors, _ = read_weights(path)
    return len(tensors["latent_mean"])
