"""Stage `sample`: grids from the Grid LoRA, bad ones dropped, the rest trained on by `fill`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dcgrid
from benchmarks.small_world import write_small_sample
from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import save_adapter, write_adapter
from dcgrid.adapters.reading import hash_tensors, read_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.cli.main import main
from dcgrid.errors import AdapterError, RecipeError, UsageError, WeightsError
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.models.weights import load_weights, read_weights
from dcgrid.recipes import shipped_dir
from dcgrid.train.data.generated_grids import grid_files, read_grid
from dcgrid.train.facts import train_facts
from dcgrid.train.job import TrainJob
from dcgrid.train.loop import LoopOptions
from dcgrid.train.stages.generate import GenerateJob, load_generate_recipe
from dcgrid.train.stages.grids import GridStage
from dcgrid.train.stages.samplers import drop_grids, run_sampling

SHIPPED = Path(dcgrid.__file__).parent / "models" / "weights" / "mini"
ADAPTERS = {"consistent": ("grid",), "composition": ("grid-composition-a", "grid-composition-b")}


@pytest.fixture(scope="module")
def adapted(base_folder, tmp_path_factory):
    """Folder with autoencoder, base and strong random Grid LoRAs of both modes."""
    out = tmp_path_factory.mktemp("adapted") / "tiny"
    shutil.copytree(base_folder, out)
    for mode, names in ADAPTERS.items():
        for number, name in enumerate(names):
            dit = DiT(PRESETS["tiny"].dit)
            load_weights(out / "dit.safetensors", dit)
            routed = mode == "composition"
            spec = AdapterSpec(
                name=name,
                stage="grid",
                mode=mode,
                rank=2,
                alpha=2,
                targets=train_facts("tiny").targets.routed if routed else ("query", "mlp_out"),
                base="tiny",
                base_hash=hash_tensors(dit.state_dict()),
            )
            generator = torch.Generator().manual_seed(number + 1)
            with torch.no_grad():
                for side in attach_adapter(dit, spec):
                    side.copy_(torch.randn(side.shape, generator=generator))
            save_adapter(dit, spec, out / f"{name}.safetensors")
    return out


@pytest.fixture
def based(adapted, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(adapted, tmp_path / "tiny"))


@pytest.fixture
def job_of(based, tiny_store, tmp_path):
    def job(mode="consistent", **knobs):
        recipe = load_generate_recipe(write_small_sample(tmp_path, **knobs), "tiny", "sample")
        return GenerateJob(recipe=recipe, mode=mode, model="tiny", out=based, store=tiny_store)

    return job


def sample(job, notes=None):
    told = []
    files = run_sampling(
        job, [].append if notes is None else notes.append, lambda *done: told.append(done)
    )
    return files, told


@pytest.mark.parametrize("mode", ["consistent", "composition"])
def test_grids_facts_and_sheet(job_of, based, mode):
    files, told = sample(job_of(mode))
    folder = based / f"grids-{mode}"
    assert files == [folder / f"000{n}.safetensors" for n in (1, 2, 3)]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (folder / "sheet.png").stat().st_size > 1000
    assert {p.name for p in folder.iterdir()} == {*(f.name for f in files), "sheet.png"}
    for number, path in enumerate(files, start=1):
        tensors, facts = read_weights(path)
        width = 6 if number == 2 else 4
        assert tensors["cells_KCFYX"].shape == (4, 4, 2, 4, width)
        assert tensors["luck_KMFYX"].shape == (4, 0, 2, 4, width)
        assert (facts["mode"], facts["number"], facts["seed"]) == (mode, number, 3)
        assert len(facts["texts"]) == 4
        assert len(facts["adapters"]) == len(ADAPTERS[mode])
        assert facts["base"] == hash_tensors(_dit(based).state_dict())


def _dit(out):
    dit = DiT(PRESETS["tiny"].dit)
    load_weights(out / "dit.safetensors", dit)
    return dit


def test_a_seed_generates_the_same_and_an_adapter_counts(job_of, based):
    first = read_grid(sample(job_of(grids=1))[0][0])
    (based / "grids-consistent" / "0001.safetensors").unlink()
    again = read_grid(sample(job_of(grids=1))[0][0])
    assert torch.equal(first.cells_KCFYX, again.cells_KCFYX)
    assert first.facts == again.facts
    other = read_grid(sample(job_of(grids=1, seed=4))[0][0])
    assert not torch.equal(first.cells_KCFYX, other.cells_KCFYX)
    before = read_grid(sample(job_of("composition", grids=1))[0][0])
    path = based / "grid-composition-b.safetensors"
    spec, tensors = read_adapter(path)
    write_adapter(spec, {name: tensor * 2 for name, tensor in tensors.items()}, path)
    after = read_grid(sample(job_of("composition", grids=1))[0][0])
    assert before.rows == after.rows
    assert not torch.equal(before.cells_KCFYX, after.cells_KCFYX)


def test_routing_of_a_composition_reaches_the_transformer(job_of, monkeypatch):
    routes = []
    forward = DiT.forward

    def spy(dit, cells, time, text, places, route_KA=None, *rest):
        routes.append(route_KA)
        return forward(dit, cells, time, text, places, route_KA, *rest)

    monkeypatch.setattr(DiT, "forward", spy)
    sample(job_of("composition", grids=1))
    assert len(routes) == 4  # two steps, each with and without text
    assert all(r.tolist() == [[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]] for r in routes)
    routes.clear()
    sample(job_of(grids=1, guidance_scale=1.0))
    assert routes == [None, None]


def test_going_on_keeps_files_and_replaces_those_of_another_recipe(job_of):
    files, _ = sample(job_of(grids=2))
    times = [path.stat().st_mtime_ns for path in files]
    more, _ = sample(job_of(grids=3))
    assert [path.stat().st_mtime_ns for path in more[:2]] == times
    more[1].write_bytes(more[1].read_bytes()[:-40])  # as after a broken copy
    sample(job_of(grids=3))
    assert more[0].stat().st_mtime_ns == times[0]
    assert read_grid(more[1]).facts["number"] == 2
    notes = []
    left, _ = sample(job_of(grids=2, num_inference_steps=3), notes)
    assert [read_grid(path).facts["num_inference_steps"] for path in left] == [3, 3]
    assert any("0003.safetensors" in note for note in notes)


def test_dropped_grids_are_gone_and_not_sampled_again(job_of, based):
    job = job_of()
    sample(job)
    sheet = (job.folder / "sheet.png").read_bytes()
    left = drop_grids(job, [2, 2])
    assert [path.name for path in left] == ["0001.safetensors", "0003.safetensors"]
    assert (job.folder / "sheet.png").read_bytes() != sheet
    assert (job.folder / "dropped" / "0002.safetensors").is_file()
    _, told = sample(job)
    assert list(grid_files(job.folder)) == [1, 3]
    assert told == [(1, 2), (2, 2)]
    with pytest.raises(UsageError, match="no grid 2"):
        drop_grids(job, [1, 2])
    assert len(grid_files(job.folder)) == 2
    drop_grids(job, [1, 3])
    assert not (job.folder / "sheet.png").exists()


@pytest.mark.parametrize("name", ["fill", "fill-composition"])
def test_fill_trains_on_those_latents_alone(job_of, run_tiny, based, monkeypatch, name):
    mode = "composition" if "-" in name else "consistent"
    grids = [read_grid(path) for path in sample(job_of(mode))[0]]
    batches = []
    real = GridStage._batch

    def spy(stage, phase, generator):
        batches.append(real(stage, phase, generator))
        return batches[-1]

    monkeypatch.setattr(GridStage, "_batch", spy)
    loss = {"sampled_share": 1.0, "edit_share": 1.0, "window_share": 0.0, "caption_dropout": 0.0}
    run_tiny(name, based, loss=loss)
    assert len(batches) == 4
    given = [True, mode == "composition", False, False]
    for batch in batches:
        frames = batch.cells_BKCFYX.shape[3]
        for number, cells_KCFYX in enumerate(batch.cells_BKCFYX):
            rows = batch.rows[4 * number : 4 * number + 4]
            assert any(
                rows == grid.rows and torch.equal(cells_KCFYX, grid.cells_KCFYX[:, :, :frames])
                for grid in grids
                if grid.size[1] == 8 * cells_KCFYX.shape[-1]
            )
        assert batch.fill_BKF.shape[2] == frames
        assert all((~fill_KF).all(1).tolist() == given for fill_KF in batch.fill_BKF)
    assert {batch.cells_BKCFYX.shape[3] for batch in batches} == {1, 2}


def test_fill_with_sampled_grids_resumes_exactly(job_of, run_tiny, based, tmp_path, monkeypatch):
    sample(job_of())
    loss = {"sampled_share": 0.5}
    whole, _ = run_tiny("fill", based, steps=6, loss=loss)
    expected = read_weights(whole)[0]
    real, calls = GridStage.loss, []

    def dying(stage, phase, generator):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(stage, phase, generator)

    monkeypatch.setattr(GridStage, "loss", dying)
    monkeypatch.setattr(TrainJob, "loop", property(_saving_loop))
    with pytest.raises(KeyboardInterrupt):
        run_tiny("fill", based, steps=6, loss=loss)
    monkeypatch.setattr(GridStage, "loss", real)
    resumed, _ = run_tiny("fill", based, steps=6, loss=loss, resume=True)
    tensors = read_weights(resumed)[0]
    assert all(torch.equal(expected[name], tensors[name]) for name in expected)


def _saving_loop(job):
    return LoopOptions(
        folder=job.out / "fill", resume=job.resume, save_every_s=0.0, model=job.model
    )


def test_without_a_share_nothing_is_drawn_for_grids(job_of, run_tiny, based, monkeypatch):
    """Grids may lie there: a run whose share is 0 never asks for it."""
    before = read_weights(run_tiny("fill", based)[0])[0]
    sample(job_of(grids=1))
    real = GridStage.__init__

    def without_grids(stage, *arguments):
        real(stage, *arguments)
        assert stage.sampled is None
        assert stage.recipe.loss.sampled_share == 0

    monkeypatch.setattr(GridStage, "__init__", without_grids)
    after = read_weights(run_tiny("fill", based)[0])[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_fill_needs_grids_that_fit(job_of, run_tiny, based):
    loss = {"sampled_share": 0.5}
    with pytest.raises(WeightsError, match="grids-composition") as caught:
        run_tiny("fill-composition", based, loss=loss)
    assert "--stage sample --mode composition" in caught.value.hint
    sample(job_of(grids=1, sizes=[[48, 48]]))
    with pytest.raises(RecipeError, match=r"1x32x32 .*there are 5x48x48"):
        run_tiny("fill", based, loss=loss)
    sample(job_of(grids=1))
    run_tiny("base", based, steps=3)
    with pytest.raises(WeightsError, match="another base"):
        run_tiny("fill", based, loss=loss)


def say(path, **facts):
    spec, tensors = read_adapter(path)
    write_adapter(replace(spec, **facts), tensors, path)


def test_grids_are_sampled_as_their_adapter_says(job_of, based, tmp_path):
    """The oracle is the recipe, which has always set both numbers."""
    facts = {"inference_noise_scale": 1.8, "inference_time_shift": 2.5}
    asked = read_grid(sample(job_of(grids=1, noise_scale=1.8, time_shift=2.5))[0][0])
    say(based / "grid.safetensors", noise_scale=1.9, **facts)
    notes = []
    recipe = write_small_sample(tmp_path, grids=1)
    recipe.write_text(
        "".join(
            line
            for line in recipe.read_text().splitlines(keepends=True)
            if not line.startswith(("noise_scale", "time_shift"))
        )
    )
    silent = load_generate_recipe(recipe, "tiny", "sample")
    job = replace(job_of(grids=1), recipe=silent)
    (based / "grids-consistent" / "0001.safetensors").unlink()
    told = read_grid(sample(job, notes)[0][0])
    assert torch.equal(told.cells_KCFYX, asked.cells_KCFYX)
    assert (told.facts["noise_scale"], told.facts["time_shift"]) == (1.8, 2.5)
    assert not [line for line in notes if "says" in line]
    sample(job_of(grids=1, noise_scale=1.2, time_shift=2.5), notes)
    assert "noise scale 1.2; grid.safetensors says 1.8" in notes


def test_adapters_of_a_composition_that_disagree_are_told(job_of, based):
    say(based / "grid-composition-b.safetensors", inference_noise_scale=1.4)
    notes = []
    sample(job_of("composition", grids=1, noise_scale=1.0), notes)
    assert [line for line in notes if "grid-composition-b" in line and "1.4" in line]


def test_an_adapter_of_another_stage_is_refused(job_of, based):
    say(based / "grid.safetensors", stage="fill")
    with pytest.raises(AdapterError, match="stage grid") as caught:
        sample(job_of(grids=1))
    assert "dcgrid train --stage grid makes one" in caught.value.hint
    assert not grid_files(based / "grids-consistent")


def test_missing_adapter_and_wrong_recipes(job_of, based, tmp_path):
    (based / "grid-composition-b.safetensors").unlink()
    with pytest.raises(WeightsError, match="grid-composition-b") as caught:
        sample(job_of("composition"))
    assert "--stage grid --mode composition" in caught.value.hint
    with pytest.raises(WeightsError, match=r"dc\.safetensors"):
        sample(job_of(dc_strength=0.5))
    for knobs, told in (
        ({"grids": 0}, "grids"),
        ({"grid": 4}, "did you mean 'grids'"),
        ({"sizes": []}, "sizes"),
        ({"sizes": [[32]]}, "sizes"),
        ({"sizes": [[32, 33]]}, "33x32"),
        ({"frames": 4}, "4 frames"),
    ):
        with pytest.raises(RecipeError, match=told):
            load_generate_recipe(write_small_sample(tmp_path, **knobs), "tiny", "sample")


def test_shipped_recipe(tmp_path):
    path = shipped_dir() / "train" / "sample.toml"
    paper, mini = (load_generate_recipe(path, model, "sample") for model in ("paper", "mini"))
    assert (paper.grids, paper.num_inference_steps, paper.guidance_scale) == (64, 40, 4.5)
    assert (mini.grids, mini.num_inference_steps, mini.guidance_scale) == (24, 24, 3.0)
    assert paper.dc_strength == mini.dc_strength == 0
    assert replace(mini, seed=1) != mini
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(path.read_text() + "girds = 3\n")
    with pytest.raises(RecipeError, match=r"girds"):
        load_generate_recipe(wrong, "paper", "sample")


def test_command(based, tiny_store, tmp_path, capsys):
    shared = ["train", "--stage", "sample", "--model", "tiny", "--out", str(based)]
    shared += ["--world", str(tiny_store), "--recipe", str(write_small_sample(tmp_path))]
    (based / "grid.safetensors").rename(based / "away")
    assert main([*shared, "--dry-run", "--grids", "2", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["grids"], plan["num_inference_steps"], plan["sizes"][1]) == (2, 2, [32, 48])
    assert len(plan["missing"]) == 1
    assert "grid.safetensors" in plan["missing"][0]
    assert not (based / "grids-consistent").exists()
    assert main(shared) == 4
    (based / "away").rename(based / "grid.safetensors")
    assert main([*shared, "--grids", "2"]) == 0
    assert "2 grids in" in capsys.readouterr().out
    assert main([*shared, "--drop", "1", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 1
    for wrong in (["--steps", "3"], ["--resume"], ["--force"], ["--drop", "9"]):
        assert main([*shared, *wrong]) == 2, wrong
    assert main(["train", "--stage", "fill", "--drop", "1"]) == 2


def test_moving_noise_is_kept_with_the_grid(tmp_path, tiny_store):
    """`fill` noises a cell with the very noise that says where its drops are."""
    out = tmp_path / "mini"
    out.mkdir()
    for part in ("autoencoder", "text", "dit"):
        name = f"{part}.safetensors"
        (out / name).symlink_to(SHIPPED / name)
    dit = DiT(PRESETS["mini"].dit)
    load_weights(out / "dit.safetensors", dit)
    spec = AdapterSpec(name="grid", stage="grid", rank=1, alpha=1, targets=("query",), base="mini")
    attach_adapter(dit, spec)
    save_adapter(dit, spec, out / "grid.safetensors")
    recipe = load_generate_recipe(
        write_small_sample(tmp_path, grids=1, sizes=[[64, 64]]), "mini", "sample"
    )
    job = GenerateJob(recipe=recipe, mode="consistent", model="mini", out=out, store=tiny_store)
    grid = read_grid(sample(job)[0][0])
    moving = len(PRESETS["mini"].dit.noise_motion)
    assert grid.drift_KMFYX.shape == (4, moving, 2, 8, 8)
    # The first channel falls by four rows a latent frame.
    falling_KFYX = grid.drift_KMFYX[:, 0]
    assert torch.equal(falling_KFYX[:, 1, 4:], falling_KFYX[:, 0, :4])
    assert falling_KFYX.std() > 0.5
