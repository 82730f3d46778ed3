"""Stage `dc`: what learns when, what it learns from, and what it writes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from dcgrid.adapters.attach import adapter_names
from dcgrid.adapters.files import hash_tensors, load_adapter, read_adapter
from dcgrid.cli.main import main
from dcgrid.errors import RecipeError
from dcgrid.models.native.config import TINY
from dcgrid.models.native.dit import DiT
from dcgrid.models.registry import find_model
from dcgrid.models.tags import load_tags
from dcgrid.models.weights import read_weights
from dcgrid.train.evaluation import EVAL_TIMES
from dcgrid.train.job import Reporter, TrainJob
from dcgrid.train.loop import LoopOptions
from dcgrid.train.plan import plan_stage
from dcgrid.train.resume import read_step
from dcgrid.train.run_stage import run_stage
from dcgrid.train.settings import LogSettings, load_train_recipe
from dcgrid.train.stages import concepts
from dcgrid.train.stages.concepts import ConceptStage

MANIFEST = """
[[concepts]]
clip = "cat.mp4"
subject = "dog face"
motion = "movement"
identity = "Cat_identity"
motion_token = "motion_stroll"
duration = 0.5
[[concepts]]
clip = "sparks.mp4"
subject = "sparks"
motion = "motion"
scene = "in the dark"
role = "effect"
start = 0.2
duration = 0.5
"""
TOKENS = ("[Cat_identity]", "[sparks_identity]", "[motion_stroll]", "[motion_sparks]")


@pytest.fixture
def out(base_folder, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for part in ("autoencoder", "text", "dit"):
        shutil.copy(base_folder / f"{part}.safetensors", folder)
    return folder


@pytest.fixture
def manifest(clip, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("cat.mp4", "sparks.mp4"):
        shutil.copy(clip, folder / name)
    path = folder / "manifest.toml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def job_of(out, tiny_store, recipe_of, manifest):
    """Make a job of stage dc; `loss` overrides knobs, `log` keeps lines for a test."""

    def make(*, folder=None, loss=None, phases=None, steps=6, **more):
        recipe = load_train_recipe(recipe_of("dc", steps=steps), "tiny")
        recipe = replace(recipe, loss=replace(recipe.loss, **(loss or {})))
        recipe = replace(recipe, optim=replace(recipe.optim, ema_decay=0.0, weight_decay=0.1))
        if phases:
            recipe = replace(recipe, phases=phases)
        more.setdefault("concepts", manifest)
        return TrainJob(recipe=recipe, model="tiny", out=folder or out, store=tiny_store, **more)

    return make


def run(job, lines=None):
    say = (lambda line: None) if lines is None else lines.append
    reports = []
    return run_stage(job, Reporter(say=say, progress=reports.append)), reports


@pytest.fixture
def watched(monkeypatch):
    """Copies of everything trained, before each step; and the stage itself under "stage"."""
    seen = {"steps": [], "phases": []}

    class Watched(ConceptStage):
        def loss(self, phase, generator):
            seen["stage"] = self
            seen["steps"].append({n: p.detach().clone() for n, p in self.trained.items()})
            seen["phases"].append(phase.frames)
            return super().loss(phase, generator)

    monkeypatch.setattr(concepts, "ConceptStage", Watched)
    return seen


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_both_files_are_written_and_load_back(job_of, out):
    path, _ = run(job_of())
    assert path == out / "dc.safetensors"
    spec, tensors = read_adapter(path)
    assert (spec.stage, spec.form, spec.rank, spec.layout) == ("dc", "structured", 4, "1x1")
    assert spec.tokens == TOKENS
    assert spec.prompts[0] == "dog face [Cat_identity] performing movement [motion_stroll]"
    assert any("motion_in" in name and t.any() for name, t in tensors.items())
    backbone = replace(find_model("tiny"), folder=out).load()
    dit = backbone.parts.dit
    report = load_adapter(dit, path, base="tiny", base_hash=hash_tensors(dit.state_dict()))
    assert report.matched == report.total > 0
    assert report.mean_delta > 0
    assert load_tags(out / "dc-tokens.safetensors", backbone.parts.text) == tuple(
        token.strip("[]") for token in TOKENS
    )
    assert all(tag_E.any() for tag_E in backbone.parts.text.tags)
    assert backbone.parts.text.unknown_words(spec.prompts[0]) == ()


def test_each_phase_moves_its_own_side_and_tokens_only(job_of, watched):
    run(job_of(loss={"prior_share": 0.0}))
    steps = watched["steps"]
    assert watched["phases"] == [1, 1, 1, 5, 5, 5]
    last = {n: p.detach() for n, p in watched["stage"].trained.items() if n.startswith("text.")}
    first_names = moved(steps[0], steps[3])
    sides = {name.rsplit(".", 1)[-1] for name in first_names if name.startswith("dit.")}
    assert sides == {"appearance_in", "weight"}
    assert {n for n in first_names if n.startswith("text.")} == {"text.tags.0", "text.tags.1"}
    assert all(n in first_names for n in steps[0] if n.endswith("appearance_in"))
    # Nothing of the look moves in the sequence: no moments and no weight decay act on it.
    second_names = moved(steps[3], steps[5])
    assert all("motion_in" in n for n in second_names if n.startswith("dit."))
    assert {n for n in steps[0] if n.endswith("motion_in")} <= second_names
    assert moved({n: steps[3][n] for n in last}, last) == {"text.tags.2", "text.tags.3"}
    assert any(steps[3][n].any() for n in first_names)


def test_tokens_learn_at_their_own_rate(job_of, watched):
    run(job_of(loss={"prior_share": 0.0, "caption_dropout": 0.0, "token_rate": 0.0}))
    stage = watched["stage"]
    assert not any(tag_E.any() for tag_E in stage.text.tags)
    run(job_of(loss={"prior_share": 0.0, "caption_dropout": 0.0, "token_rate": 1e-5}))
    tags = torch.stack(list(watched["stage"].text.tags))
    # Adam's steps are as long as the rate at most (a little more while it warms up).
    assert 0 < tags.abs().max() < 6 * 1.5e-5


@pytest.mark.parametrize("at", [2, 3, 4])
def test_resumed_at_the_switch_is_bit_exact(job_of, out, tmp_path, monkeypatch, at):
    parts = tmp_path / "parts"
    shutil.copytree(out, parts)
    run(job_of(loss={"prior_share": 0.3}))

    class Stop(Exception):  # noqa: N818 - stands for a kill
        pass

    calls = []

    class Dying(ConceptStage):
        def loss(self, phase, generator):
            calls.append(1)
            if len(calls) > at:
                raise Stop
            return super().loss(phase, generator)

    options = property(
        lambda job: LoopOptions(
            folder=job.out / "dc", resume=job.resume, save_every_s=0.0, model=job.model
        )
    )
    with monkeypatch.context() as patched:
        patched.setattr(concepts, "ConceptStage", Dying)
        patched.setattr(TrainJob, "loop", options)
        with pytest.raises(Stop):
            run(job_of(folder=parts, loss={"prior_share": 0.3}))
    assert read_step(parts / "dc") == at
    run(job_of(folder=parts, loss={"prior_share": 0.3}, resume=True))
    for name in ("dc.safetensors", "dc-tokens.safetensors"):
        whole, resumed = (read_weights(folder / name)[0] for folder in (out, parts))
        assert not moved(whole, resumed), name


def with_eval(job):
    log = LogSettings(eval_every=2, eval_grids=2, tensorboard=False)
    return replace(job, recipe=replace(job.recipe, log=log))


def test_eval_losses_are_of_the_concepts_and_leave_no_trace(job_of, out, tmp_path):
    """Weights bit for bit the same; dropout of both sides, tokens and priors included."""
    without = tmp_path / "without"
    shutil.copytree(out, without)
    run(with_eval(job_of(loss={"prior_share": 0.3})))
    run(job_of(folder=without, loss={"prior_share": 0.3}))
    for name in ("dc.safetensors", "dc-tokens.safetensors"):
        one, other = (read_weights(folder / name)[0] for folder in (out, without))
        assert not moved(one, other), name
    measured = [line for line in _log_of(out) if "eval" in line]
    assert [line["step"] for line in measured] == [2, 4, 6]
    assert all(
        line.keys() == {"step", "eval", *(f"eval_{t}" for t in EVAL_TIMES)} for line in measured
    )
    assert measured[0]["eval"] != measured[-1]["eval"]
    assert not any("eval" in line for line in _log_of(without))


def _log_of(folder):
    return [json.loads(line) for line in (folder / "dc" / "log.jsonl").read_text().splitlines()]


def test_eval_losses_are_the_flow_loss_by_hand(job_of, watched, monkeypatch):
    """With a network that says the target itself the loss is 0; with one that says 0, its power."""
    run(job_of(loss={"prior_share": 0.0}))
    stage = watched["stage"]
    stage.dit.float()  # the end of a run leaves it in the file's format
    examples = stage.data.examples[stage.recipe.phases[-1]]
    before = [{n: p.requires_grad for n, p in stage.trained.items()}, stage.dit.training]
    with torch.no_grad():
        first, again = stage.evaluate(1), stage.evaluate(1)
    assert first == again
    assert before == [{n: p.requires_grad for n, p in stage.trained.items()}, stage.dit.training]
    cells = examples[0].latents_NCFYX[:1, None]
    noise = torch.randn(cells.shape, generator=torch.Generator().manual_seed(20_001))
    scale = stage.recipe.loss.noise_scale
    asked = []

    def nothing(batch, noise, time_BKF, generator=None):
        asked.append((batch, noise, float(time_BKF.mean()), generator))
        return torch.zeros_like(noise)

    monkeypatch.setattr(stage, "_velocity", nothing)
    power = float((scale * noise - cells).square().mean())
    assert stage.evaluate(1) == {time: pytest.approx(power) for time in EVAL_TIMES}
    batch, drawn, time, generator = asked[0]
    assert (time, batch.rows, generator) == (pytest.approx(0.1), [[examples[0].text]], None)
    assert torch.equal(batch.cells_BKCFYX, cells)
    assert torch.equal(drawn, noise)
    # No more concepts than there are.
    asked.clear()
    stage.evaluate(50)
    assert len(asked) == len(EVAL_TIMES) * len(examples)


def test_prior_batches_are_of_the_bare_base_and_carry_no_token(job_of, watched, monkeypatch):
    sampled = []

    def watched_sample(velocity, cells_BKCFYX, *rest):
        from dcgrid.flow.sampler import sample

        sampled.append(tuple(cells_BKCFYX.shape))
        return sample(velocity, cells_BKCFYX, *rest)

    monkeypatch.setattr("dcgrid.pipelines.sampling.sample", watched_sample)
    run(job_of(loss={"prior_share": 1.0, "caption_dropout": 0.0}))
    stage = watched["stage"]
    assert len(sampled) == 4, "one for each concept and phase"
    assert not any(tag_E.any() for tag_E in stage.text.tags), "no prior names a tag"
    generator = torch.Generator().manual_seed(0)
    for phase in stage.recipe.phases:
        cells, rows = stage.draw(phase, generator)
        assert cells.isfinite().all()
        assert all("[" not in row[0] for row in rows)
        assert {row[0] for row in rows} <= {one.text for one in stage.data.priors[phase]}
    texts = [one.text for one in stage.data.priors[stage.recipe.phases[1]]]
    assert texts == ["dog face performing movement", "sparks performing motion in the dark"]
    # The same again, from the cache.
    run(job_of(loss={"prior_share": 1.0, "caption_dropout": 0.0}))
    assert len(sampled) == 4


def test_the_cache_finds_what_is_unchanged_and_nothing_else(job_of, manifest, out):
    lines = []
    job = job_of(cache_only=True, loss={"prior_share": 0.0})
    path, _ = run(job, lines)
    assert path == out / "cache"
    assert not (out / "dc.safetensors").exists()
    run(job, lines)
    clip = manifest.parent / "cat.mp4"
    clip.write_bytes(clip.read_bytes() + b"\0" * 16)
    run(job, lines)
    manifest.write_text(MANIFEST.replace("start = 0.2", "start = 0.3"))
    run(job, lines)
    told = [line for line in lines if line.startswith("cache:")]
    # Both clips have the same bytes, but not the same start.
    assert told == [
        "cache: 0 found, 4 made",
        "cache: 4 found, 0 made",
        "cache: 2 found, 2 made",
        "cache: 2 found, 2 made",
    ]


def test_sets_hold_every_frame_alone_and_sequences_the_whole_clip(job_of, watched):
    run(job_of(loss={"prior_share": 0.0}))
    stage = watched["stage"]
    first, second = stage.recipe.phases
    for pictures, clip in zip(stage.data.examples[first], stage.data.examples[second], strict=True):
        assert pictures.latents_NCFYX.shape[0] == 5
        assert pictures.latents_NCFYX.shape[2] == 1
        assert clip.latents_NCFYX.shape[0] == 1
        assert clip.latents_NCFYX.shape[2] == 2
        assert "performing" not in pictures.text
        assert "performing" in clip.text
    # Frame 0 of a causal codec is a picture alone.
    alone = stage.data.examples[first][0].latents_NCFYX[0, :, 0]
    assert alone.shape == (4, 4, 4)


def test_a_manifest_with_problems_stops_before_anything_is_written(job_of, manifest, out):
    manifest.write_text(MANIFEST.replace("cat.mp4", "dog.mp4").replace('motion = "motion"', ""))
    before = sorted(out.iterdir())
    for start in (run_stage, lambda job, reporter: plan_stage(job)):
        with pytest.raises(RecipeError, match="2 problems"):
            start(job_of(), Reporter(say=lambda line: None, progress=lambda progress: None))
    assert sorted(out.iterdir()) == before


def test_a_clip_in_wrong_words_is_told(job_of, manifest):
    manifest.write_text(MANIFEST.replace("dog face", "zyzzyva"))
    lines = []
    run(job_of(loss={"prior_share": 0.0}, steps=2), lines)
    assert any("zyzzyva" in line and "never saw" in line for line in lines)


def test_concepts_of_the_world_are_eleven_with_tokens_of_their_own(job_of):
    job = job_of(concepts=None, loss={"prior_share": 0.0}, steps=2)
    assert plan_stage(job).trained["tokens"] == 22 * TINY.text.width
    path, _ = run(job)
    spec, _ = read_adapter(path)
    assert len(spec.tokens) == len(set(spec.tokens)) == 22
    assert len(spec.prompts) == 11
    assert sum("against a dark backdrop" in prompt for prompt in spec.prompts) == 6
    first = read_weights(path)[0]
    run(job)
    assert not moved(first, read_weights(path)[0])


def test_plan_counts_what_is_trained(job_of, out):
    from safetensors import safe_open

    job = job_of(loss={"prior_share": 0.0})
    plan = plan_stage(job)
    run(job)
    with safe_open(out / "dc" / "state.safetensors", "pt") as file:
        names = file.keys()
        counts = [file.get_tensor(n).numel() for n in names if n.startswith("model.")]
    assert sum(plan.trained.values()) == sum(counts)
    assert plan.trained["tokens"] == 4 * TINY.text.width


def test_a_recipe_that_the_network_cannot_follow_is_refused(job_of, out):
    before = sorted(out.iterdir())
    with pytest.raises(RecipeError, match="takes no earlier estimate"):
        run(job_of(loss={"self_conditioning": 0.9}))
    assert sorted(out.iterdir()) == before


def test_an_estimate_reaches_the_output_of_a_training_step(job_of, watched, monkeypatch):
    """The second call reads the data that the first one points to, and says another velocity."""
    run(job_of(loss={"prior_share": 0.0}, steps=2))
    stage, calls = watched["stage"], []
    config = replace(TINY.dit, self_conditioning=True)
    recipe = replace(stage.recipe, loss=replace(stage.recipe.loss, self_conditioning=1.0))
    torch.manual_seed(3)
    conditioned = DiT(config)
    conditioned.latent_spread.copy_(stage.dit.latent_spread)
    for parameter in conditioned.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    forward = conditioned.forward

    def watched_forward(noised, time_BKF, text, places, route_KA, estimate_BKCFYX):
        found = forward(noised, time_BKF, text, places, route_KA, estimate_BKCFYX)
        calls.append((noised, time_BKF, estimate_BKCFYX, found))
        return found

    monkeypatch.setattr(conditioned, "forward", watched_forward)
    stage.dit, stage.recipe, stage._train_part = conditioned, recipe, lambda part: None
    loss, _ = stage.loss(recipe.phases[1], torch.Generator().manual_seed(0))
    (noised, time_BKF, none, first), (again, _, estimate, second) = calls
    assert none is None
    assert torch.equal(noised, again)
    data = noised - time_BKF[:, :, None, :, None, None] * first
    assert torch.allclose(estimate, data, atol=1e-5)
    assert not estimate.requires_grad
    assert (second - first).abs().max() > 1e-3
    assert loss.requires_grad
    loss.backward()
    inputs = conditioned.patch_in.weight.grad.chunk(2, dim=1)
    assert all(side.any() for side in inputs)


def test_two_concepts_can_be_learnt_by_heart(job_of, watched, monkeypatch):
    losses = []
    original = concepts.ConceptStage

    class Fixed(original):
        def loss(self, phase, generator):
            loss, figures = super().loss(phase, torch.Generator().manual_seed(9))
            losses.append(float(loss.detach()))
            return loss, figures

    monkeypatch.setattr(concepts, "ConceptStage", Fixed)
    knobs = dict.fromkeys(("prior_share", "appearance_dropout", "motion_dropout"), 0.0)
    job = job_of(loss={**knobs, "token_rate": 1e-2, "rank": 8.0}, steps=160)
    optim = replace(job.recipe.optim, learning_rate=2e-2, weight_decay=0.0, cooldown=0.0)
    run(replace(job, recipe=replace(job.recipe, optim=optim)))
    # Both halves: the set with A1 and B1, then the sequence with B2 alone.
    assert losses[79] < 0.8 * losses[0]
    assert losses[-1] < 0.9 * losses[80]


def test_the_base_stays_as_it_is(job_of, out, watched):
    before = {p: (out / f"{p}.safetensors").read_bytes() for p in ("autoencoder", "text", "dit")}
    run(job_of())
    assert before == {p: (out / f"{p}.safetensors").read_bytes() for p in before}
    assert adapter_names(watched["stage"].dit) == ["dc"]


def test_a_damaged_cache_is_made_anew(job_of, out):
    job = job_of(cache_only=True, loss={"prior_share": 0.0})
    run(job)
    for path in (out / "cache").iterdir():
        path.write_bytes(b"\0" * 9)
    lines = []
    run(job, lines)
    assert "cache: 0 found, 4 made, 4 of them damaged before" in lines


def test_the_command_takes_concepts(out, manifest, recipe_of, tiny_store, capsys):
    arguments = ["train", "--model", "tiny", "--out", str(out), "--world", str(tiny_store)]
    dc_arguments = [*arguments, "--stage", "dc", "--recipe", str(recipe_of("dc"))]
    code = main([*dc_arguments, "--concepts", str(manifest), "--cache-only", "--quiet"])
    assert (code, sorted(p.name for p in out.iterdir())[0]) == (0, "autoencoder.safetensors")
    assert (out / "cache").is_dir()
    assert main([*dc_arguments, "--concepts", str(manifest)]) == 0
    assert capsys.readouterr().out == f"wrote {out / 'dc.safetensors'}\n"
    shutil.copy(manifest.parent / "cat.mp4", manifest.parent / "spare.wmv")
    assert main([*dc_arguments, "--concepts", str(manifest.parent), "--dry-run"]) == 0
    line = f"concepts  2 in {manifest.parent}; not used: spare.wmv"
    assert line in capsys.readouterr().out.splitlines()
    # An earlier run is no reason not to fill the cache.
    assert main([*dc_arguments, "--concepts", str(manifest), "--cache-only", "--quiet"]) == 0
    for option in (["--concepts", str(manifest)], ["--cache-only"]):
        assert main([*arguments, "--stage", "fill", *option]) == 2
        assert f"{option[0]} is for stage dc, not fill" in capsys.readouterr().err
