"""Train one adapter of one variant with one seed, on the shipped base of `mini`.

The loop, the loss and the files are those of `dcgrid train`; only what the variant is about
differs. One variant trains on grids, too, that the shipped Grid LoRA samples.

Letters: K cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.ablations.data import FRAMES, SIDE, TrainingPools
from benchmarks.ablations.variants import Variant
from dcgrid.adapters.attach import attach_adapter, set_routed
from dcgrid.adapters.files import load_adapter, save_adapter
from dcgrid.adapters.reading import read_sha256
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.model import weights_folder
from dcgrid.models.native.text import TextEncoder
from dcgrid.models.registry import find_model
from dcgrid.recipes import shipped_dir
from dcgrid.train.data.captions import Captions, world_captions
from dcgrid.train.data.generated_grids import SampledGrids
from dcgrid.train.data.variants import VariantSet
from dcgrid.train.facts import train_facts
from dcgrid.train.job import DC_NAME
from dcgrid.train.loop import LoopOptions, train
from dcgrid.train.networks import load_autoencoder, load_base
from dcgrid.train.settings import (
    AdapterLoss,
    FillLoss,
    LogSettings,
    Phase,
    TrainRecipe,
    load_train_recipe,
)
from dcgrid.train.stages.generate import GenerateJob, SampleRecipe
from dcgrid.train.stages.grids import GridStage
from dcgrid.train.stages.samplers import run_sampling

MODEL = "mini"
BATCH, RANK = 2, 16
RECIPES = {"fill": "fill", "composition": "grid-composition"}
_DC = weights_folder(MODEL) / DC_NAME
"""The shipped Multi-DC LoRA."""
_FILL_LOSS = {
    "fresh": 0.0,
    "offset_share": 0.0,
    "window_share": 0.0,
    "text_masking": 0.0,
    "caption_dropout": 0.0,
    # Edits are measured in one step and in several, so both kinds of time are learned.
    "noise_share": 0.4,
    "rank": float(RANK),
}
_GRID_LOSS = {
    "fresh": 0.0,
    "text_masking": 0.0,
    "caption_dropout": 0.0,
    "fusion_share": 1.0,
    "rank": float(RANK),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """The frozen networks of the shipped model, and what identifies them."""

    dit: DiT
    text: TextEncoder
    autoencoder: Autoencoder
    base_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStock:
    """What the trainings with one seed draw from."""

    pools: TrainingPools
    """Clips, rendered and encoded."""
    sampled: Path
    """Folder of the grids that the Grid LoRA sampled."""


class VariantCaptions(Captions):
    """Captions whose cells read as the variant says."""

    def __init__(self, captions: Captions, variant: Variant) -> None:
        super().__init__(
            captions.effects.values(),
            captions.layout,
            captions.composition,
            own_clause_only=captions.own_clause_only,
        )
        self._variant = variant

    def grid_rows(
        self, variants: VariantSet, chosen: Sequence[int], generator: torch.Generator
    ) -> list[list[str]]:
        """Return the texts of each cell; see `shown_rows`."""
        rows = shown_rows(super().grid_rows(variants, chosen, generator), self._variant)
        share = self._variant.masked_words
        return mask_words(rows, share, generator) if share else rows


def shown_rows(rows: list[list[str]], variant: Variant) -> list[list[str]]:
    """Return what cells read in a variant, from the global text and own clause of each.

    Paper: sec. 3.2 (A reads g and A, B reads g and B, the fusions all four), for compositions.
    """
    if variant.joined:
        return [[" ".join(row)] for row in rows]
    if variant.family != "composition":
        return rows
    whole, clauses = rows[0][0], [row[1] for row in rows]
    if variant.all_text:
        return [[whole, *clauses]] * len(rows)
    fused = [[whole, *clauses[:2], own] for own in clauses[2:]]
    return [[whole, clauses[0]], [whole, clauses[1]], *fused]


def mask_words(rows: list[list[str]], share: float, generator: torch.Generator) -> list[list[str]]:
    """Leave away words of a grid's texts, each with one probability, before they are encoded.

    As with masked tokens, a text is masked once for all cells that read it.
    """
    masked = {}
    for text in dict.fromkeys(text for row in rows for text in row):
        words = text.split()
        stays = (torch.rand(len(words), generator=generator) >= share).tolist()
        masked[text] = " ".join(w for w, stay in zip(words, stays, strict=True) if stay)
    return [[masked[text] for text in row] for row in rows]


def load_networks() -> Networks:
    """Load the shipped base; every training gets networks of its own."""
    folder, device = weights_folder(MODEL), torch.device("cpu")
    base = load_base(MODEL, folder, device)
    autoencoder = load_autoencoder(MODEL, folder, device)
    return Networks(dit=base.dit, text=base.text, autoencoder=autoencoder, base_hash=base.hash)


def put_multi_dc(networks: Networks, strength: float) -> None:
    """Put the shipped Multi-DC LoRA on the base, frozen; at strength 0 there is none."""
    if strength:
        load_adapter(
            networks.dit,
            _DC,
            base=MODEL,
            base_hash=networks.base_hash,
            strength=strength,
        )


def recipe_of(variant: Variant, steps: int, seed: int) -> TrainRecipe:
    """Return the shipped recipe, brought to small cells and few steps, with the variant's keys."""
    shipped = load_train_recipe(shipped_dir() / "train" / f"{RECIPES[variant.family]}.toml", MODEL)
    own = _FILL_LOSS if variant.family == "fill" else _GRID_LOSS
    return replace(
        shipped,
        optim=replace(shipped.optim, steps=steps, warmup_steps=20, ema_decay=0.98),
        phases=(Phase(until=1.0, frames=FRAMES, sizes=((SIDE, SIDE),), batch=BATCH),),
        loss=replace(shipped.loss, **{**own, **variant.loss}),
        given=variant.given,
        given_first=variant.given_first,
        seed=seed,
        log=LogSettings(eval_every=0, keep_last=0, tensorboard=False),
    )


