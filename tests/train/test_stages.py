"""Every stage end to end on the `tiny` preset, and what each may and may not change."""

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.models import ModelChoice, load_choice
from dcgrid.adapters.files import hash_tensors, load_adapter, read_adapter, write_adapter
from dcgrid.adapters.reading import read_sha256
from dcgrid.errors import OutputError, RecipeError, WeightsError
from dcgrid.io.locks import run_lock
from dcgrid.models.native import model as native_model
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.model import load_text_encoder
from dcgrid.models.native.presets import NATIVE
from dcgrid.models.registry import find_model
from dcgrid.models.tags import save_tags
from dcgrid.models.weights import load_weights, read_weights
from dcgrid.train import facts as facts_module
from dcgrid.train import networks as networks_module
from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.facts import train_facts
from dcgrid.train.job import TrainJob
from dcgrid.train.loop import LoopOptions
from dcgrid.train.plan import plan_stage
from dcgrid.train.resume import read_step
from dcgrid.train.stages import autoencoder_stage, base, grid_adapters, upsampler_stage
from dcgrid.train.stages.grids import GridStage

PARTS = ("autoencoder", "upsampler", "text", "dit", "fill")


@pytest.fixture
def trained(run_tiny, tmp_path):
    """Folder with the weights of all four stages, a few steps each."""
    for stage in ("autoencoder", "base", "fill", "upsampler"):
        run_tiny(stage, tmp_path / "tiny")
    return tmp_path / "tiny"


def tensors_of(folder, part):
    return read_weights(folder / f"{part}.safetensors")[0]


