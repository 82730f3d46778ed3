"""Variants and grids: what is drawn, what is given, and what the loss covers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.text import TextEncoder, WordTokenizer
from dcgrid.recipes import load_effect, load_layout
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.fusion import ELEMENTS
from dcgrid.synthetic.moves import ANALOGY_WORDS, MOVES
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips
from dcgrid.train.data import variants as variants_module
from dcgrid.train.data.captions import Captions
from dcgrid.train.data.variants import VARIANTS, FusionPool, VariantPool
from dcgrid.train.settings import Phase, load_train_recipe
from dcgrid.train.stages.flow_matching import GRID, drawn_estimate
from dcgrid.train.stages.grids import GridStage

PHASE = Phase(until=1.0, frames=5, sizes=((32, 32), (32, 48)), batch=3)
TINY = PRESETS["tiny"]


@pytest.fixture
def pool(tiny_store):
    torch.manual_seed(2)
    return VariantPool(WorldClips(WorldStore(tiny_store)), Autoencoder(TINY.autoencoder))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_a_variant_set_is_a_clip_and_effects_on_it(pool):
    for variants in pool.draw(PHASE, seeded(0), fresh=3):
        assert variants.effects[0] == ""
        assert set(variants.effects[1:]) <= set(EFFECT_NAMES)
        assert variants.latents_VCFYX.shape[:3] == (VARIANTS, 4, 2)
        assert variants.latents_VCFYX.dtype == torch.float32
        assert not variants.latents_VCFYX.requires_grad
        plain = variants.latents_VCFYX[0]
        assert all(not torch.equal(plain, variant) for variant in variants.latents_VCFYX[1:])


def test_sets_of_a_batch_have_one_shape_and_sizes_vary(pool):
    generator, shapes = seeded(1), set()
    for _ in range(8):
        (shape,) = {p.latents_VCFYX.shape for p in pool.draw(PHASE, generator, fresh=0)}
        shapes.add(shape[3:])
    assert shapes == {(4, 4), (4, 6)}


@pytest.fixture
def moved_pool(pool):
    return VariantPool(pool.world, pool.autoencoder, moved_share=1.0)


def test_moved_sets_are_a_clip_and_views_of_it_that_words_or_other_variants_determine(moved_pool):
    generator, kinds = seeded(3), set()
    for _ in range(8):
        for variants in moved_pool.draw(PHASE, generator, fresh=3):
            kinds.add(variants.analogy)
            assert len(variants.moves) == len(variants.effects) == len(variants.latents_VCFYX)
            assert variants.moves[0] == variants.effects[0] == ""
            if variants.analogy:
                assert variants.moves == ANALOGY_WORDS
                assert not any(variants.effects)
                # Two places, two grounds: no two variants are the same.
                pairs = [(i, j) for i in range(4) for j in range(i)]
                latents = variants.latents_VCFYX
                assert all(not torch.equal(latents[i], latents[j]) for i, j in pairs)
            else:
                assert set(variants.moves[1:]) <= set(MOVES)
    assert kinds == {True, False}


def test_a_share_of_the_sets_is_moved_and_none_leaves_runs_as_they_were(pool):
    some = VariantPool(pool.world, pool.autoencoder, moved_share=0.5)
    drawn = [bool(p.moves) for _ in range(12) for p in some.draw(PHASE, seeded(_), fresh=3)]
    assert 0.3 < sum(drawn) / len(drawn) < 0.7
    none = VariantPool(pool.world, pool.autoencoder, moved_share=0.0)
    for one, two in zip(
        pool.draw(PHASE, seeded(9), fresh=3), none.draw(PHASE, seeded(9), fresh=3), strict=True
    ):
        assert torch.equal(one.latents_VCFYX, two.latents_VCFYX)


def test_a_recalled_moved_stock_gives_the_same_sets(moved_pool):
    first = moved_pool.draw(PHASE, seeded(4), fresh=3)
    again = VariantPool(moved_pool.world, moved_pool.autoencoder, moved_share=1.0)
    again.recall(moved_pool.remember())
    (shape,) = again._stock
    recalled = [again._variants_of(kept, *shape) for kept in again._stock[shape]]
    for one, two in zip(first, recalled, strict=True):
        assert torch.equal(one.latents_VCFYX, two.latents_VCFYX)
        assert one.moves == two.moves


def test_words_are_those_of_the_world(pool):
    generator, subjects = seeded(2), set()
    for _ in range(25):
        subjects |= {p.subject for p in pool.draw(PHASE, generator, fresh=2)}
    assert subjects == {"scene", "dog face", "hot air balloon"}


def test_the_stock_is_reused_and_rolls(pool, monkeypatch):
    monkeypatch.setattr(variants_module, "STOCK", 4)
    one_size, generator = Phase(until=1.0, frames=1, sizes=((32, 32),), batch=3), seeded(3)
    first = pool.draw(one_size, generator, fresh=0)
    again = pool.draw(one_size, generator, fresh=0)
    assert {id(p) for p in again} <= {id(p) for p in (*first, *again)}
    assert len(pool.remember()["stock.1.32.32"]) == 3
    drawn = [pool.draw(one_size, generator, fresh=1) for _ in range(6)]
    assert len(pool.remember()["stock.1.32.32"]) == 4
    # What is rendered now comes first, so that it is seen at least once.
    assert len({id(batch[0]) for batch in drawn}) == 6


def test_a_recalled_stock_gives_the_same_sets(pool, tiny_store):
    generator = seeded(4)
    for _ in range(5):
        pool.draw(PHASE, generator, fresh=1)
    kept, random_state = pool.remember(), generator.get_state()
    torch.manual_seed(2)
    other = VariantPool(WorldClips(WorldStore(tiny_store)), Autoencoder(TINY.autoencoder))
    other.recall(kept)
    again = torch.Generator()
    again.set_state(random_state)
    for _ in range(6):
        for one, two in zip(
            pool.draw(PHASE, generator, fresh=1), other.draw(PHASE, again, fresh=1), strict=True
        ):
            assert torch.equal(one.latents_VCFYX, two.latents_VCFYX)
            assert (one.effects, one.subject, one.motion) == (two.effects, two.subject, two.motion)
    assert all(torch.equal(t, other.remember()[n]) for n, t in pool.remember().items())


def test_batches_of_a_step_draw_from_one_stock_wherever_they_are_drawn(pool, tiny_store):
    """Two batches a step: both here, or one here and one in another process."""
    other = VariantPool(WorldClips(WorldStore(tiny_store)), pool.autoencoder)
    third = VariantPool(WorldClips(WorldStore(tiny_store)), pool.autoencoder)
    together, apart = [], []
    for step in range(4):
        left = []
        for number in range(2):
            generator = torch.Generator().manual_seed(10 * step + number)
            together.append(pool.draw(PHASE, generator, fresh=step % 2))
            left.append(pool.leave_out())
        far = []
        for number, one in enumerate((other, third)):
            generator = torch.Generator().manual_seed(10 * step + number)
            apart.append(one.draw(PHASE, generator, fresh=step % 2))
            far.append(one.leave_out())
        for one, batches in ((pool, left), (other, far), (third, far)):
            for batch in batches:
                one.take_in(batch)
            one.forget_own()
    for ours, theirs in zip(together, apart, strict=True):
        for mine, yours in zip(ours, theirs, strict=True):
            assert torch.equal(mine.latents_VCFYX, yours.latents_VCFYX)
    kept, also = pool.remember(), third.remember()
    assert kept.keys() == also.keys()
    assert all(torch.equal(kept[name], also[name]) for name in kept)


def test_a_stock_that_is_none_is_refused(pool):
    with pytest.raises((ValueError, RuntimeError)):
        pool.recall({"stock.5.32": torch.zeros(1, 5056, dtype=torch.uint8)})
    with pytest.raises((ValueError, RuntimeError)):
        pool.recall({"stock.5.32.32": torch.zeros(1, 8, dtype=torch.uint8)})
    assert pool.remember() == {}


@pytest.fixture
def stage_of(pool, recipe_of):
    """Return a maker of grid stages; knobs of the loss may be set."""

    def make(name, **knobs):
        recipe = load_train_recipe(recipe_of(name), "tiny")
        window = {"window_share": 0.0} if recipe.stage == "fill" else {}
        recipe = replace(recipe, loss=replace(recipe.loss, **window | knobs))
        effects = [load_effect(n) for n in EFFECT_NAMES]
        layouts = load_layout("edit-2x2"), load_layout("composition-2x2")
        captions = Captions(effects, *layouts, own_clause_only=True)
        torch.manual_seed(6)
        words = captions.vocabulary(["dog face", "scene", "camera move"])
        text, dit = TextEncoder(TINY.text, WordTokenizer(words)), DiT(TINY.dit)
        for parameter in dit.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        pools = pool, FusionPool(pool.world, pool.autoencoder)
        return GridStage((dit, text), pools, captions, recipe, dict(dit.named_parameters()))

    return make


def test_base_gives_nothing_and_draws_singles_and_grids(stage_of):
    stage, generator, counts = stage_of("base", single_share=0.5), seeded(5), set()
    for _ in range(12):
        batch = stage._batch(PHASE, generator)
        assert batch.fill_BKF.all()
        assert len(batch.rows) == PHASE.batch * batch.layout.count
        counts.add(batch.layout.count)
    assert counts == {1, 4}


def test_moved_sets_are_filled_where_they_are_determined(stage_of, moved_pool):
    stage, generator = stage_of("fill", edit_share=1.0, text_masking=0.0), seeded(6)
    stage.pool, seen = moved_pool, set()
    for variants in (p for _ in range(8) for p in moved_pool.draw(PHASE, generator, fresh=3)):
        chosen, given = stage._choose(variants, GRID, generator)
        rows = stage.captions.grid_rows(variants, chosen, generator)
        seen.add(variants.analogy)
        if variants.analogy:
            assert (chosen, given) == ([0, 1, 2, 3], [True, True, True, False])
        else:
            assert (chosen[0], given) == (0, [True, False, False, False])
        for variant, row in zip(chosen, rows, strict=True):
            assert variants.moves[variant] in " ".join(row)
    assert seen == {True, False}
    loss, _ = stage.loss(PHASE, generator)
    assert loss.isfinite()


def test_fill_as_edit_gives_the_clip_as_it_is_in_the_first_cell(stage_of, monkeypatch):
    stage, generator = stage_of("fill", edit_share=1.0, caption_dropout=0.0), seeded(6)
    drawn = []
    original = stage.pool.draw

    def draw(*arguments, **options):
        drawn.append(original(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(stage.pool, "draw", draw)
    for _ in range(6):
        batch = stage._batch(PHASE, generator)
        assert batch.fill_BKF[:, 0].logical_not().all()
        assert batch.fill_BKF[:, 1:].all()
        for cells, variants in zip(batch.cells_BKCFYX, drawn[-1], strict=True):
            assert torch.equal(cells[0], variants.latents_VCFYX[0])
            assert not any(torch.equal(cell, variants.latents_VCFYX[0]) for cell in cells[1:])


def test_some_grids_are_set_up_as_later_windows_of_a_clip(stage_of):
    stage, generator = stage_of("fill", edit_share=1.0, window_share=0.5), seeded(8)
    long = Phase(until=1.0, frames=13, sizes=((32, 32),), batch=2)
    counts = {True: 0, False: 0}
    for _ in range(20):
        for fill_KF in stage._batch(long, generator).fill_BKF:
            assert not fill_KF[0].any()
            assert fill_KF[1:, 2:].all()
            heads = fill_KF[1:, :2]
            assert heads.all() or not heads.any()
            counts[bool(heads.any())] += 1
    assert min(counts.values()) > 8
    # A clip of two latent frames must have one left to generate.
    short = stage_of("fill", edit_share=1.0, window_share=1.0)._batch(PHASE, generator).fill_BKF
    assert short[:, 1:].tolist() == [[[False, True]] * 3] * PHASE.batch
    assert stage_of("fill", window_share=1.0).loss(long, generator)[0].isfinite()


def test_fill_of_the_paper_gives_one_to_all_but_one(stage_of):
    stage, generator, given = stage_of("fill", edit_share=0.0), seeded(7), set()
    for _ in range(20):
        fill_BK = stage._batch(PHASE, generator).fill_BKF[..., 0]
        given |= {tuple((~fill_K).tolist()) for fill_K in fill_BK}
    assert {sum(pattern) for pattern in given} == {1, 2, 3}
    assert len(given) > 8


def test_captions_dropped_always_and_never(stage_of):
    batch = stage_of("base", caption_dropout=1.0)._batch(PHASE, seeded(8))
    assert batch.rows == [[""]] * (PHASE.batch * batch.layout.count)
    rows = stage_of("base", caption_dropout=0.0)._batch(PHASE, seeded(8)).rows
    assert all(text for row in rows for text in row)


def test_given_cells_keep_their_text_where_they_are_read_first(stage_of):
    stage = stage_of("fill", edit_share=1.0, caption_dropout=1.0)
    stage.recipe = replace(stage.recipe, given_first=True)
    rows = stage._batch(PHASE, seeded(8)).rows
    for number, row in enumerate(rows):
        assert (row == [""]) == (number % 4 != 0)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_training_masks_single_tokens_and_eval_losses_mask_none(stage_of, monkeypatch, share):
    stage = stage_of("fill", edit_share=1.0, caption_dropout=0.0, text_masking=share)
    counts, whole = [], []
    read = stage.text.read_rows

    def watched(rows, cells, masking=None):
        text = read(rows, cells, masking)
        counts.append(int(text.valid_BKL.sum()))
        whole.append(int(read(rows, cells).valid_BKL.sum()))
        return text

    monkeypatch.setattr(stage.text, "read_rows", watched)
    generator = seeded(8)
    for _ in range(6):
        assert stage.loss(PHASE, generator)[0].isfinite()
    # Some 1200 tokens of the six batches: whole captions would give halves or nothing.
    assert sum(counts) / sum(whole) == pytest.approx(1 - share, abs=0.06)
    assert all(0 < count <= length for count, length in zip(counts, whole, strict=True))
    counts.clear(), whole.clear()
    with torch.no_grad():
        stage.evaluate(1)
    assert counts == whole


def test_given_cells_may_be_noised_like_the_rest(stage_of, monkeypatch):
    stage, seen = stage_of("fill", edit_share=1.0, offset_share=0.0), {}
    stage.recipe = replace(stage.recipe, given="replace")

    class Recorder(torch.nn.Module):
        config = TINY.dit

        def forward(self, noised, time_BKF, text, places, route_KA=None, estimate_BKCFYX=None):
            seen["noised"], seen["time"] = noised, time_BKF
            return torch.zeros_like(noised)

    stage.dit, draw_batch = Recorder(), stage._batch

    def keep(*arguments):
        seen["batch"] = draw_batch(*arguments)
        return seen["batch"]

    monkeypatch.setattr(stage, "_batch", keep)
    stage.loss(PHASE, seeded(8))
    assert (seen["time"] == seen["time"][:, :1, :1]).all()
    assert (seen["time"] > 0).all()
    assert (seen["noised"] != seen["batch"].cells_BKCFYX).flatten(2).any(2).all()
    assert not seen["batch"].fill_BKF[:, 0].any()  # given all the same, and out of the loss


def test_given_cells_are_clean_at_time_0_and_out_of_the_loss(stage_of, monkeypatch):
    stage = stage_of("fill", edit_share=1.0, offset_share=0.0)
    seen = {}

    class Recorder(torch.nn.Module):
        config = TINY.dit

        def forward(self, noised, time_BKF, text, places, route_KA=None, estimate_BKCFYX=None):
            seen["noised"], seen["time"] = noised, time_BKF
            return noised * seen["factor_K"][None, :, None, None, None, None]

    stage.dit = Recorder()
    clean = {}
    original = stage._batch

    def batch(phase, generator):
        clean["batch"] = original(phase, generator)
        return clean["batch"]

    monkeypatch.setattr(stage, "_batch", batch)
    losses = []
    for factors in ([1.0, 1, 1, 1], [-50.0, 1, 1, 1], [1.0, 1, -50, 1]):
        seen["factor_K"] = torch.tensor(factors)
        stage.pool.recall({})
        losses.append(float(stage.loss(PHASE, seeded(9))[0]))
        assert (seen["time"][:, 0] == 0).all()
        assert (seen["time"][:, 1:] > 0).all()
        assert torch.equal(seen["noised"][:, 0], clean["batch"].cells_BKCFYX[:, 0])
        assert not torch.equal(seen["noised"][:, 1], clean["batch"].cells_BKCFYX[:, 1])
    assert losses[0] == losses[1], "whatever is said about a given cell costs nothing"
    assert losses[2] > 2 * losses[0]


def test_loss_of_a_perfect_guess_is_zero(stage_of, monkeypatch):
    """The target is rebuilt from the noise that the seed fixes, not from the stage's own code."""
    stage = stage_of("base", noise_scale=1.5, single_share=0.0, noise_share=0.0, offset_share=0.0)
    guess = {}
    original = torch.randn

    def randn(*shape, **options):
        guess["noise"] = original(*shape, **options)
        return guess["noise"]

    class Perfect(torch.nn.Module):
        config = TINY.dit

        def forward(self, noised, time_BKF, text, places, route_KA=None, estimate_BKCFYX=None):
            time = time_BKF[:, :, None, :, None, None]
            data = (noised - time * 1.5 * guess["noise"]) / (1 - time)
            return 1.5 * guess["noise"] - data

    stage.dit = Perfect()
    monkeypatch.setattr(torch, "randn", randn)
    assert float(stage.loss(PHASE, seeded(10))[0]) < 1e-4


