"""Validation videos: what is in them, and that a run with them is the run without."""

import json
import shutil
from dataclasses import replace

import av
import pytest
import torch

from dcgrid.adapters.attach import routed_layers
from dcgrid.adapters.files import read_adapter, write_adapter
from dcgrid.cli.main import main
from dcgrid.errors import OutputError
from dcgrid.flow.noise import draw_noise
from dcgrid.models.native.model import load_text_encoder
from dcgrid.models.native.presets import MINI_SPEC
from dcgrid.models.registry import find_model
from dcgrid.models.tags import save_tags
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.models.weights import read_weights
from dcgrid.synthetic import world_clips
from dcgrid.synthetic.effects import render_effect
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips
from dcgrid.train import validation as module
from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.job import TrainJob
from dcgrid.train.stages.grids import GridStage
from dcgrid.train.validation import LiveNetworks, Validation, as_they_were, generate_as_edit

ON = "eval_every = 0\ntensorboard = false\nvalidate_every = 2\n"
OFF = "eval_every = 0\ntensorboard = false\n"
STAGES = ["base", "grid", "grid-composition", "fill", "fill-composition"]


@pytest.fixture
def based(run_tiny, tmp_path):
    """Folder with what stages grid and fill need."""
    for stage in ("autoencoder", "base"):
        run_tiny(stage, tmp_path / "based")
    return tmp_path / "based"


@pytest.fixture
def networks_of(based):
    """The networks of a run, as a stage has them."""
    from dcgrid.train.networks import load_autoencoder, load_base

    cpu = torch.device("cpu")
    base = load_base("tiny", based, cpu)
    return LiveNetworks(
        spec=find_model("tiny").spec,
        dit=base.dit,
        text=base.text,
        autoencoder=load_autoencoder("tiny", based, cpu),
        noise_scale=1.0,
        time_shift=3.0,
    )


def state_of(folder, name):
    """Everything of a checkpoint: weights, average, moments, random states, stock."""
    from safetensors import safe_open

    with safe_open(folder / name / STATE_NAME, "pt") as file:
        names = file.keys()
        return {key: file.get_tensor(key) for key in names}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def folders(based, tmp_path):
    return [shutil.copytree(based, tmp_path / name) for name in ("on", "off")]


def rude_generate_fn(networks, grid):
    """Draw from all chance there is, turn everything round, and fail."""
    torch.rand(7)
    for network in (networks.dit, networks.text, networks.autoencoder):
        network.train(not network.training)
        for parameter in network.parameters():
            parameter.requires_grad_(not parameter.requires_grad)
    raise RuntimeError("no generate")