def same_tensors(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_four_stages_make_a_model_that_loads(trained):
    backbone = replace(find_model("tiny"), folder=trained).load()
    report = load_adapter(
        backbone.parts.dit,
        trained / "fill.safetensors",
        base="tiny",
        base_hash=hash_tensors(backbone.parts.dit.state_dict()),
    )
    assert report.matched == report.total > 0
    assert report.mean_delta > 0
    assert backbone.parts.text.unknown_words("dog face in heavy rain zyzzyva") == ("zyzzyva",)
    _, facts = read_weights(trained / "dit.safetensors")
    assert (facts["stage"], facts["steps"], facts["model"]) == ("base", "4", "tiny")


def test_no_temporary_and_no_lock_is_left(trained):
    files = {path.name for path in trained.rglob("*") if path.is_file()}
    assert files == {
        *(f"{part}.safetensors" for part in PARTS),
        STATE_NAME,
        "log.jsonl",
        "config.json",
    }


def test_weights_are_bf16_and_latents_have_unit_power(trained, tiny_store):
    tensors = tensors_of(trained, "autoencoder")
    kinds = {t.dtype for n, t in tensors.items() if t.ndim > 1}
    assert kinds == {torch.bfloat16}
    assert tensors["latent_scale"].min() > 0
    assert tensors["latent_mean"].dtype == torch.float32


def test_fill_trains_the_adapter_only(run_tiny, trained):
    before = {part: (trained / f"{part}.safetensors").read_bytes() for part in PARTS[:-1]}
    spec, tensors = read_adapter(trained / "fill.safetensors")
    assert all(".lora_" in name for name in tensors)
    (trained / "fill.safetensors").unlink()
    run_tiny("fill", trained)
    assert before == {p: (trained / f"{p}.safetensors").read_bytes() for p in PARTS[:-1]}
    from safetensors import safe_open

    with safe_open(trained / "fill" / STATE_NAME, "pt") as file:
        names = file.keys()
        learnt = [n for n in names if n.startswith("model.")]
    assert learnt
    assert all(".lora_A." in n or ".lora_B." in n for n in learnt)
    assert (spec.rank, spec.dropout, spec.base) == (4, 0.5, "tiny")
    assert spec.inference_noise_scale == spec.noise_scale == 1.0
    run_tiny("fill", trained, keys="[inference]\nnoise_scale = 0.7\ntime_shift = 1.5\n")
    spec, _ = read_adapter(trained / "fill.safetensors")
    assert (spec.noise_scale, spec.inference_noise_scale) == (1.0, 0.7)
    assert spec.inference_time_shift == 1.5


def test_composition_makes_an_adapter_of_its_own(run_tiny, trained):
    before = {part: (trained / f"{part}.safetensors").read_bytes() for part in PARTS}
    path, _ = run_tiny("fill-composition", trained)
    assert path == trained / "fill-composition.safetensors"
    assert before == {p: (trained / f"{p}.safetensors").read_bytes() for p in PARTS}
    spec, _ = read_adapter(path)
    assert (spec.name, spec.stage, spec.mode) == ("fill-composition", "fill", "composition")
    dit = replace(find_model("tiny"), folder=trained).load().parts.dit
    report = load_adapter(dit, path, base="tiny", base_hash=hash_tensors(dit.state_dict()))
    assert report.mean_delta > 0
    assert (trained / "fill-composition" / STATE_NAME).is_file()


def test_grid_trains_one_adapter_on_all_targets(run_tiny, trained):
    path, _ = run_tiny("grid", trained)
    spec, tensors = read_adapter(path)
    assert path == trained / "grid.safetensors"
    assert (spec.stage, spec.mode, spec.targets) == (
        "grid",
        "consistent",
        train_facts("tiny").targets.all,
    )
    assert any(t.any() for n, t in tensors.items() if ".lora_B." in n)


def test_grid_of_a_composition_trains_two_routed_adapters(run_tiny, trained, monkeypatch):
    """Each acts on its own source alone, so what one learns does not depend on the other's cell."""
    routes = []
    real = DiT.forward

    def spy(dit, noised, time_BKF, text, places, route_KA=None, estimate_BKCFYX=None):
        routes.append(route_KA)
        return real(dit, noised, time_BKF, text, places, route_KA, estimate_BKCFYX)

    monkeypatch.setattr(DiT, "forward", spy)
    path, _ = run_tiny("grid-composition", trained)
    assert path == trained / "grid-composition-a.safetensors"
    assert routes
    for route_KA in routes:
        assert route_KA.tolist() == [[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]]
    learned = {}
    for part in "ab":
        spec, tensors = read_adapter(trained / f"grid-composition-{part}.safetensors")
        assert (spec.mode, spec.targets) == ("composition", train_facts("tiny").targets.routed)
        assert all(".query." in name for name in tensors)
        learned[part] = tensors
    ups = [{n: t for n, t in learned[p].items() if ".lora_B." in n} for p in "ab"]
    assert all(any(t.any() for t in up.values()) for up in ups)
    assert not same_tensors(*ups)


@pytest.mark.parametrize("stage", ["grid", "fill", "fill-composition"])
def test_a_stage_on_multi_dc_needs_its_file_and_leaves_it_as_it_is(run_tiny, trained, stage):
    """Paper: sec. 3.2 and 3.3, whose losses have the frozen weights of Multi-DC in them."""
    with pytest.raises(WeightsError, match=r"dc\.safetensors"):
        run_tiny(stage, trained, loss={"dc_strength": 1.0})
    spec, sides = read_adapter(trained / "fill.safetensors")
    multi_dc = replace(spec, name="dc", stage="dc", tokens=("[a]",))
    write_adapter(multi_dc, sides, trained / "dc.safetensors")
    with pytest.raises(WeightsError, match=r"dc-tokens\.safetensors"):
        run_tiny(stage, trained, loss={"dc_strength": 1.0})
    text = load_text_encoder("tiny", trained / "text.safetensors")
    text.add_tags(["a"])
    save_tags(trained / "dc-tokens.safetensors", text, {})
    before = (trained / "dc.safetensors").read_bytes()
    plain, _ = run_tiny(stage, trained)
    spec_alone, alone = read_adapter(plain)
    on_top, _ = run_tiny(stage, trained, loss={"dc_strength": 0.5})
    assert (trained / "dc.safetensors").read_bytes() == before
    spec_on_top, tensors = read_adapter(on_top)
    assert not same_tensors(alone, tensors)
    assert tensors.keys() == alone.keys()
    assert (spec_alone.dc_strength, spec_alone.dc_sha256) == (0, "")
    assert spec_on_top.dc_strength == 0.5
    assert spec_on_top.dc_sha256 == read_sha256(trained / "dc.safetensors") != ""


def test_base_in_memory_is_bit_identical_after_fill(run_tiny, trained, monkeypatch):
    """The network that the adapter sat on, not only its file."""
    seen = {}

    class Watched(GridStage):
        def __init__(self, networks, *rest):
            super().__init__(networks, *rest)
            seen["dit"], seen["text"] = networks
            seen["before"] = {
                n: p.detach().clone()
                for net in networks
                for n, p in net.named_parameters()
                if ".lora_" not in n
            }

    monkeypatch.setattr(grid_adapters, "GridStage", Watched)
    monkeypatch.setattr(grid_adapters, "save_adapter", lambda *_: None)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
    run_tiny("fill", trained)
    after = {
        n: p
        for net in (seen["dit"], seen["text"])
        for n, p in net.named_parameters()
        if ".lora_" not in n
    }
    assert seen["before"]
    assert all(torch.equal(seen["before"][n], after[n]) for n in seen["before"])
    lora = [p for n, p in seen["dit"].named_parameters() if ".lora_B." in n]
    assert any(p.any() for p in lora)


@pytest.mark.parametrize("stage", ["base", "grid", "fill"])
def test_a_network_without_an_input_for_estimates_refuses_them(run_tiny, trained, stage):
    with pytest.raises(RecipeError, match="takes no earlier estimate"):
        run_tiny(stage, trained, loss={"self_conditioning": 0.5})


def test_weights_say_if_their_network_read_its_estimates(run_tiny, tmp_path, monkeypatch):
    config = PRESETS["tiny"]
    config = replace(config, dit=replace(config.dit, self_conditioning=True))
    monkeypatch.setattr(facts_module, "PRESETS", {**PRESETS, "tiny": config})
    monkeypatch.setattr(networks_module, "PRESETS", {**PRESETS, "tiny": config})
    monkeypatch.setattr(native_model, "NATIVE", {**NATIVE, "tiny": (NATIVE["tiny"][0], config)})
    for stage in ("autoencoder", "base"):
        run_tiny(stage, tmp_path)
    assert replace(find_model("tiny"), folder=tmp_path).load().spec.self_conditioning is False
    run_tiny("base", tmp_path, loss={"self_conditioning": 0.9})
    assert replace(find_model("tiny"), folder=tmp_path).load().spec.self_conditioning is True
    for stage in ("fill", "grid"):
        run_tiny(stage, tmp_path, loss={"self_conditioning": 0.9 * (stage == "grid")})
        spec, _ = read_adapter(tmp_path / f"{stage}.safetensors")
        assert spec.self_conditioning is (stage == "grid")


def test_decoder_only_keeps_the_latents(run_tiny, trained):
    before = tensors_of(trained, "autoencoder")
    run_tiny("autoencoder", trained, decoder_only=True)
    after = tensors_of(trained, "autoencoder")
    kept = ("encoder.", "linear.to_latents", "latent_")
    for name in before:
        assert torch.equal(before[name], after[name]) or not name.startswith(kept)
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith("decoder."))