def adapters_of(
    variant: Variant, seed: int, recipe: TrainRecipe, base_hash: str
) -> list[AdapterSpec]:
    """Return the adapters that a variant trains: one, or two that are routed."""
    composition = variant.family == "composition"
    targets = train_facts(MODEL).targets
    return [
        AdapterSpec(
            name=f"{variant.name}{part}",
            stage="grid" if composition else "fill",
            mode="composition" if composition else "consistent",
            rank=RANK,
            alpha=RANK,
            targets=targets.routed if composition else targets.all,
            noise_scale=recipe.loss_as(AdapterLoss).noise_scale,
            given=variant.given,
            given_first=variant.given_first,
            dc_strength=recipe.dc_strength,
            dc_sha256=read_sha256(_DC) if recipe.dc_strength else "",
            base=MODEL,
            base_hash=base_hash,
            recipe=f"benchmarks.ablations, seed {seed}",
        )
        for part in (("-a", "-b") if variant.routed else ("",))
    ]


def adapter_files(variant: Variant, seed: int, folder: Path) -> list[Path]:
    """Return where a variant's adapters are, whoever trained them."""
    if variant.bare:
        return []
    name = variant.trained_as or variant.name
    parts = ("-a", "-b") if variant.routed else ("",)
    return [folder / f"{name}{part}-{seed}.safetensors" for part in parts]


def train_variant(
    variant: Variant,
    seed: int,
    steps: int,
    stock: TrainingStock,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Train a variant's adapters and write them."""
    paths = adapter_files(variant, seed, folder)
    networks, recipe = load_networks(), recipe_of(variant, steps, seed)
    dit, specs = networks.dit, adapters_of(variant, seed, recipe, networks.base_hash)
    put_multi_dc(networks, recipe.dc_strength)
    for number, spec in enumerate(specs):
        attach_adapter(dit, spec, seed=seed + 100 * number)
    if variant.routed:
        set_routed(dit, [spec.name for spec in specs])
    dit.given_first = variant.given_first
    dit.train()
    trained = {n: p for n, p in dit.named_parameters() if p.requires_grad}
    grids = None
    if isinstance(recipe.loss, FillLoss) and recipe.loss.sampled_share:
        grids = SampledGrids(stock.sampled, recipe, {"base": networks.base_hash}, "")
    captions = VariantCaptions(world_captions(own_clause_only=True), variant)
    moved_share = recipe.loss.moved_share if isinstance(recipe.loss, FillLoss) else 0.0
    pools = stock.pools.edits.with_moved(stock.pools.moved, moved_share), stock.pools.fusions
    stage = GridStage((dit, networks.text), pools, captions, recipe, trained, grids)  # type: ignore[arg-type]
    if not variant.routed:
        stage.route_KA = None
    options = LoopOptions(folder=folder / f"run-{variant.name}-{seed}", model=MODEL)
    state = train(stage, recipe, options, lambda _: None, say)
    dit.load_state_dict(state.ema, strict=False)
    for spec, path in zip(specs, paths, strict=True):
        save_adapter(dit, spec, path)


def trained_networks(variant: Variant, seed: int, folder: Path) -> Networks:
    """Return the base with a variant's adapters on it, and Multi-DC if it keeps that."""
    networks = load_networks()
    dit, names = networks.dit, []
    for path in adapter_files(variant, seed, folder):
        report = load_adapter(dit, path, base=MODEL, base_hash=networks.base_hash)
        names.append(report.spec.name)
    if variant.routed:
        set_routed(dit, names)
    put_multi_dc(networks, variant.multi_dc)
    dit.given_first = variant.given_first
    dit.eval()
    return networks


RECIPE = SampleRecipe(
    grids=32,
    num_inference_steps=12,
    guidance_scale=3.0,
    frames=FRAMES,
    sizes=((SIDE, SIDE),),
    noise_scale=1.0,
    time_shift=2.0,
    dc_strength=0.0,
    concept_share=0.0,
    seed=0,
)


def sample_grids(folder: Path, store: Path, say: Callable[[str], None]) -> Path:
    """Sample the grids that are not there yet, as stage `sample` does; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, path in find_model(MODEL).files.items():
        link = folder / f"{part}.safetensors"
        if path.is_file() and not link.exists():
            link.symlink_to(path)
    job = GenerateJob(recipe=RECIPE, mode="consistent", model=MODEL, out=folder, store=store)
    run_sampling(job, say, lambda done, count: say(f"grid {done} of {count}"))
    return job.folder
