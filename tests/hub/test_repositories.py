"""Adapters by the name of their repository alone, and pickles in place of them."""

import hashlib
from pathlib import Path

import pytest

from dcgrid import hub
from dcgrid.errors import NetworkError, WeightsError
from tests.hub.server import Hub, safetensors_bytes

ADAPTER = safetensors_bytes(1000)


def test_the_only_adapter_of_a_repository_is_found(
    fake_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.add("a/b", {"README.md": b"# hello", "fill/mine.safetensors": ADAPTER})
    assert hub.locate_weights("hf:a/b") is None
    with pytest.raises(NetworkError, match="network is off"):
        hub.fetch_weights("hf:a/b", offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.download_bytes("hf:a/b") is None
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert hub.download_bytes("hf:a/b") == len(ADAPTER)
    path = hub.fetch_weights("hf:a/b", sha256=hashlib.sha256(ADAPTER).hexdigest())
    assert path.name == "mine.safetensors"
    assert path.read_bytes() == ADAPTER
    assert hub.download_bytes("hf:a/b") == 0
    asked = len(fake_hub.requests)
    assert hub.fetch_weights("hf:a/b@main", offline=True) == path
    assert hub.locate_weights("hf:a/b/fill/mine.safetensors") == path
    assert len(fake_hub.requests) == asked


def test_several_adapters_are_listed(fake_hub: Hub) -> None:
    files = {f"{name}.safetensors": ADAPTER for name in ("one", "two")}
    fake_hub.add("a/b", files)
    with pytest.raises(WeightsError, match=r"2 adapters: one\.safetensors, two") as caught:
        hub.fetch_weights("hf:a/b")
    assert "hf:a/b@main/one.safetensors" in caught.value.hint
    with pytest.raises(WeightsError, match="2 adapters"):
        hub.download_bytes("hf:a/b")
    assert fake_hub.asked("resolve") == []


def test_a_repository_of_pickles_or_of_nothing_is_refused(fake_hub: Hub) -> None:
    fake_hub.add("a/b", {"adapter.bin": b"pickle"})
    with pytest.raises(WeightsError, match=r"adapter\.bin is a pickle"):
        hub.fetch_weights("hf:a/b")
    fake_hub.add("a/c", {"README.md": b"soon"})
    with pytest.raises(WeightsError, match="no safetensors file"):
        hub.fetch_weights("hf:a/c")
    with pytest.raises(NetworkError, match="no repository"):
        hub.fetch_weights("hf:a/d")
    with pytest.raises(WeightsError, match="no revision 'v9'"):
        hub.fetch_weights("hf:a/b@v9")


def test_named_pickles_are_refused_before_they_are_asked_for(fake_hub: Hub, tmp_path: Path) -> None:
    fake_hub.add("a/b", {"adapter.pt": b"pickle"})
    with pytest.raises(WeightsError, match="pickle"):
        hub.fetch_weights("hf:a/b/adapter.pt")
    assert fake_hub.requests == []
    mine = tmp_path / "mine.ckpt"
    mine.write_bytes(b"pickle")
    with pytest.raises(WeightsError, match="pickle"):
        hub.fetch_weights(str(mine))
    assert mine.exists()


@pytest.mark.parametrize("content", [b"\x80\x04\x95" + bytes(99), b"PK\x03\x04" + bytes(99)])
def test_a_pickle_under_a_safetensors_name_is_not_kept(
    fake_hub: Hub, tmp_path: Path, content: bytes
) -> None:
    fake_hub.add("a/b", {"adapter.safetensors": content})
    with pytest.raises(WeightsError, match="pickle inside"):
        hub.fetch_weights("hf:a/b")
    assert hub.locate_weights("hf:a/b") is None
    held = [one for one in (tmp_path / "cache").rglob("*") if one.is_file()]
    assert not any(one.read_bytes() == content for one in held)


@pytest.mark.parametrize("text", ["hf:a/b/../../../etc/passwd", "hf:a/b@/x", "hf:/b"])
def test_references_cannot_climb_out(text: str) -> None:
    with pytest.raises(WeightsError, match="incomplete"):
        hub.parse_reference(text)