@pytest.mark.parametrize("stage", ["autoencoder", "upsampler", "base", "grid", "fill"])
@pytest.mark.parametrize("steps", [10])
def test_stopped_and_resumed_equals_uninterrupted(run_tiny, tmp_path, monkeypatch, stage, steps):
    """Also the variant stock and dropout, which the run's own generator does not hold."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    earlier = {
        "autoencoder": (),
        "fill": ("autoencoder", "base"),
        "grid": ("autoencoder", "base"),
        "upsampler": ("autoencoder", "base", "fill"),
    }.get(stage, ("autoencoder",))
    for needed in earlier:
        run_tiny(needed, whole)
    if earlier:
        shutil.copytree(whole, parts)
    run_tiny(stage, whole, steps=steps)

    class Stop(Exception):  # noqa: N818 - stands for a kill
        pass

    name = "AutoencoderStage" if stage == "autoencoder" else "GridStage"
    name = "UpsamplerStage" if stage == "upsampler" else name
    modules = {"autoencoder": autoencoder_stage, "base": base, "upsampler": upsampler_stage}
    module = modules.get(stage, grid_adapters)
    original = getattr(module, name)
    for at in (2, 4, 7):
        calls = []

        class Dying(original):
            def loss(self, phase, generator, calls=calls, at=at):
                calls.append(1)
                if len(calls) > at:
                    raise Stop
                return super().loss(phase, generator)

        monkeypatch.setattr(module, name, Dying)
        monkeypatch.setattr(
            TrainJob,
            "loop",
            property(
                lambda job: LoopOptions(
                    folder=job.out / job.recipe.stage,
                    resume=job.resume,
                    save_every_s=0.0,
                    model=job.model,
                )
            ),
        )
        shutil.rmtree(parts / stage, ignore_errors=True)
        with pytest.raises(Stop):
            run_tiny(stage, parts, steps=steps)
        monkeypatch.undo()
        assert read_step(parts / stage) == at
        run_tiny(stage, parts, steps=steps, resume=True)
        for part in {"base": ("dit", "text")}.get(stage, (stage,)):
            assert same_tensors(tensors_of(whole, part), tensors_of(parts, part)), (part, at)


def test_a_checkpoint_without_the_stock_still_resumes(run_tiny, trained):
    """As those of before the stock was remembered."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = trained / "base" / STATE_NAME
    with safe_open(path, "pt") as file:
        metadata, names = file.metadata(), file.keys()
        tensors = {n: file.get_tensor(n) for n in names}
    dropped = [n for n in tensors if n.startswith("data.") or n == "rng_torch"]
    assert len(dropped) > 1
    save_file({n: t for n, t in tensors.items() if n not in dropped}, path, metadata)
    run_tiny("base", trained, steps=6, resume=True)
    assert read_step(trained / "base") == 6


