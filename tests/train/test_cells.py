"""Stage `cells`: Multi-DC generates cells of grids one by one, and stage `grid` trains on them."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks.small_world import write_small_cells, write_small_recipe, write_small_sample
from dcgrid.adapters.files import write_adapter
from dcgrid.adapters.reading import hash_tensors, read_adapter
from dcgrid.cli.main import main
from dcgrid.errors import PromptError, RecipeError, WeightsError
from dcgrid.models.native.model import load_text_encoder
from dcgrid.models.weights import read_weights, save_weights
from dcgrid.prompts.segments import check_tags
from dcgrid.recipes import shipped_dir
from dcgrid.train.data.generated_grids import grid_files, read_grid
from dcgrid.train.data.variants import FusionPool, VariantPool
from dcgrid.train.run_stage import Reporter, TrainJob, run_stage
from dcgrid.train.settings import load_train_recipe
from dcgrid.train.stages.flow_matching import SINGLE, generate_cells
from dcgrid.train.stages.generate import (
    GenerateJob,
    draw_grid_noise,
    load_generate_recipe,
)
from dcgrid.train.stages.grids import GridStage
from dcgrid.train.stages.samplers import CellSampler, run_sampling, share_noise
from dcgrid.train.validation import Validation, generate_as_edit

QUIET = Reporter(say=lambda line: None, progress=lambda progress: None)


@pytest.fixture(scope="module")
def learned(base_folder, tiny_store, tmp_path_factory):
    """Folder with all that stages autoencoder, base and dc make; the tags stand out."""
    folder = tmp_path_factory.mktemp("learned")
    shutil.copytree(base_folder, folder, dirs_exist_ok=True)
    recipe = load_train_recipe(write_small_recipe(folder, "dc", rate="5e-3"), "tiny")
    run_stage(TrainJob(recipe=recipe, model="tiny", out=folder, store=tiny_store), QUIET)
    tokens = folder / "dc-tokens.safetensors"
    tensors, facts = read_weights(tokens)
    tags_TE = torch.randn(tensors["tags"].shape, generator=torch.Generator().manual_seed(1))
    save_weights(tokens, {"tags": tags_TE}, facts, torch.float32)
    return folder


@pytest.fixture
def out(learned, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    for path in learned.glob("*.safetensors"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def job_of(out, tmp_path):
    def job(mode="consistent", **knobs):
        recipe = load_generate_recipe(write_small_cells(tmp_path, **knobs), "tiny", "cells")
        return GenerateJob(recipe=recipe, mode=mode, model="tiny", out=out)

    return job


def generate(job, notes=None):
    notes = [] if notes is None else notes
    return run_sampling(job, notes.append, lambda done, total: None)


def tags_in(text):
    return {part.partition("]")[0] for part in text.split("[")[1:]}


@pytest.mark.parametrize("mode", ["consistent", "composition"])
def test_cells_say_what_stage_dc_trained_on(job_of, out, mode):
    job = job_of(mode)
    files = generate(job)
    assert files == [out / f"cells-{mode}" / f"000{n}.safetensors" for n in (1, 2, 3)]
    assert (job.folder / "sheet.png").stat().st_size > 1000
    prompts = read_adapter(out / "dc.safetensors")[0].prompts
    for path in files:
        grid = read_grid(path)
        assert grid.cells_KCFYX.shape[:3] == (4, 4, 2)
        texts, rows = grid.facts["cell_texts"], grid.rows
        assert texts[0] in prompts
        assert len(set(texts)) == 4
        identity, motion = (
            next(t for t in tags_in(texts[0]) if (t.startswith("motion")) == moves)
            for moves in (False, True)
        )
        if mode == "consistent":
            assert all(tags_in(text) == {identity, motion} for text in texts)
            assert all({identity, motion} <= tags_in(" ".join(row)) for row in rows)
            assert all(text.startswith(texts[0]) or "in the sea" in text for text in texts)
        else:
            assert texts[1] in prompts
            both = tags_in(texts[0]) | tags_in(texts[1])
            assert len(both) == 4
            assert all(tags_in(text) == both for text in texts[2:])
            assert all(both <= tags_in(" ".join(row)) for row in rows[2:])
        # The rows are those of a grid: a text that all cells read, and each cell's own.
        assert len({row[0] for row in rows}) == 1
        assert [row[1].split("]")[0] for row in rows] == [
            "[TOP LEFT", "[TOP RIGHT", "[BOTTOM LEFT", "[BOTTOM RIGHT"
        ]  # fmt: skip


def sampler_of(kind, job):
    return kind(job, job.recipe)


def test_a_cell_is_generated_as_if_the_others_were_not_there(job_of):
    job = job_of(grids=1)
    grid = read_grid(generate(job)[0])
    generate_fn = sampler_of(CellSampler, job)
    noise_KCFYX = share_noise(draw_grid_noise(job, 1)[0], "consistent", 0)
    for cell in range(4):
        alone_BKCFYX = generate_cells(
            generate_fn.backbone,
            [[grid.facts["cell_texts"][cell]]],
            noise_KCFYX[None, None, cell],
            SINGLE,
            generate_fn.numbers.num_inference_steps,
            generate_fn.numbers.guidance_scale,
        )
        assert torch.allclose(alone_BKCFYX[0, 0], grid.cells_KCFYX[cell], atol=1e-4)
    assert any(
        not torch.allclose(one, other, atol=1e-3) for one, other in pairwise(grid.cells_KCFYX)
    )


def test_the_vector_of_a_tag_reaches_the_cells_that_name_it(job_of, out):
    job = job_of(grids=1)
    before = read_grid(generate(job)[0])
    tokens = out / "dc-tokens.safetensors"
    tensors, facts = read_weights(tokens)
    identity = facts["tags"].index(before.facts["concepts"][0])
    for row, changes in ((identity, True), ((identity + 1) % 5, False)):
        tags_TE = tensors["tags"].clone()
        tags_TE[row] = -tags_TE[row]
        save_weights(tokens, {"tags": tags_TE}, facts, torch.float32)
        after = read_grid(generate(job)[0])
        # A file of other tokens is generated anew, and only what the text names counts.
        assert after.facts["tags"] != before.facts["tags"]
        same = [
            torch.equal(*pair) for pair in zip(before.cells_KCFYX, after.cells_KCFYX, strict=True)
        ]
        assert same == [not changes] * 4


def test_a_tag_is_refused_where_no_tokens_are_loaded(job_of, out):
    text = sampler_of(CellSampler, job_of()).concepts.all_texts()[0]
    bare = load_text_encoder("tiny", out / "text.safetensors")
    with pytest.raises(PromptError, match="no tags are loaded"):
        check_tags([text], bare.tag_names, hint="")
    known = sampler_of(CellSampler, job_of()).text.tag_names
    check_tags([text], known, hint="")
    with pytest.raises(PromptError, match=rf"did you mean '{known[0]}'"):
        check_tags([f"a [{known[0][:-1]}]"], known, hint="")


def test_a_seed_makes_the_same_file_and_the_lora_counts(job_of, out):
    job = job_of(grids=1)
    content = generate(job)[0].read_bytes()
    (job.folder / "0001.safetensors").unlink()
    assert generate(job)[0].read_bytes() == content
    first = read_grid(generate(job)[0])
    for knobs in ({"seed": 4}, {"shared_noise": False}, {"dc_strength": 5.0}):
        other = read_grid(generate(job_of(grids=1, **knobs))[0])
        assert not torch.equal(first.cells_KCFYX[1:], other.cells_KCFYX[1:]), knobs
    # Of the cells of a grid the first has noise of its own in any case.
    apart = read_grid(generate(job_of(grids=1, shared_noise=False))[0])
    assert torch.equal(first.cells_KCFYX[0], apart.cells_KCFYX[0])


def test_which_cells_start_alike():
    noise_KCFYX = torch.randn(4, 5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    edits = share_noise(noise_KCFYX, "consistent", moving=2)
    assert all(torch.equal(edits[cell, :3], noise_KCFYX[0, :3]) for cell in range(4))
    assert torch.equal(edits[:, 3:], noise_KCFYX[:, 3:])
    fused = share_noise(noise_KCFYX, "composition", moving=2)
    assert torch.equal(fused[:2], noise_KCFYX[:2])
    for cell in (2, 3):
        assert torch.equal(fused[cell, :3], noise_KCFYX[0, :3])
        assert torch.equal(fused[cell, 3:], noise_KCFYX[1, 3:])


def test_a_run_that_was_stopped_keeps_what_is_there(job_of, monkeypatch):
    job = job_of()
    whole = [path.read_bytes() for path in generate(job)]
    shutil.rmtree(job.folder)
    real = CellSampler.generate

    def dying(generate_fn, number):
        if number == 2:
            raise KeyboardInterrupt
        return real(generate_fn, number)

    with monkeypatch.context() as patched:
        patched.setattr(CellSampler, "generate", dying)
        with pytest.raises(KeyboardInterrupt):
            generate(job)
    first = grid_files(job.folder)[1]
    time, notes = first.stat().st_mtime_ns, []
    files = generate(job, notes)
    assert first.stat().st_mtime_ns == time
    assert [path.read_bytes() for path in files] == whole
    assert any("1 of 3 grids are there" in note for note in notes)


@pytest.mark.parametrize("name", ["grid", "grid-composition"])
def test_grid_trains_on_made_grids_alone(job_of, out, tmp_path, monkeypatch, name):
    """No world is needed, and none is drawn from, in steps or eval losses."""
    mode = "composition" if "-" in name else "consistent"
    grids = [read_grid(path) for path in generate(job_of(mode))]
    batches, known = [], []
    real = GridStage._velocity

    def spy(stage, batch, *rest, **more):
        batches.append(batch)
        known.append(stage.text.tokenizer.tags)
        return real(stage, batch, *rest, **more)

    def refuse(*_, **__):
        raise AssertionError("a clip of the world was drawn")

    monkeypatch.setattr(GridStage, "_velocity", spy)
    for pool in (VariantPool, FusionPool):
        monkeypatch.setattr(pool, "draw", refuse)
    loss = {"made_share": 1.0, "dc_strength": 1.0, "caption_dropout": 0.0}
    log = "eval_every = 2\neval_grids = 2\nvalidate_every = 4\ntensorboard = false\n"
    path = write_small_recipe(tmp_path, name, loss=loss, log=log)
    said, shown = [], []
    real_write = Validation._write

    def write(validation, stem, generated):
        shown.extend(zip(validation._grids, generated, strict=True))
        real_write(validation, stem, generated)

    monkeypatch.setattr(Validation, "_write", write)
    reporter = Reporter(say=said.append, progress=lambda report: None, generate=generate_as_edit)
    job = TrainJob(
        recipe=load_train_recipe(path, "tiny"), model="tiny", out=out, store=tmp_path / "nowhere"
    )
    written = run_stage(job, reporter)
    # Validation is of made grids, too: their texts, and beside what comes of them their cells.
    assert not [line for line in said if "no validation" in line]
    assert (job.loop.folder / "validation" / "000004.png").is_file()
    assert len(shown) == 2
    for grid, cells in shown:
        assert any(made.rows == grid.rows for made in grids)
        assert sorted(grid.truth) == [0, 1, 2, 3]
        assert [clip.shape for clip in cells] == [grid.truth[k].shape for k in range(4)]
        assert not any(torch.equal(clip, grid.truth[k]) for k, clip in enumerate(cells))
    assert any(t.any() for n, t in read_adapter(written)[1].items() if ".lora_B." in n)
    # Four steps, and twice nine flow times of two grids.
    assert len(batches) == 4 + 2 * 9 * 2
    assert set(known) == {tuple(read_weights(out / "dc-tokens.safetensors")[1]["tags"])}
    for batch in batches:
        assert batch.fill_BKF.all()
        for number, cells_KCFYX in enumerate(batch.cells_BKCFYX):
            rows = batch.rows[4 * number : 4 * number + 4]
            frames = cells_KCFYX.shape[1 + 1]
            assert any(
                rows == grid.rows and torch.equal(cells_KCFYX, grid.cells_KCFYX[:, :, :frames])
                for grid in grids
                if grid.cells_KCFYX.shape[-1] == cells_KCFYX.shape[-1]
            )
    assert any("[TOP LEFT]" in row[1] and "_identity]" in row[0] for row in batches[0].rows[:1])


def test_without_a_share_nothing_is_drawn_for_made_grids(job_of, run_tiny, out, monkeypatch):
    before = read_weights(run_tiny("grid", out)[0])[0]
    generate(job_of(grids=1))
    real = GridStage.__init__

    def without_grids(stage, *arguments):
        real(stage, *arguments)
        assert stage.sampled is None
        assert not stage.text.tokenizer.tags

    monkeypatch.setattr(GridStage, "__init__", without_grids)
    after = read_weights(run_tiny("grid", out)[0])[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_grid_refuses_grids_of_other_weights(job_of, run_tiny, out):
    loss = {"made_share": 0.5}
    with pytest.raises(WeightsError, match="cells-consistent") as caught:
        run_tiny("grid", out, loss=loss)
    assert "--stage cells" in caught.value.hint
    generate(job_of(grids=1))
    tokens = out / "dc-tokens.safetensors"
    tensors, facts = read_weights(tokens)
    save_weights(tokens, {"tags": tensors["tags"] * 2}, facts, torch.float32)
    with pytest.raises(WeightsError, match="other tags") as caught:
        run_tiny("grid", out, loss=loss)
    assert "--stage cells" in caught.value.hint
    generate(job_of(grids=1))
    run_tiny("grid", out, loss=loss)
    spec, sides = read_adapter(out / "dc.safetensors")
    write_adapter(spec, {name: side * 2 for name, side in sides.items()}, out / "dc.safetensors")
    with pytest.raises(WeightsError, match="another Multi-DC LoRA"):
        run_tiny("grid", out, loss=loss)
    generate(job_of(grids=1))
    run_tiny("base", out, steps=3)
    with pytest.raises(WeightsError, match="another base"):
        run_tiny("grid", out, loss=loss)
    tokens.unlink()
    with pytest.raises(WeightsError, match="dc-tokens") as caught:
        run_tiny("grid", out, loss=loss)
    assert "--stage dc" in caught.value.hint


def test_what_is_missing_or_unknown_is_named(job_of, out):
    identity = read_adapter(out / "dc.safetensors")[0].tokens[0].strip("[]")
    with pytest.raises(RecipeError, match="did you mean 'Dog_face_") as caught:
        generate(job_of(concepts=["Dog_face_1_identty"]))
    assert identity in caught.value.hint
    with pytest.raises(PromptError, match=r"names \[Dog_identity\], a tag that is not known"):
        generate(job_of(places=["beside a dog [Dog_identity]"]))
    with pytest.raises(RecipeError, match="need a concept of role effect"):
        generate(job_of("composition", concepts=[identity]))
    notes = []
    generate(job_of(grids=1, places=["beside a zyzzyva"]), notes)
    assert any("zyzzyva" in note for note in notes)
    tokens = out / "dc-tokens.safetensors"
    tensors, facts = read_weights(tokens)
    save_weights(tokens, tensors, {**facts, "tags": [*facts["tags"][1:], "x"]}, torch.float32)
    with pytest.raises(WeightsError, match="not of one run"):
        generate(job_of())
    for broken in ("", "[]", "[1]", '[{"clip": "a"}]'):
        save_weights(tokens, tensors, {**facts, "concepts": broken}, torch.float32)
        with pytest.raises(WeightsError, match="says no words") as caught:
            generate(job_of())
        assert "--stage dc" in caught.value.hint
    (out / "dc.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"stage cells needs .*dc\.safetensors") as caught:
        generate(job_of())
    assert "--stage dc" in caught.value.hint


def test_only_the_concepts_that_are_asked_for(job_of, out):
    identity = read_adapter(out / "dc.safetensors")[0].tokens[2].strip("[]")
    files = generate(job_of(concepts=[identity]))
    assert {read_grid(path).facts["concepts"][0] for path in files} == {identity}


def sample_job(out, tmp_path, store, mode="consistent", **knobs):
    recipe = load_generate_recipe(write_small_sample(tmp_path, **knobs), "tiny", "sample")
    return GenerateJob(recipe=recipe, mode=mode, model="tiny", out=out, store=store)


@pytest.mark.parametrize("mode", ["consistent", "composition"])
def test_sample_names_concepts_by_words_unless_multi_dc_is_there(
    run_tiny, out, tmp_path, tiny_store, mode
):
    run_tiny("grid" if mode == "consistent" else "grid-composition", out)
    prompts = read_adapter(out / "dc.safetensors")[0].prompts
    subjects = {prompt.partition(" [")[0] for prompt in prompts}
    frames = {"TOP LEFT", "TOP RIGHT", "BOTTOM LEFT", "BOTTOM RIGHT"}
    knobs = {"grids": 2, "concept_share": 1.0}
    generated = {}
    for strength in (0.0, 0.5):
        job = sample_job(out, tmp_path, tiny_store, mode, dc_strength=strength, **knobs)
        generated[strength] = [read_grid(path) for path in generate(job)]
        for grid in generated[strength]:
            found = set().union(*(tags_in(text) for row in grid.rows for text in row)) - frames
            assert bool(found) == (strength > 0)
            assert any(subject in grid.rows[0][0] for subject in subjects)
            assert ("tags" in grid.facts) == (strength > 0)
    # The vectors count where the LoRA is there, though it is weaker.
    tokens = out / "dc-tokens.safetensors"
    tensors, facts = read_weights(tokens)
    save_weights(tokens, {"tags": -tensors["tags"]}, facts, torch.float32)
    job = sample_job(out, tmp_path, tiny_store, mode, dc_strength=0.5, **knobs)
    again = [read_grid(path) for path in generate(job)]
    for one, other in zip(generated[0.5], again, strict=True):
        assert one.rows == other.rows
        assert not torch.equal(one.cells_KCFYX, other.cells_KCFYX)
    tokens.unlink()
    with pytest.raises(WeightsError, match="dc-tokens"):
        generate(job)


def test_sampled_concepts_are_combinations_that_were_never_learned(
    run_tiny, out, tmp_path, tiny_store
):
    run_tiny("grid", out)
    job = sample_job(out, tmp_path, tiny_store, grids=12, concept_share=1.0, dc_strength=0.5)
    from dcgrid.train.stages.samplers import WholeGridSampler

    generate_fn = sampler_of(WholeGridSampler, job)
    learned = [tags_in(prompt) for prompt in read_adapter(out / "dc.safetensors")[0].prompts]
    pairs = [tags_in(generate_fn.facts(number)["texts"][0][0]) for number in range(1, 13)]
    assert any(pair not in learned for pair in pairs)


def test_shipped_recipes():
    folder = shipped_dir() / "train"
    paper, mini = (
        load_generate_recipe(folder / "cells.toml", model, "cells") for model in ("paper", "mini")
    )
    assert (paper.dc_strength, mini.dc_strength) == (1.0, 1.0)
    assert paper.guidance_scale == 4.5
    assert len(paper.places) >= 3
    assert mini.shared_noise
    for name in ("grid", "grid-composition"):
        shares = [
            load_train_recipe(folder / f"{name}.toml", model).loss.made_share
            for model in ("paper", "mini")
        ]
        assert shares == [1.0, 0.0]


def test_the_shipped_places_are_words_of_mini():
    from dcgrid.models.native.model import weights_folder

    encoder = load_text_encoder("mini", weights_folder("mini") / "text.safetensors")
    recipe = load_generate_recipe(shipped_dir() / "train" / "cells.toml", "mini", "cells")
    assert [encoder.tokenizer.unknown_words(place) for place in recipe.places] == [()] * 4


def test_a_recipe_without_multi_dc_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="dc_strength"):
        load_generate_recipe(write_small_cells(tmp_path, dc_strength=0.0), "tiny", "cells")
    with pytest.raises(RecipeError, match="did you mean 'places'"):
        load_generate_recipe(write_small_cells(tmp_path, place=["here"]), "tiny", "cells")


def test_command(out, tmp_path, capsys):
    shared = ["train", "--stage", "cells", "--model", "tiny", "--out", str(out)]
    shared += ["--recipe", str(write_small_cells(tmp_path))]
    (out / "dc.safetensors").rename(out / "away")
    assert main([*shared, "--dry-run", "--grids", "2", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["stage"], plan["grids"]) == ("cells", 2)
    assert plan["folder"] == str(out / "cells-consistent")
    assert len(plan["missing"]) == 1
    assert "--stage dc" in plan["missing"][0]
    assert main(shared) == 4
    (out / "away").rename(out / "dc.safetensors")
    assert main([*shared, "--grids", "2", "--mode", "composition"]) == 0
    assert "2 grids in" in capsys.readouterr().out
    assert main([*shared, "--drop", "2", "--mode", "composition", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 1
    for wrong in (
        ["--steps", "3"],
        ["--resume"],
        ["--cache-only"],
        ["--drop", "1", "--grids", "2"],
    ):
        assert main([*shared, *wrong]) == 2, wrong


def test_a_dry_run_of_grid_names_the_folder_of_cells(out, tmp_path, capsys):
    recipe = write_small_recipe(tmp_path, "grid", loss={"made_share": 1.0})
    arguments = ["train", "--stage", "grid", "--model", "tiny", "--out", str(out)]
    arguments += ["--recipe", str(recipe), "--world", str(tmp_path / "nowhere"), "--dry-run"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "cells-consistent, from stage cells" in told
    assert "pictures" not in told


def test_the_base_of_the_facts_is_that_of_the_file(job_of, out):
    generate_fn = sampler_of(CellSampler, job_of())
    assert generate_fn.facts(1)["adapters"] == [
        hash_tensors(read_adapter(out / "dc.safetensors")[1])
    ]
    assert replace(job_of().recipe, seed=9).seed_of(3) == 90_003