def test_offset_steps_show_wider_cells_and_score_what_lies_inside(stage_of, monkeypatch):
    """A guess that is right at every latent is right on both grids of tokens."""
    stage = stage_of("base", offset_share=1.0, single_share=0.0, noise_share=0.0)
    seen, original = {}, torch.randn

    def randn(*shape, **options):
        seen["noise"] = original(*shape, **options)
        return seen["noise"]

    class Perfect(torch.nn.Module):
        config = TINY.dit

        def forward(self, noised, time_BKF, text, places, route_KA=None, estimate_BKCFYX=None):
            seen["shown"], seen["margin"] = noised.shape, places.margin
            seen["tokens"] = len(places.position_S)
            noise = F.pad(seen["noise"].flatten(0, 2), (1, 1, 1, 1), "reflect")
            noise = noise.reshape(noised.shape)
            time = time_BKF[:, :, None, :, None, None]
            return noise - (noised - time * noise) / (1 - time)

    stage.dit = Perfect()
    monkeypatch.setattr(torch, "randn", randn)
    assert float(stage.loss(PHASE, seeded(10))[0]) < 1e-4
    *_, rows, columns = seen["noise"].shape
    assert (*seen["shown"][-2:], seen["margin"]) == (rows + 2, columns + 2, 0.5)
    frames = seen["noise"].shape[3]
    assert seen["tokens"] == 4 * frames * (rows // 2 + 1) * (columns // 2 + 1)


def test_a_composition_is_a_clip_an_element_and_two_fusions_of_them(pool):
    fusions = FusionPool(pool.world, pool.autoencoder)
    for variants in fusions.draw(PHASE, seeded(0), fresh=3):
        assert variants.element in ELEMENTS
        assert len(variants.latents_VCFYX) == len(variants.drift_VMFYX) == 4
        flat = variants.latents_VCFYX.flatten(1)
        assert torch.pdist(flat).min() > 0.1, "four variants, all different"


def test_fill_as_compose_gives_both_sources_in_the_upper_row(stage_of):
    stage = stage_of("fill", fusion_share=1.0, edit_share=1.0, caption_dropout=0.0, fresh=1.0)
    generator, seen = seeded(6), set()
    for _ in range(6):
        batch = stage._batch(PHASE, generator)
        assert (batch.fill_BKF == torch.tensor([False, False, True, True])[:, None]).all()
        for b in range(PHASE.batch):
            a, element, first, second = batch.rows[4 * b : 4 * b + 4]
            assert a[0] == element[0] == first[0] == second[0]
            assert "creative fusion" in a[0]
            assert "original input for the effect" in element[1]
            assert "second compositional result" in second[1]
            seen.add(element[1])
    assert len(seen) > 3


def test_base_sees_single_variants_of_compositions_with_their_own_clause(stage_of):
    stage = stage_of("base", fusion_share=1.0, single_share=1.0, caption_dropout=0.0)
    generator = seeded(5)
    texts = [row for _ in range(8) for row in stage._batch(PHASE, generator).rows]
    assert all(len(row) == 1 for row in texts)
    starts = {row[0].split("]")[0] for row in texts}
    assert starts == {"[TOP LEFT", "[TOP RIGHT", "[BOTTOM LEFT", "[BOTTOM RIGHT"}


def test_both_stocks_are_remembered(stage_of):
    stage, generator = stage_of("base", fusion_share=0.5), seeded(5)
    for _ in range(6):
        stage._batch(PHASE, generator)
    kept = stage.remember()
    assert len({name.startswith("fusion.") for name in kept}) == 2
    other = stage_of("base", fusion_share=0.5)
    other.fusions.recall({})
    other.recall(kept)
    assert all(torch.equal(t, other.remember()[n]) for n, t in kept.items())


@pytest.mark.parametrize("name", ["base", "grid", "fill"])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_every_stage_can_read_its_estimate(stage_of, monkeypatch, name, offset):
    knobs = {"noise_share": 0.0, "offset_share": offset}
    stage = stage_of(name, **knobs)
    torch.manual_seed(4)
    stage.dit = DiT(replace(TINY.dit, self_conditioning=True))
    for parameter in stage.dit.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    calls, real = [], stage.dit.forward

    def forward(shown, time_BKF, text, places, route_KA=None, estimate_BKCFYX=None):
        found = real(shown, time_BKF, text, places, route_KA, estimate_BKCFYX)
        calls.append((shown, time_BKF, estimate_BKCFYX, found))
        return found

    monkeypatch.setattr(stage.dit, "forward", forward)
    stage.loss(PHASE, seeded(11))
    assert [call[2] for call in calls] == [None]
    calls.clear()
    stage.recipe = replace(stage.recipe, loss=replace(stage.recipe.loss, self_conditioning=1.0))
    stage.loss(PHASE, seeded(11))
    (shown, time_BKF, none, first), (_, _, estimate, second) = calls
    assert none is None
    time = time_BKF[:, :, None, :, None, None]
    inner = (..., slice(1, -1), slice(1, -1)) if offset else (...,)
    data = torch.where(time > 0, (shown - time * first)[inner], 0.0)
    assert torch.allclose(estimate[inner], data, atol=1e-5)
    assert (second - first).abs().max() > 1e-3


def test_without_a_share_no_chance_is_drawn_for_estimates():
    generator = seeded(1)
    before = generator.get_state()
    state = torch.zeros(1, 1, 1, 1, 2, 2), torch.ones(1, 1, 1)
    assert drawn_estimate(lambda *_: 1 / 0, state, 0.0, generator) is None
    assert torch.equal(generator.get_state(), before)


def test_weights_in_pieces_are_gathered_whether_an_estimate_is_drawn_or_not():
    """Each process draws for itself; one that made a pass less would leave the others waiting."""
    calls = []

    def velocity(*state):
        calls.append(state)
        return torch.rand(1, 1, 1, 1, 2, 2)

    state = torch.zeros(1, 1, 1, 1, 2, 2), torch.ones(1, 1, 1)
    found = []
    for seed in range(20):
        torch.manual_seed(3)
        alone = drawn_estimate(velocity, state, 0.5, seeded(seed))
        drawn, calls[:] = len(calls), []
        after = torch.rand(4)
        torch.manual_seed(3)
        shared = drawn_estimate(velocity, state, 0.5, seeded(seed), in_pieces=True)
        assert len(calls) == 1
        assert (alone is None) == (shared is None) == (drawn == 0)
        assert torch.equal(torch.rand(4), after)  # what comes next draws the same dropout
        found.append(shared is None)
        calls.clear()
    assert 3 < sum(found) < 17