@pytest.mark.parametrize("generate_fn", [generate_as_edit, rude_generate_fn])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_with_them_is_the_run_without_bit_for_bit(
    run_tiny, based, tmp_path, stage, generate_fn
):
    """Weights, moments and chance; dropout and the stock of variants included."""
    on, off = folders(based, tmp_path)
    said = []
    knobs = {"steps": 5, "loss": {"dropout": 0.5}} if stage != "base" else {"steps": 5}
    run_tiny(stage, on, log=ON, generate=generate_fn, say=said.append, **knobs)
    run_tiny(stage, off, log=OFF, **knobs)
    assert same(state_of(on, stage), state_of(off, stage))
    parts = ("-a", "-b") if stage == "grid-composition" else ("",)
    for part in parts:
        name = f"{'dit' if stage == 'base' else stage}{part}.safetensors"
        assert same(read_weights(on / name)[0], read_weights(off / name)[0])
    files = sorted(path.name for path in (on / stage).rglob("0*"))
    if generate_fn is rude_generate_fn:
        assert files == []
        assert [line for line in said if "no validation video of step 4" in line]
    else:
        assert files == [f"00000{n}.{end}" for n in (2, 4, 5) for end in ("mp4", "png")]
        assert not [line for line in said if "validation" in line]
    assert not (off / stage / "validation").exists()
    log = [json.loads(line) for line in (on / stage / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [5]


def test_cells_are_sampled_as_the_file_that_comes_out_says(run_tiny, based, monkeypatch):
    """And without Multi-DC, which samplers leave away; after it, training has it again."""
    seen, strengths = [], []
    real = NetworkBackbone.use_sampling

    def spy(backbone, **numbers):
        scales = [layer.scaling["dc"] for _, layer in routed_layers(backbone.network)]
        seen.append((numbers, scales))
        return real(backbone, **numbers)

    real_loss = GridStage.loss

    def loss(stage, phase, generator):
        strengths.extend(layer.scaling["dc"] for _, layer in routed_layers(stage.dit))
        return real_loss(stage, phase, generator)

    run_tiny("fill", based)
    spec, sides = read_adapter(based / "fill.safetensors")
    write_adapter(
        replace(spec, name="dc", stage="dc", tokens=("[a]",)), sides, based / "dc.safetensors"
    )
    text = load_text_encoder("tiny", based / "text.safetensors")
    text.add_tags(["a"])
    save_tags(based / "dc-tokens.safetensors", text, {})
    monkeypatch.setattr(NetworkBackbone, "use_sampling", spy)
    monkeypatch.setattr(GridStage, "loss", loss)
    keys = "[inference]\nnoise_scale = 1.8\ntime_shift = 1.5\n"
    knobs = {"noise_scale": 1.9, "dc_strength": 0.5}
    run_tiny("fill", based, log=ON, generate=generate_as_edit, keys=keys, loss=knobs)
    assert [numbers for numbers, _ in seen] == 4 * [
        {"noise_scale": 1.8, "time_shift": 1.5, "self_conditioning": False}
    ]
    assert {scale for _, scales in seen for scale in scales} == {0.0}
    assert set(strengths) == {0.5 * spec.scale}


def test_resumed_after_a_validation_is_the_same(run_tiny, based, tmp_path, monkeypatch):
    whole, parts = folders(based, tmp_path)
    run_tiny("fill", whole, steps=5, log=ON, generate=generate_as_edit)
    real, calls = GridStage.loss, []

    def dying(self, phase, generator):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(self, phase, generator)

    monkeypatch.setattr(GridStage, "loss", dying)
    monkeypatch.setattr(TrainJob, "loop", property(_saving_loop))
    with pytest.raises(KeyboardInterrupt):
        run_tiny("fill", parts, steps=5, log=ON, generate=generate_as_edit)
    monkeypatch.undo()
    second = parts / "fill" / "validation" / "000002.png"
    before = second.read_bytes()
    run_tiny("fill", parts, steps=5, log=ON, generate=generate_as_edit, resume=True)
    assert same(state_of(whole, "fill"), state_of(parts, "fill"))
    assert second.read_bytes() == before
    last = "fill/validation/000005.png"
    assert (whole / last).read_bytes() == (parts / last).read_bytes()
    # A new run shows nothing of the one before it.
    run_tiny("fill", parts, steps=2, log=ON, generate=generate_as_edit)
    assert not (parts / last).exists()


def _saving_loop(job):
    from dcgrid.train.loop import LoopOptions

    folder = job.out / job.recipe.run_name
    return LoopOptions(folder=folder, resume=job.resume, save_every_s=0.0, model=job.model)


@pytest.mark.parametrize(("stage", "given"), [("fill", 1), ("fill-composition", 2), ("grid", 0)])
def test_what_is_asked_of_the_generate_fn(run_tiny, based, stage, given):
    """The same grids every time, with averaged weights, networks at rest."""
    asked = []

    def generate_fn(networks, grid):
        parts = (networks.dit, networks.text, networks.autoencoder)
        assert not any(m.training for part in parts for m in part.modules())
        learnt = {n: p.clone() for n, p in networks.dit.named_parameters() if ".lora_" in n}
        asked.append((grid, learnt))
        return [torch.zeros(*grid.size_THW, 3, dtype=torch.uint8)] * 4

    run_tiny(stage, based, steps=4, log=ON, generate=generate_fn)
    (one, early), (two, _), (again, late), _ = asked
    assert one.size_THW == (5, 32, 32)
    assert len(one.given) == given
    assert (one.subject, one.seed) == (again.subject, again.seed)
    assert one.seed != two.seed
    for clip, other in zip(one.given, again.given, strict=True):
        assert torch.equal(clip, other)
        assert clip.shape == (5, 32, 32, 3)
    averages = {n: t for n, t in state_of(based, stage).items() if n.startswith("ema.")}
    assert averages
    for name, average in averages.items():
        assert torch.equal(late[name.removeprefix("ema.")], average)
    assert not same(early, late)
    generated = {"fill": {1, 2, 3}, "fill-composition": {2, 3}, "grid": set()}[stage]
    assert one.truth.keys() == generated
    assert bool(one.effects) == (stage != "fill-composition")


def test_sheet_and_video_hold_the_generated_cells(run_tiny, based):
    """Read back by libav: cell k is a flat grey of its own."""

    def generate_fn(networks, grid):
        clip = torch.ones(*grid.size_THW, 3)
        return [(clip * 50 * (cell + 1)).to(torch.uint8) for cell in range(4)]

    run_tiny("grid", based, steps=2, log=ON, generate=generate_fn)
    stem = based / "grid" / "validation" / "000002"
    with av.open(str(stem.with_suffix(".mp4"))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 12
    assert len(frames) == 5
    assert frames[0].shape == (2 * 64, 64, 3)
    for row, column, level in ((16, 16, 50), (16, 48, 100), (48, 16, 150), (112, 48, 200)):
        assert abs(int(frames[3][row, column, 0]) - level) <= 2
    with av.open(str(stem.with_suffix(".png"))) as container:
        (sheet,) = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for level in (50, 100, 150, 200):
        # Two grids, four frames of a cell.
        assert (sheet == level).all(-1).sum() >= 2 * 4 * 32 * 32


def test_the_truth_is_made_of_the_noise_that_is_generated_from(networks_of, tiny_store, recipe_of):
    """With the moving noise of mini, so that drops of truth and generated cell can be compared."""
    from dcgrid.train.settings import load_train_recipe

    recipe = load_train_recipe(recipe_of("fill"), "tiny")
    last = replace(recipe.phases[-1], sizes=((96, 160),), frames=9)
    recipe = replace(recipe, phases=(*recipe.phases[:-1], last))
    world = WorldClips(WorldStore(tiny_store))
    seen = []

    def spy(name, clip_CTHW, *, generator, fps, scale, drift_MFYX, matte_THW):
        seen.append(drift_MFYX)
        assert (fps, scale) == (MINI_SPEC.fps, 1)
        return render_effect(
            name, clip_CTHW, generator=generator, drift_MFYX=drift_MFYX, matte_THW=matte_THW
        )

    networks = replace(networks_of, spec=MINI_SPEC)
    validation = Validation(tiny_store, recipe, networks, world, rude_generate_fn, print)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(world_clips, "render_effect", spy)
        grid = validation._draw(0)
    noise = draw_noise(
        (1, 4, MINI_SPEC.latent_channels, 3, 12, 20), grid.seed, motion=MINI_SPEC.noise_motion
    )
    moving = len(MINI_SPEC.noise_motion)
    for cell, drift in enumerate(seen, start=1):
        assert torch.equal(drift, noise[0, cell, -moving:])
        assert not torch.equal(grid.truth[cell], grid.given[0])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OutputError("the disk is full", hint="free some"), "the disk is full"),
        (MemoryError("far too large"), "MemoryError: far too large"),
    ],
)
def test_a_picture_that_cannot_be_written_is_told(run_tiny, based, monkeypatch, error, told):
    said = []

    def failing(*_, **__):
        raise error

    monkeypatch.setattr(module, "write_contact_sheet", failing)
    path, reports = run_tiny(
        "fill", based, steps=2, log=ON, generate=generate_as_edit, say=said.append
    )
    assert path.is_file()
    assert reports[-1].step == 2
    assert [line for line in said if "no validation video of step 2" in line and told in line]


