"""Videos that the bare base makes: seen between those of concepts, they keep it what it is.

The texts are those of the concepts without their unique tokens, so that what a token means stays in
the token and the words around it keep theirs.

Letters: C channels, F Y X latent frames/rows/columns, B batch, K cells; B and K are 1.

Paper: sec. 3.1 (Set-and-Sequence)
"""

from collections.abc import Mapping, Sequence

import torch

from dcgrid.adapters.reading import hash_tensors
from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import SampleSettings
from dcgrid.flow.schedule import Schedule
from dcgrid.runtime.device import training_dtype
from dcgrid.train.data.cache import TensorCache
from dcgrid.train.data.manifest import Concept
from dcgrid.train.data.material import Example
from dcgrid.train.evaluation import at_rest
from dcgrid.train.settings import ConceptLoss, Phase, TrainRecipe
from dcgrid.train.stages.flow_matching import SINGLE, CellSampling, Networks, generate_cells

PRIOR_STEPS = 16
"""Sampling steps of such a video."""


def make_priors(
    networks: Networks,
    concepts: Sequence[Concept],
    examples: Mapping[Phase, Sequence[Example]],
    recipe: TrainRecipe,
    cache: TensorCache,
) -> dict[Phase, list[Example]]:
    """Let the bare base make a video for each concept and phase, in the size of the concept's own.

    Args:
        networks: The transformer without any adapter, and the text encoder without tags.
        concepts: The words.
        examples: What the concepts look like in each phase, in the order of `concepts`.
        recipe: Its seed, noise scale, time shift and precision; no share of priors makes none.
        cache: Keeps them.

    Raises:
        OutputError: The cache cannot be written.
    """
    knobs = recipe.loss_as(ConceptLoss)
    if not knobs.prior_share:
        return {phase: [] for phase in examples}
    dit, text = networks
    named = {f"text.{name}": tensor for name, tensor in text.state_dict().items()}
    base = hash_tensors({**dit.state_dict(), **named})
    made: dict[Phase, list[Example]] = {}
    for phase, shown in examples.items():
        made[phase] = []
        for number, (concept, example) in enumerate(zip(concepts, shown, strict=True)):
            prompt = concept.plain_prompt(moving=phase.frames > 1)
            latents_CFYX = example.latents_NCFYX[0]
            facts = {
                "kind": "prior",
                "prompt": prompt,
                "shape": list(latents_CFYX.shape),
                "seed": recipe.seed + number,
                "steps": PRIOR_STEPS,
                "shift": knobs.time_shift,
                "noise_scale": knobs.noise_scale,
                "precision": recipe.precision,
                "base": base,
                **({"self_conditioning": True} if recipe.self_conditioned else {}),
            }

            def make(
                prompt: str = prompt, like: torch.Tensor = latents_CFYX, number: int = number
            ) -> dict[str, torch.Tensor]:
                return {"latents": _sampled(networks, prompt, like, recipe, number)}

            kept_NCFYX = cache.get(facts, make)["latents"].to(latents_CFYX.device)
            made[phase].append(Example(text=prompt, latents_NCFYX=kept_NCFYX))
    return made


def _sampled(
    networks: Networks, prompt: str, like_CFYX: torch.Tensor, recipe: TrainRecipe, number: int
) -> torch.Tensor:
    """Sample one video of a shape without guidance, NCFYX with N = 1."""
    knobs, device = recipe.loss_as(ConceptLoss), like_CFYX.device
    noise_BKCFYX = draw_noise(
        (1, 1, *like_CFYX.shape),
        recipe.seed + number,
        device=device,
        motion=networks[0].config.noise_motion,
    )
    how = CellSampling(
        settings=SampleSettings(
            schedule=Schedule(num_inference_steps=PRIOR_STEPS, shift=knobs.time_shift),
            noise_scale=knobs.noise_scale,
        ),
        dtype=training_dtype(recipe.precision, device),
        self_conditioning=recipe.self_conditioned,
    )
    with at_rest(*networks):
        return generate_cells(networks, [[prompt]], noise_BKCFYX, how, SINGLE)[0]
