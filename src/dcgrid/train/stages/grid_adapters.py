"""Stages `grid` and `fill`: adapters on the frozen base. Read `run_adapters`; grids.py is the loss.

Paper: sec. 3.2 (Grid LoRA), sec. 3.3 (Grid-Fill)
"""

from pathlib import Path
from typing import cast

import torch

from dcgrid.adapters.attach import attach_adapter, set_routed
from dcgrid.adapters.files import load_adapter, save_adapter
from dcgrid.adapters.reading import check_use, read_sha256
from dcgrid.adapters.spec import AdapterSpec, Stage
from dcgrid.io.progress import counted
from dcgrid.models.native.dit import DiT
from dcgrid.models.registry import training_spec
from dcgrid.models.tags import TOKENS_NAME
from dcgrid.models.wan.trunk import WanTransformer
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips
from dcgrid.train.checkpoint import TrainState
from dcgrid.train.data.captions import world_captions
from dcgrid.train.data.generated_grids import needs_world, open_grids
from dcgrid.train.data.variants import FusionPool, VariantPool
from dcgrid.train.facts import TrainFacts
from dcgrid.train.job import (
    DC_NAME,
    Reporter,
    TrainJob,
)
from dcgrid.train.loop import train
from dcgrid.train.networks import (
    Base,
    concept_facts,
    load_autoencoder,
    load_base,
    load_concept_tags,
    names_tags,
    start_adapter_from,
)
from dcgrid.train.scale import scale_native, scale_transformer
from dcgrid.train.settings import AdapterLoss, FillLoss, TrainRecipe
from dcgrid.train.stages.grids import GridStage
from dcgrid.train.validation import LiveNetworks, Validation


def run_adapters(job: TrainJob, reporter: Reporter) -> Path:
    """Train the LoRAs of stage grid or fill on the frozen base. Paper: sec. 3.2, 3.3."""
    base = load_base(job.model, job.out, job.device, job.dtype)
    dit, text, network = base.dit, base.text, base.dit.network
    made_with, tags = {"base": base.hash}, tuple[str, ...]()
    if names_tags(job.recipe):
        of_concepts = job.out / TOKENS_NAME, job.out / DC_NAME
        tags = load_concept_tags(*of_concepts, text)
        text.to(job.device)
        if job.recipe.stage == "grid":  # sampled grids, of stage fill, are made with other weights
            made_with |= concept_facts(*of_concepts)
    sampled = open_grids(job.recipe, job.model, job.out, made_with)
    multi_dc = _load_multi_dc(job, base, reporter)
    dc_sha256 = read_sha256(job.out / DC_NAME) if multi_dc else ""
    specs = adapter_specs(job.recipe, job.facts, base.hash, dc_sha256, tags)
    for number, spec in enumerate(specs):
        attach_adapter(network, spec, seed=job.recipe.seed + number)
        if job.start is not None and not job.resume:
            fresh = start_adapter_from(job.start / f"{spec.name}.safetensors", network, spec)
            reporter.say(f"{spec.name} started from {job.start}; new: {counted(fresh, 'layer')}")
    if len(specs) > 1:
        set_routed(network, [spec.name for spec in specs])
    dit.given_first = job.recipe.given_first or job.facts.given_first
    dit.to(job.device).train()
    if isinstance(dit, WanTransformer):
        scale_transformer(dit, job.recipe.scale, job.processes)
    elif isinstance(dit, DiT):
        scale_native(dit, job.recipe.scale, job.processes, job.dtype)
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    store = WorldStore(job.store) if needs_world(job.recipe) else WorldStore.empty()
    world, autoencoder = (
        WorldClips(store, job.device, job.facts.fps),
        load_autoencoder(job.model, job.out, job.device, channels_last=True),
    )
    loss = job.recipe.loss
    moved_share = loss.moved_share if isinstance(loss, FillLoss) else 0.0
    pools = (
        VariantPool(world, autoencoder, moved_share=moved_share),
        FusionPool(world, autoencoder),
    )
    captions = world_captions(own_clause_only=job.facts.own_clause_only)
    stage = GridStage((dit, text), pools, captions, job.recipe, trained, sampled)
    state = train_grids(job, stage, reporter, multi_dc)
    state.take_averaged()
    paths = [job.out / f"{spec.name}.safetensors" for spec in specs]
    if job.processes.is_first:
        for parameter in trained.values():
            parameter.data = parameter.data.to(torch.bfloat16)  # the file's format
        for spec, path in zip(specs, paths, strict=True):
            save_adapter(network, spec, path)
    return paths[0]


