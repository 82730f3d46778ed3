"""The folder of a native model that was trained: weight files, and what else they need.

    config.json               this file: preset, sizes, where the text encoder is
    autoencoder.safetensors   dit.safetensors     text.safetensors (not where T5 reads the text)
    fill.safetensors ...      adapters of the later stages

Read `read_native_folder`; training writes the folder, `edit --model FOLDER` reads it.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from dcgrid.errors import WeightsError
from dcgrid.io.atomic import write_whole
from dcgrid.models.native.config import PRESETS, NativeConfig

CONFIG_NAME = "config.json"
_FORMAT, _VERSION = "dcgrid native model", 1
_MAX_BYTES = 64 * 1024
_HINT = "train the model's stage base again, or copy the folder anew"

_Sizes = TypeVar("_Sizes")


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeFolder:
    """What the folder of a trained model says of it."""

    path: Path
    """The folder."""
    preset: str
    """Preset that it was trained from; its adapters name this."""
    config: NativeConfig
    """Sizes of its networks."""
    text_encoder: str
    """T5 folder, or `hf:OWNER/REPO[@REVISION]`; empty: the text encoder's weights are beside."""


def is_native_folder(folder: Path) -> bool:
    """Return True for a folder with a config.json of ours."""
    try:
        return _read(folder / CONFIG_NAME).get("format") == _FORMAT
    except WeightsError:
        return False


def read_native_folder(folder: Path) -> NativeFolder:
    """Return what a folder says of the model in it.

    Raises:
        WeightsError: Its config.json is missing, damaged, or of a later version.
    """
    path = folder / CONFIG_NAME
    table = _read(path)
    if table.get("format") != _FORMAT:
        raise WeightsError(f"{path} is not of a model that was trained here", hint=_HINT)
    if table.get("version") != _VERSION:
        raise WeightsError(
            f"{path} has version {table.get('version')!r}, this program reads {_VERSION}",
            hint="use the version of dcgrid that wrote it, or a later one",
        )
    preset, sizes, text_encoder = (table.get(k) for k in ("preset", "sizes", "text_encoder"))
    known = PRESETS.get(preset) if isinstance(preset, str) else None
    if known is None or not isinstance(sizes, dict) or not isinstance(text_encoder, str):
        raise WeightsError(f"{path} is damaged: preset, sizes or text_encoder is wrong", hint=_HINT)
    if (known.text is None) == (not text_encoder):
        raise WeightsError(f"{path} is damaged: text_encoder = {text_encoder!r}", hint=_HINT)
    config = replace(
        known,
        autoencoder=_sizes(path, known.autoencoder, sizes.get("autoencoder"), "autoencoder"),
        dit=_sizes(path, known.dit, sizes.get("dit"), "dit"),
    )
    if known.text is not None:
        config = replace(config, text=_sizes(path, known.text, sizes.get("text"), "text"))
    return NativeFolder(path=folder, preset=str(preset), config=config, text_encoder=text_encoder)


def write_native_folder(written: NativeFolder) -> None:
    """Write the config.json of a folder, atomically.

    Raises:
        OutputError: It cannot be written.
    """
    config = written.config
    sizes = {"autoencoder": asdict(config.autoencoder), "dit": asdict(config.dit)}
    if config.text is not None:
        sizes["text"] = asdict(config.text)
    table = {
        "format": _FORMAT,
        "version": _VERSION,
        "preset": written.preset,
        "text_encoder": written.text_encoder,
        "sizes": sizes,
    }
    path = written.path / CONFIG_NAME
    write_whole(path, json.dumps(table, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        table = json.loads(content.decode("utf-8")) if len(content) <= _MAX_BYTES else None
    except FileNotFoundError as error:
        raise WeightsError(f"there is no {path}", hint=_HINT) from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: {error}", hint=_HINT) from error
    if not isinstance(table, dict):
        raise WeightsError(f"{path} is damaged: it is not a table", hint=_HINT)
    return table


def _sizes(path: Path, preset: _Sizes, table: object, part: str) -> _Sizes:
    """Make the sizes of a part from a table whose keys are those of its preset.

    Raises:
        WeightsError: A key is missing or unknown, or a value is of another kind than the preset's.
    """
    known = {field.name: getattr(preset, field.name) for field in fields(preset)}  # type: ignore[arg-type]
    if not isinstance(table, dict) or table.keys() != known.keys():
        found = table.keys() if isinstance(table, dict) else set()
        odd = sorted(map(str, known.keys() ^ found))
        raise WeightsError(
            f"{path} is damaged: sizes.{part} has missing or unknown keys, first {odd[0]}",
            hint=_HINT,
        )
    values = {key: _frozen(value) for key, value in table.items()}
    for key, value in values.items():
        kinds = {type(known[key]), *([int] if known[key] is None else [])}
        if value is not None and type(value) not in kinds:
            raise WeightsError(f"{path} is damaged: sizes.{part}.{key} = {value!r}", hint=_HINT)
    return replace(preset, **values)  # type: ignore[type-var]


def _frozen(value: object) -> object:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value
