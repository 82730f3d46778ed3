"""Which files a network is loaded from."""

import os
import shutil

import pytest

from dcgrid import hub
from dcgrid.errors import NetworkError, UsageError, WeightsError
from dcgrid.eval.encoders.encoders import find_network
from dcgrid.runtime.install import install_hint, need
from tests.eval.places import WEIGHTS, needs_weights


@needs_weights
def test_files_of_a_folder_are_known_by_name_and_hash():
    files = find_network("arcface-mbf", WEIGHTS, offline=True)
    assert files.label == "w600k_mbf"
    # A detector by another name does, too; the recognition network must be the named one.
    assert [path.name for path in files.paths.values()] == [
        "w600k_mbf.onnx",
        "scrfd_500m_bnkps.onnx",
    ]
    assert find_network("sface", WEIGHTS, offline=True).label == "face_recognition_sface_2021dec"
    with pytest.raises(WeightsError, match=r"arcface-r50 is not here or in .*weights") as caught:
        find_network("arcface-r50", WEIGHTS, offline=True)
    assert caught.value.hint == "dcgrid models pull arcface-r50"


@needs_weights
def test_another_file_under_a_known_name_is_refused(tmp_path):
    shutil.copy(WEIGHTS / "scrfd_500m_bnkps.onnx", tmp_path)
    shutil.copy(WEIGHTS / "scrfd_500m_bnkps.onnx", tmp_path / "w600k_mbf.onnx")
    with pytest.raises(WeightsError, match=r"w600k_mbf.onnx is another file .* a3562ef62592"):
        find_network("arcface-mbf", tmp_path, offline=True)


@needs_weights
def test_a_network_may_have_a_folder_of_its_own(tmp_path):
    own = tmp_path / "yunet"
    own.mkdir()
    shutil.copy(WEIGHTS / "face_detection_yunet_2023mar.onnx", own)
    (path,) = find_network("yunet", tmp_path, offline=True).paths.values()
    assert path.parent == own


def test_a_file_without_a_known_hash_is_labelled_by_its_own(tmp_path):
    own = tmp_path / "dino-vits16"
    own.mkdir()
    (own / "model.safetensors").write_bytes(b"abc")
    # The SHA-256 of "abc" is that of FIPS 180-2, appendix B.1.
    assert find_network("dino-vits16", tmp_path, offline=True).label == "dino-vits16 ba7816bf"
    # A loose model.safetensors could be anything.
    os.replace(own / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"dino-vits16 lacks model\.safetensors"):
        find_network("dino-vits16", tmp_path, offline=True)


def test_what_is_missing_says_the_command(tmp_path):
    for name in hub.SCORERS:
        with pytest.raises(WeightsError) as caught:
            find_network(name, None, offline=True)
        assert caught.value.hint == f"dcgrid models pull {name}"
        with pytest.raises(WeightsError):
            find_network(name, tmp_path / "nowhere", offline=True)


def test_only_free_networks_are_downloaded_unasked(monkeypatch):
    asked = []

    def fetch(name):
        asked.append(name)
        raise NetworkError("no network")

    monkeypatch.setattr(hub, "fetch_model", fetch)
    for name in hub.SCORERS:
        with pytest.raises((NetworkError, WeightsError)):
            find_network(name, None, offline=False)
    assert asked == ["clip-vit-l14", "dino-vits16", "sface", "yunet", "lpips-vgg"]


def test_a_missing_package_names_the_extra():
    with pytest.raises(UsageError, match="this score needs no_such_package") as caught:
        need("no_such_package")
    assert caught.value.hint == install_hint("eval")
