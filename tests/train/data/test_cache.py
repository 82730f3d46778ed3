"""The cache: found by content, made anew where it is damaged, whole or absent."""

import pytest
import torch

from dcgrid.errors import OutputError
from dcgrid.train.data.cache import TensorCache

FACTS = {"clip": "abc", "start": 0.5, "model": "tiny", "size": [32, 48]}


def maker(value, calls):
    def make():
        calls.append(value)
        return {"latents": torch.full((2, 3), value, dtype=torch.bfloat16), "n": torch.tensor(7)}

    return make


def test_an_entry_is_made_once_and_found_again(tmp_path):
    calls = []
    cache = TensorCache(tmp_path / "deep" / "cache")
    first = cache.get(FACTS, maker(1.5, calls))
    again = TensorCache(tmp_path / "deep" / "cache")
    second = again.get(dict(reversed(FACTS.items())), maker(2.5, calls))
    assert calls == [1.5]
    assert torch.equal(first["latents"], second["latents"])
    assert second["latents"].dtype == torch.bfloat16
    assert int(second["n"]) == 7
    assert again.tally.line() == "cache: 1 found, 0 made"


@pytest.mark.parametrize("key", list(FACTS))
def test_whatever_it_depends_on_makes_another_entry(tmp_path, key):
    calls = []
    cache = TensorCache(tmp_path)
    cache.get(FACTS, maker(1.0, calls))
    cache.get({**FACTS, key: "other"}, maker(2.0, calls))
    assert calls == [1.0, 2.0]


@pytest.mark.parametrize("damage", ["cut", "flip", "swap"])
def test_a_damaged_entry_is_made_anew(tmp_path, damage):
    calls = []
    cache = TensorCache(tmp_path)
    cache.get(FACTS, maker(1.0, calls))
    path = cache.path(FACTS)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-3])
    elif damage == "flip":
        path.write_bytes(bytes([content[0] ^ 255]) + content[1:])
    else:  # the file of other facts under this name
        cache.get({"other": 1}, maker(3.0, calls))
        path.write_bytes(cache.path({"other": 1}).read_bytes())
        calls.pop()
    assert float(cache.get(FACTS, maker(2.0, calls))["latents"][0, 0]) == 2.0
    assert calls == [1.0, 2.0]
    assert cache.tally.damaged == 1
    assert "1 of them damaged before" in cache.tally.line()


def test_a_failed_make_leaves_nothing(tmp_path):
    cache = TensorCache(tmp_path / "cache")

    def fails():
        raise OutputError("no")

    with pytest.raises(OutputError):
        cache.get(FACTS, fails)
    assert not (tmp_path / "cache").exists()


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        TensorCache(tmp_path / "cache").get(FACTS, maker(1.0, []))