def test_a_file_in_the_way_of_the_folder(run_tiny, based):
    said = []
    (based / "fill").mkdir()
    (based / "fill" / "validation").write_text("mine")
    run_tiny("fill", based, steps=2, log=ON, generate=generate_as_edit, say=said.append)
    assert [line for line in said if "no validation video of step 2" in line]
    assert (based / "fill" / "validation").read_text() == "mine"


def test_an_interrupt_while_generating_saves_the_step(run_tiny, based):
    def interrupted(networks, grid):
        networks.dit.train()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tiny("fill", based, steps=6, log=ON, generate=interrupted)
    from dcgrid.train.resume import read_step

    assert read_step(based / "fill") == 2


def test_networks_are_as_they_were(networks_of):
    dit = networks_of.dit.train()
    first, second, *_ = dit.parameters()
    first.requires_grad_(True)

    def rude():
        assert not dit.training
        rude_generate_fn(networks_of, None)

    with pytest.raises(RuntimeError, match="no generate"), as_they_were(networks_of):
        rude()
    assert dit.training
    assert not networks_of.text.training
    assert (first.requires_grad, second.requires_grad) == (True, False)


def test_without_a_painter_or_steps_there_is_nothing(run_tiny, based):
    run_tiny("fill", based, steps=2, log=ON)
    run_tiny("fill", based, steps=2, log=OFF, generate=rude_generate_fn)
    assert not (based / "fill" / "validation").exists()


def test_the_command_hands_in_the_generate_fn(run_tiny, recipe_of, tiny_store, tmp_path, capsys):
    run_tiny("autoencoder", tmp_path)
    recipe = recipe_of("base", steps=3, log=ON)
    options = ["--model", "tiny", "--out", tmp_path, "--world", tiny_store, "--recipe", recipe]
    assert main(["train", "--stage", "base", *map(str, options)]) == 0
    assert "no validation video" not in capsys.readouterr().err
    files = sorted(path.name for path in (tmp_path / "base" / "validation").iterdir())
    assert files == ["000002.mp4", "000002.png", "000003.mp4", "000003.png"]


@pytest.mark.parametrize(
    ("keys", "clean", "first"),
    [
        ("", True, False),
        ("given_first = true\n", True, True),
        ('given = "replace"\n', False, False),
    ],
)
def test_given_cells_are_treated_as_in_training(run_tiny, based, monkeypatch, keys, clean, first):
    seen = []

    def watch(backbone, job, given, size_THW):
        spec = backbone.spec
        seen.append((spec.per_cell_time, spec.given_first, backbone.parts.dit.given_first))
        return generated(backbone, job, given, size_THW)

    generated = module.generate_job
    monkeypatch.setattr(module, "generate_job", watch)
    run_tiny("fill", based, steps=2, log=ON, generate=generate_as_edit, keys=keys)
    assert set(seen) == {(clean, first, first)}
