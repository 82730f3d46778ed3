"""Run stage `dc`: concepts in, adapter and tokens out. Read `run_concepts`.

<out>/dc.safetensors          the structured LoRA
<out>/dc-tokens.safetensors   embeddings of its unique tokens
<out>/cache/                  latents of the clips, and videos of the bare base
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.reading import hash_tensors
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.models.loading import load_text_encoder, model_spec, save_tags
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import PRESETS, NativeConfig
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.text import TextEncoder
from dcgrid.models.weights import load_weights
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
from dcgrid.train.loop import train
from dcgrid.train.priors import make_priors
from dcgrid.train.world.clips import WorldClips
from dcgrid.train.world.store import WorldStore
from dcgrid.video.clip import ClipRules

if TYPE_CHECKING:
    from dcgrid.train.run import Reporter, TrainJob

_SIDES = ("query", "key", "value", "out")
DC_TARGETS = (
    *(f"grid_attention.{side}" for side in _SIDES),
    *(f"text_attention.{side}" for side in _SIDES),
    "mlp_in",
    "mlp_out",
)
"""Layers that the Multi-DC LoRA acts on: attention and MLP (DESIGN section 2). What looks from cell
to cell at one place is left out: with a single cell it has nothing to learn."""
TOKENS_NAME = "dc-tokens.safetensors"
"""File of the tags' embeddings, beside the adapter."""
_PAPER_FPS = 24.0
"""Frames per second of the paper's model, which cannot be loaded. Paper: sec. 8"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Networks:
    """What the stage works with."""

    dit: DiT
    text: TextEncoder
    autoencoder: Autoencoder
    base_hash: str


def check_concepts(job: "TrainJob") -> list[Concept] | None:
    """Check recipe and concepts of stage `dc` before anything starts; nothing is written.

    Returns:
        The concepts of `--concepts`, or None where they come from the world.

    Raises:
        RecipeError: The recipe asks for what the model cannot do, or the manifest has problems;
            all of them are named.
    """
    config = PRESETS[job.model]
    check_recipe(job.recipe, config.dit)
    if job.concepts is None:
        return None
    rules = ClipRules(
        fps=_fps(job.model),
        stride=config.autoencoder.total_stride_T,
        max_frames=_longest(job),
        cell_sizes=_sizes(job),
    )
    return read_concepts(job.concepts, rules)


def count_tags(job: "TrainJob") -> int:
    """Return how many unique tokens a run learns.

    Raises:
        RecipeError: See `check_concepts`.
    """
    concepts = check_concepts(job)
    return 2 * (SUBJECTS + SCENES) if concepts is None else len(tags_of(concepts).all)


def run_concepts(job: "TrainJob", config: NativeConfig, reporter: "Reporter") -> Path:
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
    sources = _sources(job, config)
    concepts = [source.concept for source in sources]
    tags = tags_of(concepts)
    networks = _load(job, config)
    cache = TensorCache(job.out / "cache")
    encoding = Encoding(autoencoder=networks.autoencoder, cache=cache, fps=_fps(job.model))
    examples = encode_concepts(sources, job.recipe.phases, encoding)
    pair = networks.dit, networks.text
    # Before there are adapter and tokens: these are videos of the bare base.
    priors = make_priors(pair, concepts, examples, job.recipe, cache)
    reporter.say(cache.tally.line())
    if job.cache_only:
        return cache.folder
    networks.text.add_tags(tags.all)
    networks.text.to(job.device)
    _tell_unknown(concepts, networks.text, reporter)
    spec = _spec(job, networks, concepts, tags)
    attach_adapter(networks.dit, spec, seed=job.recipe.seed)
    networks.dit.to(job.device).train()
    data = ConceptData(examples=examples, priors=priors, tags=tags)
    stage = ConceptStage(pair, spec.name, data, networks.autoencoder, job.recipe)
    state = train(stage, job.recipe, job.loop, reporter.progress, reporter.say)
    return _write(job, networks, spec, state, {RECORD: write_record(concepts)})


def _sources(job: "TrainJob", config: NativeConfig) -> list[Source]:
    """Return the clips of the manifest, or of the world."""
    concepts = check_concepts(job)
    if concepts is None:
        world = WorldClips(WorldStore(job.store), job.device)
        return [*world_sources(world, _longest(job), job.recipe.phases[-1].sizes)]
    stride = config.autoencoder.total_stride_T
    return [FileSource(concept=c, fps=_fps(job.model), stride=stride) for c in concepts]


def _load(job: "TrainJob", config: NativeConfig) -> _Networks:
    """Load the three networks, frozen."""
    text = load_text_encoder(job.model, job.out / "text.safetensors").to(job.device)
    dit, autoencoder = DiT(config.dit), Autoencoder(config.autoencoder)
    load_weights(job.out / "dit.safetensors", dit)
    load_weights(job.out / "autoencoder.safetensors", autoencoder)
    base_hash = hash_tensors(dit.state_dict())
    for network in (text, dit, autoencoder):
        network.eval().requires_grad_(False)
    return _Networks(
        dit=dit.to(job.device),
        text=text,
        autoencoder=autoencoder.to(job.device),
        base_hash=base_hash,
    )


def _tell_unknown(concepts: list[Concept], text: TextEncoder, reporter: "Reporter") -> None:
    """Name the words that the model does not know: it can learn nothing by them."""
    words = [w for c in concepts for w in text.tokenizer.unknown_words(c.dynamic_prompt)]
    if words:
        listed = ", ".join(dict.fromkeys(words))
        reporter.say(f"words of the concepts that the model never saw: {listed}")


def _spec(
    job: "TrainJob", networks: _Networks, concepts: list[Concept], tags: ConceptTags
) -> AdapterSpec:
    rank = job.recipe.loss["rank"]
    return AdapterSpec(
        name=job.recipe.run_name,
        stage="dc",
        form="structured",
        rank=int(rank),
        alpha=rank,
        targets=DC_TARGETS,
        layout="1x1",
        noise_scale=job.recipe.loss["noise_scale"],
        base=job.model,
        base_hash=networks.base_hash,
        recipe=f"{job.recipe.run_name}.toml",
        tokens=tags.in_brackets,
        prompts=tuple(concept.dynamic_prompt for concept in concepts),
    )


def _write(
    job: "TrainJob",
    networks: _Networks,
    spec: AdapterSpec,
    state: TrainState,
    record: dict[str, str],
) -> Path:
    """Write the averaged weights, or the last ones where no average is kept: tokens, adapter."""
    with torch.no_grad():
        for name, averaged in state.ema.items():
            state.parameters[name].copy_(averaged)
    facts = {
        "model": job.model,
        "stage": job.recipe.stage,
        "steps": str(state.step),
        "seed": str(job.recipe.seed),
        **record,
    }
    save_tags(job.out / TOKENS_NAME, networks.text, facts)
    networks.dit.to(torch.bfloat16)  # the file's format; the base is not written
    path = job.out / f"{job.recipe.run_name}.safetensors"
    save_adapter(networks.dit, spec, path)
    return path


def _fps(model: str) -> float:
    return _PAPER_FPS if model == "paper" else model_spec(model).fps


def _longest(job: "TrainJob") -> int:
    return max(phase.frames for phase in job.recipe.phases)


def _sizes(job: "TrainJob") -> tuple[Size, ...]:
    return tuple(dict.fromkeys(size for phase in job.recipe.phases for size in phase.sizes))