def adapter_specs(
    recipe: TrainRecipe,
    facts: TrainFacts,
    base_hash: str,
    dc_sha256: str = "",
    tags: tuple[str, ...] = (),
) -> tuple[AdapterSpec, ...]:
    """Return the adapters that stage grid or fill trains on a base and, maybe, a Multi-DC LoRA.

    One, but two in stage grid of a composition: for the cells of A and of B, on query projections
    alone, and their mean for the fusions.

    Paper: sec. 3.2, eqs. 1-3
    """
    routed = recipe.stage == "grid" and recipe.mode == "composition"
    loss = recipe.loss_as(AdapterLoss)
    rank = int(loss.rank)
    return tuple(
        AdapterSpec(
            name=f"{recipe.run_name}{part}",
            stage=cast(Stage, recipe.stage),
            mode=recipe.mode,
            rank=rank,
            alpha=rank,
            dropout=loss.dropout,
            targets=facts.targets.routed if routed else facts.targets.all,
            noise_scale=loss.noise_scale,
            inference_noise_scale=recipe.sampled_noise_scale,
            inference_time_shift=recipe.sampled_time_shift,
            self_conditioning=recipe.self_conditioned,
            given=recipe.given,
            given_first=recipe.given_first,
            dc_strength=loss.dc_strength,
            dc_sha256=dc_sha256,
            base=facts.name,
            base_hash=base_hash,
            recipe=f"{recipe.run_name}.toml",
            tokens=tuple(f"[{tag}]" for tag in tags),
        )
        for part in (("-a", "-b") if routed else ("",))
    )


def _load_multi_dc(job: TrainJob, base: Base, reporter: Reporter) -> str:
    """Put the frozen Multi-DC LoRA on the base; return its name, or "" where the recipe has none.

    Raises:
        AdapterError: The file is damaged, of other weights, or of another stage.

    Paper: sec. 3.2 (Grid LoRA atop Multi-DC), sec. 3.3 (W_Multi-DC in the grid-fill loss)
    """
    strength, path = job.recipe.dc_strength, job.out / DC_NAME
    if not strength:
        return ""
    report = load_adapter(
        base.dit.network, path, base=job.facts.name, base_hash=base.hash, strength=strength
    )
    check_use(report.spec, path, "dc")
    reporter.say(f"{DC_NAME} at {strength:g}: {report.matched} of {report.total} layers")
    return report.spec.name


def train_grids(
    job: TrainJob, stage: GridStage, reporter: Reporter, multi_dc: str = ""
) -> TrainState:
    """Run the loop of a stage that can generate validation videos."""
    validation = None
    if reporter.generate is not None and job.recipe.log.validate_every:
        networks = LiveNetworks(
            spec=training_spec(job.model),
            dit=stage.dit,
            text=stage.text,
            autoencoder=stage.pool.autoencoder,
            route_KA=stage.route_KA,
            given_clean=job.recipe.given == "clean",
            noise_scale=job.recipe.sampled_noise_scale,
            time_shift=job.recipe.sampled_time_shift,
            self_conditioning=job.recipe.self_conditioned,
            multi_dc=multi_dc,
            dc_strength=job.recipe.dc_strength,
        )
        validation = Validation(
            job.loop.folder,
            job.recipe,
            networks,
            stage.pool.world if stage.sampled is None or needs_world(job.recipe) else stage.sampled,
            reporter.generate,
            reporter.say,
            job.processes,
        )
    return train(stage, job.recipe, job.loop, reporter.progress, reporter.say, validation)
