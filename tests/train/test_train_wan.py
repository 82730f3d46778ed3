"""Every stage that trains adapters, on a small Wan checkout, and what its plan says of it."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.small_world import write_small_cells, write_small_recipe, write_small_sample
from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.fold import fold_adapter
from dcgrid.adapters.reading import read_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.cli.main import main
from dcgrid.errors import RecipeError, UsageError
from dcgrid.grid.layout import GridLayout
from dcgrid.models.base import CellText
from dcgrid.models.registry import find_model
from dcgrid.models.wan.checkpoint import known_spec, read_checkout
from dcgrid.models.wan.trunk import WanTransformer, load_codec, load_trunk
from dcgrid.pipelines.sampling import token_places
from dcgrid.train.facts import train_facts
from dcgrid.train.job import Reporter, TrainJob
from dcgrid.train.networks import load_base
from dcgrid.train.plan import plan_stage
from dcgrid.train.plan_checkout import KEPT_FEEDS, KEPT_WIDTHS
from dcgrid.train.run_stage import run_stage
from dcgrid.train.settings import LOSSES, load_train_recipe
from dcgrid.train.stages.generate import GenerateJob, load_generate_recipe
from dcgrid.train.stages.samplers import run_sampling
from dcgrid.train.validation import generate_as_edit

WanTransformer3DModel = pytest.importorskip("diffusers").WanTransformer3DModel

CPU = torch.device("cpu")
PLAIN = {"pixel_weight": 0.0, "offset_share": 0.0, "noise_share": 0.0, "rank": 4.0}


@pytest.fixture
def stage_of(tmp_path, wan_folder, tiny_store):
    """Return a job of a stage on the small checkout."""

    def make(name: str, out: Path, **knobs: object) -> TrainJob:
        known = LOSSES[name.removesuffix("-composition")].__dataclass_fields__
        loss = {key: value for key, value in PLAIN.items() if key in known}
        extra = {"dc": {"appearance_dropout": 0.0, "motion_dropout": 0.0}}.get(name, {})
        path = write_small_recipe(
            tmp_path, name, loss={**loss, **extra, **knobs.pop("loss", {})}, **knobs
        )
        return TrainJob(
            recipe=load_train_recipe(path, str(wan_folder)),
            model=str(wan_folder),
            out=out,
            store=tiny_store,
        )

    return make


def reporter(lines: list[str] | None = None) -> Reporter:
    said = [] if lines is None else lines
    return Reporter(say=said.append, progress=lambda report: None, generate=generate_as_edit)


@pytest.mark.parametrize("name", ["fill", "fill-composition", "grid", "grid-composition"])
def test_an_adapter_is_trained_validated_and_fits_the_checkout(
    tmp_path, wan_folder, stage_of, name
):
    said: list[str] = []
    log = "eval_every = 2\nvalidate_every = 2\ntensorboard = false\n"
    job = stage_of(name, tmp_path / "out", steps=2, log=log)
    path = run_stage(job, reporter(said))
    assert not [line for line in said if line.startswith("no validation")]
    assert (job.loop.folder / "validation" / "000002.png").is_file()
    spec, tensors = read_adapter(path)
    assert (spec.base, spec.base_hash) == (
        "small-wan",
        find_model(str(wan_folder)).digests()["transformer"],
    )
    learnt = [t for key, t in tensors.items() if ".lora_B." in key]
    assert all(tensor.any() for tensor in learnt)
    backbone = find_model(str(wan_folder)).load()
    report = fold_adapter(
        backbone.network,
        path,
        base="another name",
        base_hash=find_model(str(wan_folder)).digests()["transformer"],
    )
    assert report.matched == report.total == len(learnt)
    lines = (job.loop.folder / "log.jsonl").read_text().splitlines()
    assert any("eval" in json.loads(line) for line in lines)


def test_concepts_cells_and_sampled_grids(tmp_path, wan_folder, tiny_store, stage_of):
    """Tags go through the frozen UMT5 and are learnt; cells, grids and samples are made of them."""
    out, model = tmp_path / "out", str(wan_folder)
    run_stage(stage_of("dc", out, steps=4), reporter())
    cells = GenerateJob(
        recipe=load_generate_recipe(write_small_cells(tmp_path), model, "cells"),
        mode="consistent",
        model=model,
        out=out,
    )
    assert len(run_sampling(cells, lambda line: None, lambda *done: None)) == 3
    grid = stage_of("grid", out, steps=2, loss={"made_share": 1.0, "dc_strength": 1.0})
    run_stage(grid, reporter())
    sample = GenerateJob(
        recipe=load_generate_recipe(write_small_sample(tmp_path), model, "sample"),
        mode="consistent",
        model=model,
        out=out,
        store=tiny_store,
    )
    files = run_sampling(sample, lambda line: None, lambda *done: None)
    assert len(files) == 3
    fill = stage_of("fill", out, steps=2, loss={"sampled_share": 1.0, "dc_strength": 1.0})
    assert run_stage(fill, reporter()).is_file()


def test_tags_learn_through_the_frozen_encoder(wan_folder):
    _, text = load_trunk(read_checkout(wan_folder), device=CPU, dtype=torch.float32)
    plain = text.read_rows([["a dog runs"]], cells=1).tokens_BKLE
    (tag,) = text.add_tags(["Rex"])
    named = text.read_rows([["a [Rex] runs"]], cells=1).tokens_BKLE
    # A tag that is the embedding of a word reads as the word.
    word = text.segments.tokens("dog")
    embeddings = text.encoder.get_input_embeddings().weight
    if len(word) == 1:
        with torch.no_grad():
            tag.copy_(embeddings[word[0]])
        assert torch.allclose(
            text.read_rows([["a [Rex] runs"]], cells=1).tokens_BKLE, plain, atol=1e-5
        )
    named.square().sum().backward()
    assert tag.grad is not None
    assert tag.grad.any()
    assert all(p.grad is None for p in text.encoder.parameters())


def test_the_plan_counts_what_is_there(tmp_path, wan_folder, stage_of):
    transformer, text = load_trunk(read_checkout(wan_folder), device=CPU, dtype=torch.float32)
    codec = load_codec(read_checkout(wan_folder), device=CPU)
    counts = {
        "autoencoder": sum(p.numel() for p in codec.parameters()),
        "transformer": sum(p.numel() for p in transformer.parameters()),
        "text": sum(p.numel() for p in text.parameters()),
    }
    for name in ("fill", "grid-composition", "dc"):
        job = stage_of(name, tmp_path / name, steps=1)
        plan = plan_stage(job)
        assert plan.frozen == counts
        made = {}
        if name != "dc":
            run_stage(job, reporter())
            for path in job.out.glob("*.safetensors"):
                made[f"{path.stem} LoRA"] = sum(t.numel() for t in read_adapter(path)[1].values())
        else:
            path = run_stage(job, reporter())
            made["dc LoRA"] = sum(t.numel() for t in read_adapter(path)[1].values())
            made["tokens"] = plan.trained["tokens"]
            assert plan.trained["tokens"] % text.tag_width == 0
        assert plan.trained == made


def test_stages_of_the_programs_own_models_are_refused(tmp_path, wan_folder, stage_of):
    job = stage_of("base", tmp_path / "out")
    with pytest.raises(UsageError, match="has its weights"):
        run_stage(job, reporter())


@pytest.mark.parametrize(
    ("change", "told", "hint"),
    [
        (("frames = 5", "frames = 120"), "4 n \\+ 1 frames", "117 and 121"),
        (("[[32, 32], [32, 48]]", "[[720, 1272]]"), "multiples of 16", "1264x720, 1280x720"),
    ],
)
def test_shapes_that_do_not_fit_name_the_nearest(
    tmp_path, wan_folder, stage_of, change, told, hint
):
    path = write_small_recipe(tmp_path, "fill", loss=PLAIN)
    path.write_text(path.read_text().replace(*change))
    job = TrainJob(
        recipe=load_train_recipe(path, str(wan_folder)),
        model=str(wan_folder),
        out=tmp_path,
        store=tmp_path,
    )
    with pytest.raises(RecipeError, match=told) as raised:
        plan_stage(job)
    assert hint in raised.value.hint


def test_facts_and_recipes_of_checkouts(wan_folder):
    facts = train_facts(str(wan_folder))
    assert (facts.tables, facts.fps, facts.geometry.stride_HW) == (("wan2.1",), 16.0, 8)
    large = train_facts("wan2.2-5b")
    assert (large.tables, large.fps, large.geometry.stride_HW) == (("wan2.2",), 24.0, 16)
    base = load_base(str(wan_folder), Path(), CPU, torch.float32)
    names = {name for name, _ in base.dit.network.named_modules()}
    for target in (*facts.targets.all, *facts.targets.routed):
        assert any(name.endswith(f".{target}") for name in names)


def test_the_command_keeps_runs_beside_the_user_and_not_in_the_checkout(
    tmp_path, wan_folder, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    path = write_small_recipe(tmp_path, "fill", loss=PLAIN)
    words = ["--stage", "fill", "--model", str(wan_folder), "--recipe", str(path), "--dry-run"]
    assert main(["train", *words, "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["out"] == str(tmp_path / "runs/small-wan")


def kept_bytes(frames: int) -> float:
    """Return what one block of a transformer of width 128 keeps for the backward pass."""
    spec = known_spec("wan2.1-1.3b")
    config = {"num_attention_heads": 2, "attention_head_dim": 64, "ffn_dim": 256, "num_layers": 2}
    small = {"in_channels": 16, "out_channels": 16, "text_dim": 32, "freq_dim": 16}
    network = WanTransformer3DModel(**config, **small, rope_max_seq_len=64)
    network.requires_grad_(False).to(torch.bfloat16)
    targets = train_facts("wan2.1-1.3b").targets.all
    attach_adapter(network, AdapterSpec(name="a", stage="fill", rank=4, alpha=4, targets=targets))
    dit = WanTransformer(network, spec).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    alive, found = [], dict[int, int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            alive.append(tensor)  # or its place would be taken again
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    size = (frames, 12, 12)
    text = CellText(
        tokens_BKLE=torch.randn(1, 4, 512, 32).bfloat16(),
        valid_BKL=torch.ones(1, 4, 512, dtype=torch.bool),
    )
    time_BKF = torch.full((1, 4, frames), 0.5)
    places = token_places(GridLayout(rows=2, cols=2), size, spec.patch, None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        dit(torch.randn(1, 4, 16, *size), time_BKF, text, places)
    return sum(found.values()) / 2


def test_what_a_block_keeps_is_what_the_plan_says():
    """Between two lengths, so that what texts keep drops out."""
    tokens = 4 * 36
    grown = (kept_bytes(12) - kept_bytes(4)) / (8 * tokens)
    assert grown / 2 == pytest.approx(KEPT_WIDTHS * 128 + KEPT_FEEDS * 256, rel=0.1)
