"""Uploads to a small hub with the real client."""

from pathlib import Path

import pytest

from dcgrid import hub
from dcgrid.errors import DcgridError, NetworkError, WeightsError
from tests.hub.server import SECRET, Fault, Hub, safetensors_bytes

CONTENT = safetensors_bytes(5000)


@pytest.fixture(autouse=True)
def _plain_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    # The other way to send large files has a server of its own, which the tests do not have.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


def push(target: str, replace_card: bool = False, private: bool = False) -> str:
    return hub.push_files(
        hub.parse_reference(target),
        {"fill.safetensors": CONTENT, "README.md": b"# card"},
        message="Add it",
        replace_card=replace_card,
        private=private,
    )


def test_a_repository_is_made_and_what_is_pushed_can_be_fetched(
    fake_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    address = push("hf:me/mine", private=True)
    repo = fake_hub.repos["me/mine"]
    assert repo.private
    assert address.endswith(f"me/mine/commit/{repo.branches['main']}")
    assert repo.commits[repo.branches["main"]] == {
        "fill.safetensors": CONTENT,
        "README.md": b"# card",
    }
    assert hub.fetch_weights("hf:me/mine").read_bytes() == CONTENT


def test_a_card_of_the_owner_is_kept_and_a_branch_is_made(
    fake_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    fake_hub.add("me/mine", {"README.md": b"# my own words"})
    push("hf:me/mine@v2")
    repo = fake_hub.repos["me/mine"]
    newest = repo.commits[repo.branches["v2"]]
    assert newest == {"fill.safetensors": CONTENT, "README.md": b"# my own words"}
    assert repo.branches["v2"] != repo.branches["main"]
    push("hf:me/mine@v2", replace_card=True)
    assert repo.commits[repo.branches["v2"]]["README.md"] == b"# card"


def test_without_a_token_or_a_network_nothing_is_asked(
    fake_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NetworkError, match="without a token") as caught:
        push("hf:me/mine")
    assert "hf auth login" in caught.value.hint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NetworkError, match="network is off"):
        push("hf:me/mine")
    assert fake_hub.requests == []


@pytest.mark.parametrize(
    ("token", "fault", "kind", "told"),
    [
        ("hf_wrong", Fault("nowhere"), NetworkError, "does not accept the token"),
        (SECRET, Fault("repos/create", status=403, message="no"), NetworkError, "the right"),
        (SECRET, Fault("commit", status=403, message="no"), NetworkError, "the right"),
        (SECRET, Fault("lfs-put", status=403, message="no"), NetworkError, "right|upload"),
        (SECRET, Fault("preupload", status=418), NetworkError, "upload to hf:me/mine"),
    ],
)
def test_refusals_are_told_in_a_sentence(
    fake_hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    fault: Fault,
    kind: type[DcgridError],
    told: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    fake_hub.faults = [fault]
    with pytest.raises(kind, match=told) as caught:
        push("hf:me/mine")
    assert "\n" not in caught.value.message


def test_names_that_the_hub_does_not_take(
    fake_hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(WeightsError, match="not a repository name"):
        push("hf:me/-bad--name-")