def test_loss_goes_down_on_a_fixed_batch(run_tiny, trained, monkeypatch):
    losses = []

    class Fixed(GridStage):
        def loss(self, phase, generator):
            loss, figures = super().loss(phase, torch.Generator().manual_seed(9))
            losses.append(float(loss.detach()))
            return loss, figures

    monkeypatch.setattr(base, "GridStage", Fixed)
    run_tiny("base", trained, steps=60, rate="5e-3")
    # The first half has clips of one frame: another batch.
    assert losses[-1] < 0.7 * losses[30]


def test_autoencoder_loss_goes_down(run_tiny, tmp_path):
    _, reports = run_tiny("autoencoder", tmp_path, steps=80, rate="3e-3")
    assert reports[-1].figures["psnr"] > reports[-2].figures["psnr"] - 1
    model = Autoencoder(PRESETS["tiny"].autoencoder)
    load_weights(tmp_path / "autoencoder.safetensors", model)
    assert reports[-1].figures["loss"] < reports[0].figures["loss"] + 0.05


@pytest.mark.parametrize(("stage", "told"), [("base", "autoencoder"), ("fill", "autoencoder")])
def test_missing_earlier_part(run_tiny, tmp_path, stage, told):
    with pytest.raises(WeightsError, match=r"autoencoder\.safetensors") as caught:
        run_tiny(stage, tmp_path / "empty")
    assert f"--stage {told}" in caught.value.hint
    assert not (tmp_path / "empty").exists()


def test_fill_without_base_names_base(run_tiny, tmp_path):
    run_tiny("autoencoder", tmp_path)
    with pytest.raises(WeightsError, match=r"text\.safetensors") as caught:
        run_tiny("fill", tmp_path)
    assert "--stage base" in caught.value.hint


