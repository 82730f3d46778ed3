"""Run stage `dc`: concepts in, adapter and tokens out. Read `run_concepts`.

<out>/dc.safetensors          the structured LoRA
<out>/dc-tokens.safetensors   embeddings of its unique tokens
<out>/cache/                  latents of the clips, and videos of the bare base
"""

from pathlib import Path

import torch

from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.models.tags import TOKENS_NAME, save_tags
from dcgrid.models.trunk import TextReader
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips
from dcgrid.train.checkpoint import TrainState
from dcgrid.train.concepts import ConceptData, ConceptStage, ConceptTags, check_recipe, tags_of
from dcgrid.train.data.cache import TensorCache
from dcgrid.train.data.manifest import Concept, read_concepts
from dcgrid.train.data.material import (
    SCENES,
    SUBJECTS,
    Encoding,
    FileSource,
    Size,
    Source,
    encode_concepts,
    world_sources,
)
from dcgrid.train.data.record import RECORD, write_record
from dcgrid.train.job import Reporter, TrainJob, facts_of, take_averaged
from dcgrid.train.loop import train
from dcgrid.train.networks import Base, load_autoencoder, load_base
from dcgrid.train.priors import make_priors
from dcgrid.video.clip import ClipRules


def check_concepts(job: TrainJob) -> list[Concept] | None:
    """Check recipe and concepts of stage `dc` before anything starts; nothing is written.

    Returns:
        The concepts of `--concepts`, or None where they come from the world.

    Raises:
        RecipeError: The recipe asks for what the model cannot do, or the manifest has problems;
            all of them are named.
    """
    facts = job.facts
    check_recipe(job.recipe, self_conditioning=facts.self_conditioning)
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
    """Return how many unique tokens a run learns.

    Raises:
        RecipeError: See `check_concepts`.
    """
    concepts = check_concepts(job)
    return 2 * (SUBJECTS + SCENES) if concepts is None else len(tags_of(concepts).all)


def run_concepts(job: TrainJob, reporter: Reporter) -> Path:
    """Train the Multi-DC LoRA and its tokens; with `cache_only` only make what they learn from.

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
    pair = base.dit, base.text
    # Before there are adapter and tokens: these are videos of the bare base.
    priors = make_priors(pair, concepts, examples, job.recipe, cache)
    reporter.say(cache.tally.line())
    if job.cache_only:
        return cache.folder
    base.text.add_tags(tags.all)
    base.text.to(job.device)
    _tell_unknown(concepts, base.text, reporter)
    spec = _spec(job, base, concepts, tags)
    attach_adapter(base.dit.network, spec, seed=job.recipe.seed)
    base.dit.to(job.device).train()
    data = ConceptData(examples=examples, priors=priors, tags=tags)
    stage = ConceptStage(pair, spec.name, data, autoencoder, job.recipe)
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


def _tell_unknown(concepts: list[Concept], text: TextReader, reporter: Reporter) -> None:
    """Name the words that the model does not know: it can learn nothing by them."""
    words = [w for c in concepts for w in text.unknown_words(c.dynamic_prompt)]
    if words:
        listed = ", ".join(dict.fromkeys(words))
        reporter.say(f"words of the concepts that the model never saw: {listed}")


def _spec(job: TrainJob, base: Base, concepts: list[Concept], tags: ConceptTags) -> AdapterSpec:
    rank = job.recipe.loss["rank"]
    return AdapterSpec(
        name=job.recipe.run_name,
        stage="dc",
        form="structured",
        rank=int(rank),
        alpha=rank,
        targets=job.facts.targets.dc,
        layout="1x1",
        noise_scale=job.recipe.loss["noise_scale"],
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
    take_averaged(state)
    save_tags(job.out / TOKENS_NAME, base.text, {**facts_of(job, state), **record})
    base.dit.network.to(torch.bfloat16)  # the file's format; the base is not written
    path = job.out / f"{job.recipe.run_name}.safetensors"
    save_adapter(base.dit.network, spec, path)
    return path


def _longest(job: TrainJob) -> int:
    return max(phase.frames for phase in job.recipe.phases)


def _sizes(job: TrainJob) -> tuple[Size, ...]:
    return tuple(dict.fromkeys(size for phase in job.recipe.phases for size in phase.sizes))
