"""Stage `dc`: many dynamic concepts in one structured LoRA, and a unique token for each.

    phases of one frame     the set: pictures in any order     train A1, B1, tokens of identities
    phases of more frames   the sequence: whole clips          train B2, tokens of motions

What is not trained in a phase gets no gradient, so the optimiser leaves it alone, weight decay and
all. Between the concepts stand videos that the bare base makes, which keep it what it is; their
texts are those of the concepts without their unique tokens, so that what a token means stays in it
and the words around it keep theirs.

Letters: B batch, K cells (1), C channels, M moving channels of noise, F Y X latent
frames/rows/columns, N pictures of a set.

Paper: sec. 3.1 (Set-and-Sequence)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dcgrid.adapters.attach import attach_adapter, learn_part
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.reading import hash_tensors
from dcgrid.adapters.routed import Part
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.flow.noise import draw_noise
from dcgrid.flow.schedule import TrainingTimes
from dcgrid.models.registry import training_spec
from dcgrid.models.tags import TOKENS_NAME, save_tags
from dcgrid.models.trunk import NetworkBackbone, NetworkParts, VideoCodec
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips, chance, pick
from dcgrid.train.checkpoint import TrainState
from dcgrid.train.data.cache import TensorCache
from dcgrid.train.data.concept_manifest import RECORD, Concept, read_concepts, write_record
from dcgrid.train.data.material import (
    SCENES,
    SUBJECTS,
    Encoding,
    Example,
    FileSource,
    Size,
    Source,
    encode_concepts,
    world_sources,
)
from dcgrid.train.evaluation import EVAL_SEED, at_rest
from dcgrid.train.job import Reporter, TrainJob, facts_of
from dcgrid.train.loop import train
from dcgrid.train.networks import Base, load_autoencoder, load_base, unknown_notes
from dcgrid.train.settings import ConceptLoss, Phase, TrainRecipe
from dcgrid.train.stages.flow_matching import (
    SINGLE,
    Batch,
    FlowStage,
    Networks,
    check_self_conditioning,
    generate_cells,
)
from dcgrid.video.clip import ClipRules


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptTags:
    """The unique tokens of some concepts, without brackets, each once."""

    identities: tuple[str, ...]
    """What stands for a look."""
    motions: tuple[str, ...]
    """What stands for a movement."""

    @property
    def all(self) -> tuple[str, ...]:
        """Identities, then motions."""
        return (*self.identities, *self.motions)

    @property
    def in_brackets(self) -> tuple[str, ...]:
        """All of them as prompts name them."""
        return tuple(f"[{tag}]" for tag in self.all)


def tags_of(concepts: Iterable[Concept]) -> ConceptTags:
    """Collect the tokens of concepts; a token that several share stands once."""
    listed = list(concepts)
    return ConceptTags(
        identities=tuple(dict.fromkeys(concept.identity for concept in listed)),
        motions=tuple(dict.fromkeys(concept.motion_token for concept in listed)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptData:
    """Everything that the stage draws from, by phase."""

    examples: Mapping[Phase, Sequence[Example]]
    """Clips or pictures of concepts."""
    priors: Mapping[Phase, Sequence[Example]]
    """Videos that the bare base made; none where `prior_share` is 0."""
    tags: ConceptTags
    """The tokens, in the order in which the text encoder has them."""


class ConceptStage(FlowStage):
    """The loss of stage `dc`."""

    def __init__(
        self,
        networks: Networks,
        adapter: str,
        data: ConceptData,
        autoencoder: VideoCodec,
        recipe: TrainRecipe,
    ) -> None:
        """Take a transformer with a structured adapter on it, and the text encoder with the tags.

        Args:
            networks: Both frozen but for the adapter and the tags.
            adapter: Its name.
            data: What to draw from.
            autoencoder: Its scale of latents weights the channels.
            recipe: The stage's recipe.
        """
        super().__init__(networks, autoencoder, recipe)
        self.adapter, self.data = adapter, data
        named = dict(zip(data.tags.all, self.text.tags, strict=True))
        self._tags: dict[Part, list[nn.Parameter]] = {
            "appearance": [named[tag] for tag in data.tags.identities],
            "motion": [named[tag] for tag in data.tags.motions],
        }
        self.trained = {
            f"dit.{name}": parameter
            for name, parameter in self.dit.named_parameters()
            if f".{adapter}." in name
        }
        self.trained |= {
            f"text.{n}": p
            for n, p in self.text.named_parameters(prefix="")
            if n.startswith("tags.")
        }
        self._part: Part | None = None

    @property
    def knobs(self) -> ConceptLoss:
        """Weights and shares of the recipe."""
        return self.recipe.loss_as(ConceptLoss)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the adapter's three sides and the tags, whatever is trained now."""
        return self.trained

    def paces(self) -> dict[str, float]:
        """Return the factor of the tags' own learning rate."""
        factor = self.knobs.token_rate / self.recipe.optim.learning_rate
        return {name: factor for name in self.trained if name.startswith("text.")}

    def loss(
        self, phase: Phase, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the flow-matching loss of a batch of single cells. Paper: sec. 3.1."""
        self._train_part("appearance" if phase.frames == 1 else "motion")
        cells_BKCFYX, rows = self.draw(phase, generator)
        batch = _single(cells_BKCFYX, rows)
        noise = self._noise(batch, generator)
        time_B = TrainingTimes(shift=self.knobs.time_shift).draw(len(rows), generator)
        return self._flow_loss(batch, noise, time_B, generator)[0], {}

    def evaluate(self, grids: int) -> dict[float, float]:
        """Return the loss at each flow time on clips and noise that are the same in every run.

        The clips are so many of the concepts' own, in the form of the last phase, with their
        tokens: what is measured is how well they are known, not what else the adapter does. Both
        parts of the adapter act, whatever is trained now.
        """
        drawn = []
        for number, example in enumerate(self.data.examples[self.recipe.phases[-1]][:grids]):
            batch = _single(example.latents_NCFYX[:1, None], [[example.text]])
            generator = torch.Generator().manual_seed(EVAL_SEED + number)
            drawn.append((batch, self._noise(batch, generator)))
        return self._eval_losses(drawn, len(drawn))

    def draw(
        self, phase: Phase, generator: torch.Generator
    ) -> tuple[torch.Tensor, list[list[str]]]:
        """Draw a batch of the concepts, or of what the bare base made.

        Clips of other shapes than the first one drawn do not go with it in a batch.

        Returns:
            Clean latents, BKCFYX with K = 1, and B lists with the text of each.
        """
        prior = chance(generator) < self.knobs.prior_share
        examples = (self.data.priors if prior else self.data.examples)[phase]
        chosen = [examples[pick(len(examples), generator)]]
        shape = chosen[0].latents_NCFYX.shape[1:]
        alike = [one for one in examples if one.latents_NCFYX.shape[1:] == shape]
        chosen += [alike[pick(len(alike), generator)] for _ in range(phase.batch - 1)]
        drawn, rows = [], []
        for example in chosen:
            drawn.append(example.latents_NCFYX[pick(len(example.latents_NCFYX), generator)])
            dropped = chance(generator) < self.knobs.caption_dropout
            rows.append(["" if dropped else example.text])
        return torch.stack(drawn)[:, None], rows

    def _train_part(self, part: Part) -> None:
        """Train one part of the adapter and its tokens, and freeze the other."""
        if part == self._part:
            return
        loss = self.knobs
        dropout = loss.appearance_dropout if part == "appearance" else loss.motion_dropout
        learn_part(self.dit, self.adapter, part, dropout)
        for owner, tags in self._tags.items():
            for tag_E in tags:
                tag_E.requires_grad_(owner == part)
        self._part = part


def _single(cells_BKCFYX: torch.Tensor, rows: list[list[str]]) -> Batch:
    """Return a batch of single cells; nothing in these clips was rendered from noise."""
    fill_BKF = torch.ones_like(cells_BKCFYX[:, :, 0, :, 0, 0], dtype=torch.bool)
    return Batch(
        cells_BKCFYX=cells_BKCFYX, drift_BKMFYX=None, fill_BKF=fill_BKF, rows=rows, layout=SINGLE
    )


def check_concepts(job: TrainJob) -> list[Concept] | None:
    """Check recipe and concepts of stage `dc` before anything starts; nothing is written.

    Returns:
        The concepts of `--concepts`, or None where they come from the world.

    Raises:
        RecipeError: The recipe needs what the model cannot do, or the manifest has problems;
            all of them are named.
    """
    facts = job.facts
    check_self_conditioning(job.recipe, network=facts.self_conditioning)
    if job.concepts is None:
        return None
    rules = ClipRules(
        fps=facts.fps,
        stride=facts.geometry.stride_T,
        max_frames=_longest(job),
        cell_sizes=_sizes(job),
    )
    return read_concepts(job.concepts, rules)


def count_tags(job: TrainJob) -> int:
    """Return how many unique tokens a run trains.

    Raises:
        RecipeError: See `check_concepts`.
    """
    concepts = check_concepts(job)
    return 2 * (SUBJECTS + SCENES) if concepts is None else len(tags_of(concepts).all)


def run_concepts(job: TrainJob, reporter: Reporter) -> Path:
    """Train the Multi-DC LoRA and its tokens; with `cache_only` only make its data.

    Returns:
        The adapter's file, or the cache's folder.

    Raises:
        RecipeError: See `check_concepts`.
        InputVideoError: A clip cannot be read.
        WeightsError: A weight file or the world is missing or damaged.
        OutputError: A file cannot be written.

    Paper: sec. 3.1
    """
    sources = _sources(job)
    concepts = [source.concept for source in sources]
    tags = tags_of(concepts)
    base = load_base(job.model, job.out, job.device, job.dtype)
    autoencoder = load_autoencoder(job.model, job.out, job.device)
    cache = TensorCache(job.out / "cache")
    encoding = Encoding(autoencoder=autoencoder, cache=cache, fps=job.facts.fps)
    examples = encode_concepts(sources, job.recipe.phases, encoding)
    # Before there are adapter and tokens: these are videos of the bare base.
    bare = _bare_backbone(job, base)
    priors = make_priors(bare, concepts, examples, job.recipe, cache)
    reporter.say(cache.tally.line())
    if job.cache_only:
        return cache.folder
    base.text.add_tags(tags.all)
    base.text.to(job.device)
    for line in unknown_notes((concept.dynamic_prompt for concept in concepts), base.text):
        reporter.say(line)
    spec = _spec(job, base, concepts, tags)
    attach_adapter(base.dit.network, spec, seed=job.recipe.seed)
    base.dit.to(job.device).train()
    data = ConceptData(examples=examples, priors=priors, tags=tags)
    stage = ConceptStage((base.dit, base.text), spec.name, data, autoencoder, job.recipe)
    state = train(stage, job.recipe, job.loop, reporter.progress, reporter.say)
    return _write(job, base, spec, state, {RECORD: write_record(concepts)})


def _sources(job: TrainJob) -> list[Source]:
    """Return the clips of the manifest, or of the world."""
    concepts = check_concepts(job)
    if concepts is None:
        world = WorldClips(WorldStore(job.store), job.device, job.facts.fps)
        return [*world_sources(world, _longest(job), job.recipe.phases[-1].sizes)]
    facts = job.facts
    stride = facts.geometry.stride_T
    return [FileSource(concept=c, fps=facts.fps, stride=stride) for c in concepts]


def _spec(job: TrainJob, base: Base, concepts: list[Concept], tags: ConceptTags) -> AdapterSpec:
    rank = job.recipe.loss_as(ConceptLoss).rank
    return AdapterSpec(
        name=job.recipe.run_name,
        stage="dc",
        form="structured",
        rank=int(rank),
        alpha=rank,
        targets=job.facts.targets.dc,
        layout="1x1",
        noise_scale=job.recipe.loss_as(ConceptLoss).noise_scale,
        inference_noise_scale=job.recipe.sampled_noise_scale,
        inference_time_shift=job.recipe.sampled_time_shift,
        self_conditioning=job.recipe.self_conditioned,
        base=job.facts.name,
        base_hash=base.hash,
        recipe=f"{job.recipe.run_name}.toml",
        tokens=tags.in_brackets,
        prompts=tuple(concept.dynamic_prompt for concept in concepts),
    )


def _write(
    job: TrainJob, base: Base, spec: AdapterSpec, state: TrainState, record: dict[str, str]
) -> Path:
    """Write the averaged weights, or the last ones where no average is kept: tokens, adapter."""
    state.take_averaged()
    save_tags(job.out / TOKENS_NAME, base.text, {**facts_of(job, state), **record})
    base.dit.network.to(torch.bfloat16)  # the file's format; the base is not written
    path = job.out / f"{job.recipe.run_name}.safetensors"
    save_adapter(base.dit.network, spec, path)
    return path


def _longest(job: TrainJob) -> int:
    return max(phase.frames for phase in job.recipe.phases)


def _sizes(job: TrainJob) -> tuple[Size, ...]:
    return tuple(dict.fromkeys(size for phase in job.recipe.phases for size in phase.sizes))


def _bare_backbone(job: TrainJob, base: Base) -> NetworkBackbone:
    """Return the base as it samples with the recipe's numbers, on the plain tokens."""
    spec, knobs = training_spec(job.model), job.recipe.loss_as(ConceptLoss)
    parts = NetworkParts(dit=base.dit, text=base.text)
    bare = NetworkBackbone(replace(spec, offset_tokens=False), parts, job.dtype)
    bare.use_sampling(
        noise_scale=knobs.noise_scale,
        time_shift=knobs.time_shift,
        self_conditioning=job.recipe.self_conditioned,
    )
    return bare


PRIOR_STEPS = 16
"""Sampling steps of such a video."""


def make_priors(
    backbone: NetworkBackbone,
    concepts: Sequence[Concept],
    examples: Mapping[Phase, Sequence[Example]],
    recipe: TrainRecipe,
    cache: TensorCache,
) -> dict[Phase, list[Example]]:
    """Let the bare base make a video for each concept and phase, in the size of the concept's own.

    Args:
        backbone: The transformer without any adapter, and the text encoder without tags.
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
    parts = backbone.parts
    named = {f"text.{name}": tensor for name, tensor in parts.text.state_dict().items()}
    base = hash_tensors({**parts.dit.state_dict(), **named})
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
                return {"latents": _sampled(backbone, prompt, like, recipe, number)}

            kept_NCFYX = cache.get(facts, make)["latents"].to(latents_CFYX.device)
            made[phase].append(Example(text=prompt, latents_NCFYX=kept_NCFYX))
    return made


def _sampled(
    backbone: NetworkBackbone,
    prompt: str,
    like_CFYX: torch.Tensor,
    recipe: TrainRecipe,
    number: int,
) -> torch.Tensor:
    """Sample one video of a shape without guidance, NCFYX with N = 1."""
    noise_BKCFYX = draw_noise(
        (1, 1, *like_CFYX.shape),
        recipe.seed + number,
        device=like_CFYX.device,
        motion=backbone.parts.dit.config.noise_motion,
    )
    with at_rest(*backbone.parts.modules()):
        return generate_cells(backbone, [[prompt]], noise_BKCFYX, SINGLE, PRIOR_STEPS)[0]
