"""Run one training stage of a native model: recipe in, weight file out. Read `run_stage`.

A stage's weights go to `<out>/<part>.safetensors`; its checkpoints and log to `<out>/<stage>/`.
Later stages read earlier parts from the same folder.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError

from dcgrid import hub
from dcgrid.adapters.attach import attach_adapter, set_routed
from dcgrid.adapters.files import load_adapter, save_adapter
from dcgrid.adapters.reading import check_use, read_sha256
from dcgrid.adapters.spec import AdapterSpec, Stage
from dcgrid.errors import OutputError, WeightsError
from dcgrid.io.locks import run_lock
from dcgrid.models.loading import is_here
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.folder import NativeFolder, write_native_folder
from dcgrid.models.native.t5 import fetch_t5
from dcgrid.models.native.text import TextEncoder, WordTokenizer
from dcgrid.models.tags import TOKENS_NAME
from dcgrid.models.trunk import TextReader, VideoCodec
from dcgrid.models.upsampler import GuidedUpsampler
from dcgrid.models.wan.trunk import WanTransformer
from dcgrid.models.weights import load_weights, read_weights, save_weights
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips
from dcgrid.train.captions import captions_of, world_captions
from dcgrid.train.checkpoint import TrainState
from dcgrid.train.codec import AutoencoderStage, fit_linear_path, measure_latents
from dcgrid.train.dc import check_concepts, run_concepts
from dcgrid.train.edit_maker import EditMaker
from dcgrid.train.estimates import check_self_conditioning
from dcgrid.train.facts import TrainFacts, preset_of
from dcgrid.train.grids import GridStage
from dcgrid.train.job import (
    DC_NAME,
    Reporter,
    TrainJob,
    averaged,
    check_processes,
    facts_of,
    take_averaged,
)
from dcgrid.train.loop import train
from dcgrid.train.networks import Base, load_autoencoder, load_base, load_trained_t5
from dcgrid.train.pieces import gathered
from dcgrid.train.reader import fit_noise_reader
from dcgrid.train.sampled import missing_grids, needs_world, open_grids
from dcgrid.train.scale import scale_native, scale_transformer
from dcgrid.train.settings import TrainRecipe
from dcgrid.train.start import start_adapter_from, start_from, start_text_from
from dcgrid.train.tags import concept_facts, load_concept_tags, names_tags
from dcgrid.train.upsampling import MIX, UpsamplerStage
from dcgrid.train.validation import LiveNetworks, Validation
from dcgrid.train.variants import FusionPool, VariantPool


def run_stage(job: TrainJob, reporter: Reporter) -> Path:
    """Train one stage and return the weight file it made.

    Raises:
        UsageError: See `check_processes`.
        WeightsError: The world, an earlier stage's weights or the checkpoint is missing or damaged.
        OutputError: Another run works in the folder, or a file cannot be written.
        RecipeError: With `resume`: the recipe is not that of the checkpoint. Stage `dc`: recipe or
            concepts have problems; then nothing was written. No sampled grid fits the phases.
        DeviceError: The loss became NaN or infinite.
        KeyboardInterrupt: After the state is saved.
    """
    for stage, missing in missing_parts(job):
        raise WeightsError(
            f"stage {job.recipe.stage} needs {missing}, which is not there",
            hint=f"dcgrid train --stage {stage} --model {job.model} --out {job.out}",
        )
    check_processes(job)
    check_self_conditioning(job.recipe, network=job.facts.self_conditioning)
    if job.recipe.stage == "dc":
        check_concepts(job)
    torch.manual_seed(job.recipe.seed)
    started = time.monotonic()
    _fetch_base(job, reporter)
    with _folder_of(job):
        try:
            path = _RUNNERS[job.recipe.stage](job, reporter)
        except SafetensorError as error:
            # Readers name their own trouble, so this is a file that could not be written.
            raise OutputError(
                f"cannot write the weights in {job.out}: {error}",
                hint="nothing is lost: free some space, then run again with --resume",
            ) from error
    reporter.say(f"{path} after {(time.monotonic() - started) / 60:.1f} minutes")
    return path


def _fetch_base(job: TrainJob, reporter: Reporter) -> None:
    """Download a base or T5 that is not here; of several processes the first one does.

    Raises:
        WeightsError: A repository does not hold what it should.
        NetworkError: The download failed or the network is off.
        OutputError: The disk is too small.
    """
    source = job.text_encoder
    if job.processes.is_first and source.startswith("hf:"):
        fetch_t5(source, offline=hub.is_offline())
    if job.processes.is_first and not is_here(job.model):
        base = hub.hub_model(job.model)
        reporter.say(f"downloading {job.model}, {base.license}: huggingface.co/{base.repo}")
        hub.fetch_model(job.model, offline=hub.is_offline(), report=None)
    job.processes.wait()


@contextmanager
def _folder_of(job: TrainJob) -> Iterator[None]:
    """Keep other runs out of the folder; of several processes the first does it for all."""
    if not job.processes.is_first:
        job.processes.wait()
        yield
        return
    with run_lock(job.loop.folder):
        job.processes.wait()
        yield


def missing_parts(job: TrainJob) -> list[tuple[str, Path]]:
    """Return the weight files that a stage needs and does not find, each after its stage."""
    parts = _DECODER_ONLY if job.decoder_only else _EARLIER[job.recipe.stage]
    parts = parts if job.facts.native else ()  # a checkout has them all
    if job.recipe.loss.get("edit_share") and job.recipe.stage == "upsampler":
        parts = (*parts, *_EARLIER["fill"], ("fill", "fill"))
    files = [(stage, job.out / job.facts.file_of(part)) for stage, part in parts]
    if job.recipe.loss.get("dc_strength", 0.0):
        files.append(("dc", job.out / DC_NAME))
    if names_tags(job.recipe):
        files.append(("dc", job.out / TOKENS_NAME))
    missing = [(stage, path) for stage, path in files if not path.is_file()]
    return missing + missing_grids(job.recipe, job.out)


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
    rank = int(recipe.loss["rank"])
    return tuple(
        AdapterSpec(
            name=f"{recipe.run_name}{part}",
            stage=cast(Stage, recipe.stage),
            mode=recipe.mode,
            rank=rank,
            alpha=rank,
            dropout=recipe.loss["dropout"],
            targets=facts.targets.routed if routed else facts.targets.all,
            noise_scale=recipe.loss["noise_scale"],
            inference_noise_scale=recipe.sampled_noise_scale,
            inference_time_shift=recipe.sampled_time_shift,
            self_conditioning=recipe.self_conditioned,
            given=recipe.given,
            given_first=recipe.given_first,
            dc_strength=recipe.loss["dc_strength"],
            dc_sha256=dc_sha256,
            base=facts.name,
            base_hash=base_hash,
            recipe=f"{recipe.run_name}.toml",
            tokens=tuple(f"[{tag}]" for tag in tags),
        )
        for part in (("-a", "-b") if routed else ("",))
    )


def _run_autoencoder(job: TrainJob, reporter: Reporter) -> Path:
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
    model.load_state_dict(averaged(state), strict=False)
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


def _start_base(folder: Path, dit: DiT, text: TextReader, reporter: Reporter) -> bool:
    """Load the transformer and text encoder of an earlier edition; say if it had a noise reader.

    T5 is not loaded: it is what it was.

    Raises:
        WeightsError: A file is missing or damaged, or does not fit.
    """
    path = folder / "text.safetensors"
    new = start_text_from(path, text) if isinstance(text, TextEncoder) else 0
    fresh = start_from(folder / "dit.safetensors", dit)
    reporter.say(f"started from {folder}; {fresh} tensors and {new} words are new")
    tensors, _ = read_weights(folder / "dit.safetensors")
    return any(name.startswith("noise_reader.") for name in tensors)


def _run_base(job: TrainJob, reporter: Reporter) -> Path:
    """Train the transformer, and with it the text encoder, unless that is T5; three files."""
    config = preset_of(job.model, job.recipe.stage)
    world = WorldClips(WorldStore(job.store), job.device, job.facts.fps)
    text, words = _text_of_base(job, world.store)
    dit = DiT(config.dit).to(job.device)
    had_reader = False
    if job.start is not None and not job.resume:
        had_reader = _start_base(job.start, dit, text, reporter)
    scale_native(dit, job.recipe.scale, job.processes, job.dtype)
    trained = {f"text.{n}": p for n, p in text.named_parameters() if p.requires_grad}
    trained |= {f"dit.{n}": p for n, p in dit.named_parameters()}
    autoencoder = _native_autoencoder(job)
    if not job.resume and not had_reader:
        fit_noise_reader(
            dit,
            autoencoder,
            int(job.recipe.loss["reader_steps"]),
            job.recipe.seed + 3,
            reporter.say,
        )
    pools = VariantPool(world, autoencoder), FusionPool(world, autoencoder)
    if config.dit.prediction == "mixture":
        dit.latent_spread.copy_(autoencoder.latent_spread)
    captions = world_captions(own_clause_only=job.facts.own_clause_only)
    stage = GridStage((dit, text), pools, captions, job.recipe, trained)
    state = _train_grids(job, stage, reporter)
    facts = {**facts_of(job, state), "self_conditioning": str(job.recipe.self_conditioned).lower()}
    final = {}
    for name, tensor in averaged(state).items():
        whole = gathered(tensor)  # in every process, which then lets go of it
        if job.processes.is_first:
            final[name] = whole.cpu()
    if not job.processes.is_first:
        return job.out / "dit.safetensors"
    fixed = {f"dit.{n}": t for n, t in dit.named_buffers()}
    parts = {"text": {"vocabulary": list(words)}, "dit": {}} if words else {"dit": {}}
    for part, extra in parts.items():
        tensors = {
            name.removeprefix(f"{part}."): tensor
            for name, tensor in (final | fixed).items()
            if name.startswith(part)
        }
        path = job.out / f"{part}.safetensors"
        save_weights(path, tensors, {**facts, **extra}, job.stored_as)
    write_native_folder(
        NativeFolder(path=job.out, preset=job.model, config=config, text_encoder=job.text_encoder)
    )
    return job.out / "dit.safetensors"


def _text_of_base(job: TrainJob, store: WorldStore) -> tuple[TextReader, Sequence[str]]:
    """Return the text encoder of stage `base` and the vocabulary that it trains; T5 trains none."""
    config = preset_of(job.model, job.recipe.stage)
    if config.text is None:
        return load_trained_t5(job.model, job.text_encoder).to(job.device), ()
    words = captions_of(store.names["sprites"])
    return TextEncoder(config.text, WordTokenizer(words)).to(job.device), words


def _run_adapters(job: TrainJob, reporter: Reporter) -> Path:
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
            reporter.say(f"{spec.name} started from {job.start}; {fresh} layers are new")
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
    world, autoencoder = WorldClips(store, job.device, job.facts.fps), _autoencoder(job)
    moved_share = job.recipe.loss.get("moved_share", 0.0)
    pools = (
        VariantPool(world, autoencoder, moved_share=moved_share),
        FusionPool(world, autoencoder),
    )
    captions = world_captions(own_clause_only=job.facts.own_clause_only)
    stage = GridStage((dit, text), pools, captions, job.recipe, trained, sampled)
    state = _train_grids(job, stage, reporter, multi_dc)
    take_averaged(state)
    paths = [job.out / f"{spec.name}.safetensors" for spec in specs]
    if job.processes.is_first:
        for parameter in trained.values():
            parameter.data = parameter.data.to(torch.bfloat16)  # the file's format
        for spec, path in zip(specs, paths, strict=True):
            save_adapter(network, spec, path)
    return paths[0]


def _load_multi_dc(job: TrainJob, base: Base, reporter: Reporter) -> str:
    """Put the frozen Multi-DC LoRA on the base; return its name, or "" where the recipe has none.

    Raises:
        AdapterError: The file is damaged, of other weights, or of another stage.

    Paper: sec. 3.2 (Grid LoRA atop Multi-DC), sec. 3.3 (W_Multi-DC in the grid-fill loss)
    """
    strength, path = job.recipe.loss["dc_strength"], job.out / DC_NAME
    if not strength:
        return ""
    report = load_adapter(
        base.dit.network, path, base=job.facts.name, base_hash=base.hash, strength=strength
    )
    check_use(report.spec, path, "dc")
    reporter.say(f"{DC_NAME} at {strength:g}: {report.matched} of {report.total} layers")
    return report.spec.name


def _train_grids(
    job: TrainJob, stage: GridStage, reporter: Reporter, multi_dc: str = ""
) -> TrainState:
    """Run the loop of a stage that can show what it has learnt."""
    validation = None
    if reporter.generate is not None and job.recipe.log.validate_every:
        networks = LiveNetworks(
            model=job.model,
            dit=stage.dit,
            text=stage.text,
            autoencoder=stage.pool.autoencoder,
            route_KA=stage.route_KA,
            given_clean=job.recipe.given == "clean",
            noise_scale=job.recipe.sampled_noise_scale,
            time_shift=job.recipe.sampled_time_shift,
            self_conditioning=job.recipe.self_conditioned,
            multi_dc=multi_dc,
            dc_strength=job.recipe.loss.get("dc_strength", 0.0),
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


def _run_upsampler(job: TrainJob, reporter: Reporter) -> Path:
    """Train the guided upsampler on edits of the model and on truths with faults."""
    path = job.out / "upsampler.safetensors"
    captions = world_captions(own_clause_only=job.facts.own_clause_only)
    vocabulary = captions_of(())
    widths = preset_of(job.model, job.recipe.stage).upsampler_widths
    model = GuidedUpsampler(widths, vocabulary).to(job.device)
    if job.start is not None and not job.resume:
        fresh = start_from(job.start / "upsampler.safetensors", model)
        reporter.say(f"started from {job.start}; {fresh} tensors are new")
    autoencoder = _native_autoencoder(job)
    maker = None
    if job.recipe.loss["edit_share"]:
        maker = EditMaker(job, autoencoder, captions)
    world = WorldClips(WorldStore(job.store, detailed=True), job.device, mix=MIX)
    stage = UpsamplerStage(model, autoencoder, maker, captions, world, job.recipe)
    state = train(stage, job.recipe, job.loop, reporter.progress, reporter.say)
    model.load_state_dict(averaged(state))
    facts = {**facts_of(job, state), "vocabulary": list(vocabulary)}
    save_weights(path, model.state_dict(), facts, job.stored_as)
    return path


def _autoencoder(job: TrainJob) -> VideoCodec:
    return load_autoencoder(job.model, job.out, job.device, channels_last=True)


def _native_autoencoder(job: TrainJob) -> Autoencoder:
    """Return the autoencoder of a stage that needs more of it than clips and latents."""
    return cast(Autoencoder, _autoencoder(job))


_DECODER_ONLY = (("autoencoder", "autoencoder"),)
_EARLIER = {
    "autoencoder": (),
    "base": _DECODER_ONLY,
    "upsampler": _DECODER_ONLY,
    "dc": (*_DECODER_ONLY, ("base", "text"), ("base", "dit")),
    "grid": (*_DECODER_ONLY, ("base", "text"), ("base", "dit")),
    "fill": (*_DECODER_ONLY, ("base", "text"), ("base", "dit")),
}
"""Stage and part of the weight files that each stage reads."""
_RUNNERS: dict[str, Callable[[TrainJob, Reporter], Path]] = {
    "autoencoder": _run_autoencoder,
    "base": _run_base,
    "upsampler": _run_upsampler,
    "dc": run_concepts,
    "grid": _run_adapters,
    "fill": _run_adapters,
}