def test_missing_and_damaged_world(recipe_of, tmp_path, tiny_store):
    from dcgrid.synthetic.store import WorldStore

    with pytest.raises(WeightsError, match="photos") as caught:
        WorldStore(tmp_path / "nowhere")
    assert "make world" in caught.value.hint
    shutil.copytree(tiny_store, tmp_path / "store")
    (tmp_path / "store" / "footage.safetensors").unlink()
    assert WorldStore(tmp_path / "store").names["footage"] == []
    (tmp_path / "store" / "sprites.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(WeightsError, match=r"sprites\.safetensors is damaged"):
        WorldStore(tmp_path / "store")


def test_one_run_a_folder(run_tiny, trained, tmp_path):
    with run_lock(trained / "base"):
        assert (trained / "base" / "lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(OutputError, match=f"process {os.getpid()}"):
            run_tiny("base", trained)
        run_tiny("upsampler", trained)
    assert not (trained / "base" / "lock").exists()
    run_tiny("base", trained)


def test_a_killed_run_leaves_no_lock(tmp_path):
    code = (
        "import os, signal, sys, pathlib\n"
        "from dcgrid.io.locks import run_lock\n"
        "with run_lock(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -9
    assert (tmp_path / "lock").exists()
    with run_lock(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError), run_lock(tmp_path / "run"):
        pass


def test_shapes_that_do_not_fit_are_told(run_tiny, recipe_of, tmp_path, tiny_store):
    from dcgrid.train.settings import load_train_recipe

    path = recipe_of("base")
    text = path.read_text()
    for old, new, told in (
        ("frames = 5", "frames = 4", "4 n [+] 1 frames"),
        ("[32, 48]", "[32, 40]", "multiples of 16"),
    ):
        path.write_text(text.replace(old, new))
        job = TrainJob(
            recipe=load_train_recipe(path, "tiny"), model="tiny", out=tmp_path, store=tiny_store
        )
        with pytest.raises(RecipeError, match=told):
            plan_stage(job)


def test_plan_counts_what_the_stages_train(run_tiny, recipe_of, trained, tiny_store):
    from safetensors import safe_open

    from dcgrid.train.settings import load_train_recipe

    for stage in ("autoencoder", "base", "fill", "upsampler"):
        job = TrainJob(
            recipe=load_train_recipe(recipe_of(stage), "tiny"),
            model="tiny",
            out=trained,
            store=tiny_store,
            resume=True,
        )
        plan = plan_stage(job)
        with safe_open(trained / stage / STATE_NAME, "pt") as file:
            names = file.keys()
            counts = [file.get_tensor(n).numel() for n in names if n.startswith("model.")]
        assert sum(plan.trained.values()) == sum(counts), stage
        assert plan.steps_done == 4
        assert plan.seconds == 0.0
        assert plan.missing == ()
        state = (trained / stage / STATE_NAME).stat().st_size
        assert state < plan.disk_bytes + 60_000 + 200 * 5056
        assert any(f"from step {2}" in line for line in plan.lines())


@pytest.mark.parametrize(
    ("keys", "given", "first"),
    [
        ("", "clean", False),
        ("given_first = true", "clean", True),
        ('given = "replace"', "replace", False),
    ],
)
def test_an_adapter_says_how_given_cells_were_treated(run_tiny, trained, keys, given, first):
    run_tiny("fill", trained, keys=f"{keys}\n")
    spec, tensors = read_adapter(trained / "fill.safetensors")
    assert (spec.given, spec.given_first) == (given, first)
    choice = ModelChoice(model="tiny", weights_dir=trained, dtype="fp32", device="cpu")
    backbone = load_choice(choice)
    assert backbone.spec.given_first is backbone.parts.dit.given_first is first
    assert backbone.spec.per_cell_time is (given == "clean")
    if keys:
        run_tiny("fill", trained)
        assert not same_tensors(tensors, read_adapter(trained / "fill.safetensors")[1])
