"""T5 behind the text encoder's interface, with tiny random weights made here."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from dcgrid.errors import DcgridError, WeightsError
from dcgrid.models.native.rows import encode_rows
from dcgrid.models.native.t5 import T5TextEncoder, count_t5, load_t5, missing_t5_files, t5_counter
from tests.t5_folder import make_t5_folder

TEXTS = ("the cat walks in rain", "", "rain", "the cat, walking.  in the rain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5_folder(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> T5TextEncoder:
    return load_t5(folder)


def test_equals_transformers_own_forward(encoder: T5TextEncoder, folder: Path) -> None:
    import transformers

    model = transformers.T5EncoderModel(
        transformers.T5Config.from_json_file(folder / "config.json")
    )
    weights = load_file(folder / "model.safetensors")
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    model.load_state_dict(weights, strict=False)
    model.eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoded_NLE, valid_NL = encoder(TEXTS)
    assert encoded_NLE.shape[-1] == encoder.width == 16
    for text, row_LE, valid_L in zip(TEXTS, encoded_NLE, valid_NL, strict=True):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            expected_LE = model(input_ids=ids).last_hidden_state[0]
        assert valid_L.sum() == ids.shape[1]
        torch.testing.assert_close(row_LE[valid_L], expected_LE, rtol=1e-5, atol=1e-5)


def test_padding_and_neighbours_never_influence_a_segment(encoder: T5TextEncoder) -> None:
    together_NLE, valid_NL = encoder(TEXTS)
    for text, row_LE, valid_L in zip(TEXTS, together_NLE, valid_NL, strict=True):
        alone_NLE, alone_NL = encoder([text])
        assert alone_NL.all()
        torch.testing.assert_close(row_LE[valid_L], alone_NLE[0], rtol=1e-5, atol=1e-5)


def test_spans_are_the_characters_of_the_pieces(encoder: T5TextEncoder) -> None:
    text = "the cat  walks, raining"
    tokens = encoder.tokens(text)
    pieces = [text[token.start : token.end] for token in tokens]
    assert [piece for piece in pieces if piece] == ["the", "cat", "walk", "s", ",", "rain", "ing"]
    assert (tokens[-1].start, tokens[-1].end) == (len(text), len(text))
    assert all(a.end <= b.start for a, b in itertools.pairwise(tokens))


def test_empty_text_has_one_valid_token(encoder: T5TextEncoder) -> None:
    encoded_NLE, valid_NL = encoder([""])
    assert valid_NL.tolist() == [[True]]
    assert encoded_NLE.isfinite().all()


def test_characters_it_cannot_spell_are_named(encoder: T5TextEncoder) -> None:
    assert encoder.tokenizer.unknown_words("the cat in rain") == ()
    assert encoder.tokenizer.unknown_words("the дождь") == ("дождь",)


def test_texts_past_the_limit_keep_their_end_token(folder: Path) -> None:
    short = load_t5(folder, limit=4)
    tokens = short.tokens("rain " * 50)
    assert len(tokens) == 4
    assert tokens[-1].index == 1
    assert short(["rain " * 50])[0].shape[1] == 4


def test_serves_the_cells_of_a_grid(encoder: T5TextEncoder) -> None:
    rows = [["the cat", "rain"], ["the cat", "walking in the rain"]]
    text = encode_rows(encoder, rows, cells=2)
    assert text.tokens_BKLE.shape[:2] == (1, 2)
    first = torch.cat([encoder(["the cat"])[0][0], encoder(["rain"])[0][0]])
    held = text.tokens_BKLE[0, 0][text.valid_BKL[0, 0]]
    torch.testing.assert_close(held, first, rtol=1e-5, atol=1e-5)


def test_importing_the_module_does_not_import_transformers() -> None:
    code = "import sys, dcgrid.models.native.t5; sys.exit('transformers' in sys.modules)"
    paths = [path for path in sys.path if path]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"], check=False
    )
    assert result.returncode == 0


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = make_t5_folder(tmp_path / "t5")
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=name) as caught:
        load_t5(folder)
    assert caught.value.hint


def test_files_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = make_t5_folder(tmp_path / "t5")
    config = json.loads((folder / "config.json").read_text())
    for key, value in (("d_ff", 25), ("num_layers", 3), ("vocab_size", 5), ("model_type", "bert"),
                       ("d_ff", "wide"), ("d_model", -1)):  # fmt: skip
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(WeightsError):
            load_t5(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"encoder.block.1.layer.0.SelfAttention.q.weight"):
        load_t5(folder)


def test_mutated_files_never_end_in_another_error(tmp_path: Path) -> None:
    folder = make_t5_folder(tmp_path / "t5")
    chance = random.Random(7)
    refused = 0
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        for _ in range(12):
            damaged = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
            # The head of a file is where a change does the most harm.
            for _ in range(chance.randint(1, 6)):
                if damaged:
                    damaged[chance.randrange(min(len(damaged), 900))] = chance.randrange(256)
            (folder / name).write_bytes(bytes(damaged))
            try:
                load_t5(folder)
            except DcgridError:
                refused += 1
        (folder / name).write_bytes(whole)
    assert refused > 18


def test_tags_are_read_in_place_of_text_and_learn(folder: Path) -> None:
    encoder = load_t5(folder)
    plain_NLE, _ = encoder(["the [x] cat", "rain"])
    cat_E, _ = encoder.add_tags(["cat", "unused"])
    with torch.no_grad():
        cat_E.normal_()
    tagged_NLE, valid_NL = encoder(["the [cat] cat", "rain"])
    # "the", the tag, "cat", end: one token where brackets were not known letter by letter.
    assert valid_NL.sum(1).tolist() == [4, 2]
    assert plain_NLE.shape[1] > 4
    torch.testing.assert_close(tagged_NLE[1, :2], plain_NLE[1, :2], rtol=1e-5, atol=1e-5)
    tagged_NLE[0].square().sum().backward()
    first, second = encoder.tags
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    assert second.grad is None or not second.grad.any()
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert encoder.tag_names == ("cat", "unused")
    with pytest.raises(ValueError, match="twice"):
        encoder.add_tags(["a", "a"])


def test_a_tag_equals_the_piece_whose_embedding_it_has(folder: Path) -> None:
    encoder = load_t5(folder)
    expected_NLE, _ = encoder(["the cat in rain"])
    (tag_E,) = encoder.add_tags(["pet"])
    index = next(t.index for t in encoder.tokens("cat") if t.end > t.start)
    with torch.no_grad():
        tag_E.copy_(encoder.model.get_input_embeddings().weight[index])
    found_NLE, _ = encoder(["the [pet] in rain"])
    torch.testing.assert_close(found_NLE, expected_NLE, rtol=1e-5, atol=1e-5)


def test_a_plan_counts_what_is_loaded(folder: Path, encoder: T5TextEncoder) -> None:
    assert count_t5(str(folder)) == sum(p.numel() for p in encoder.model.parameters())
    assert count_t5("hf:nobody/none") is None
    count = t5_counter(str(folder), ("pet",))
    assert count("the cat in rain") == len(encoder.tokens("the cat in rain")) - 1
    assert count("the [pet] in rain") == count("the cat in rain")
    assert missing_t5_files(str(folder)) == ()
    assert len(missing_t5_files("hf:nobody/none")) == 3
