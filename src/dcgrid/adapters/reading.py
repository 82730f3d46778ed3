"""Read and check adapter files without PEFT, which takes seconds to import.

Keys are those that PEFT writes, so that PEFT alone can load the tensors:

    base_model.model.<layer>.lora_A.weight           (R, inputs)
    base_model.model.<layer>.lora_B.weight           (outputs, R)

A structured adapter has in place of these, and PEFT reads what `export.py` makes of it:

    base_model.model.<layer>.appearance_in.weight    (R, inputs)
    base_model.model.<layer>.motion_in.weight        (R, inputs)
    base_model.model.<layer>.shared_out.weight       (outputs, R)

Letters: D width, R rank.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dcgrid.adapters.spec import AdapterSpec, Form, Stage, spec_from_json
from dcgrid.errors import AdapterError, DcgridError
from dcgrid.grid.routing import Mode

FORMAT = "dcgrid-adapter-1"
"""What the metadata of a file of this program says."""
KEY_PREFIX = "base_model.model."
"""What PEFT puts before the name of a layer."""
INPUT_SIDES: dict[Form, tuple[str, ...]] = {
    "plain": ("lora_A",),
    "structured": ("appearance_in", "motion_in"),
}
"""Names of the tensors that add up to A, in the order of the layer's parameters."""
OUTPUT_SIDE: dict[Form, str] = {"plain": "lora_B", "structured": "shared_out"}
"""Name of the tensor that is B."""
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_HINT = "Fetch the adapter again, or train it anew with `dcgrid train`."


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What loading an adapter did; print it, for an adapter that does nothing is a common fault."""

    spec: AdapterSpec
    """What the file says of itself."""
    matched: int
    """Layers that took their numbers from the file."""
    total: int
    """Layers that the spec's targets name in this network; always equal to `matched`."""
    mean_delta: float
    """Mean over layers of the root mean square of alpha/R B A; 0: the adapter does nothing."""


def hash_tensors(tensors: Mapping[str, Tensor], prefix: str = "") -> str:
    """Return the sha256 of names, dtypes, shapes and bytes, in the order of the names.

    Args:
        tensors: For example a state dict.
        prefix: Text that goes into the hash first.
    """
    digest = hashlib.sha256(prefix.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_adapter(path: Path) -> tuple[AdapterSpec, dict[str, Tensor]]:
    """Read and verify an adapter file; no network is needed.

    Returns:
        The spec, and the tensors under their keys, on the CPU.

    Raises:
        AdapterError: If the file is missing, cut, changed, or not an adapter of this program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: the file may be replaced while we still hold its tensors.
            keys = file.keys()
            tensors = {key: file.get_tensor(key).clone() for key in keys}
        content_hash = hash_tensors(tensors, metadata.get("spec", ""))
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise AdapterError(f"cannot read adapter {path}: {error}", hint=_HINT) from error
    if metadata.get("format") != FORMAT or "spec" not in metadata:
        raise AdapterError(
            f"{path} is not an adapter that dcgrid wrote (format {metadata.get('format')!r})",
            hint=_HINT,
        )
    if metadata.get("sha256") != content_hash:
        raise AdapterError(f"adapter {path} is damaged: its hash does not agree", hint=_HINT)
    try:
        return spec_from_json(metadata["spec"]), tensors
    except DcgridError as error:
        raise AdapterError(f"{path}: {error.message}", hint=error.hint) from error


def read_spec(path: Path) -> AdapterSpec | None:
    """Read what an adapter file says of itself; its numbers are neither read nor checked.

    Returns:
        The spec; None: it is a safetensors file of another kind.

    Raises:
        AdapterError: If the file is missing or cut, or its spec is damaged.
    """
    metadata = _read_metadata(path)
    if metadata.get("format") != FORMAT or "spec" not in metadata:
        return None
    try:
        return spec_from_json(metadata["spec"])
    except DcgridError as error:
        raise AdapterError(f"{path}: {error.message}", hint=error.hint) from error


def read_sha256(path: Path) -> str:
    """Return the hash that an adapter file names of its content; nothing else is read or checked.

    Raises:
        AdapterError: If the file is missing or cut.
    """
    return _read_metadata(path).get("sha256", "")


def _read_metadata(path: Path) -> dict[str, str]:
    """Return the text in the header of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"cannot read adapter {path}: {error}", hint=_HINT) from error


def check_use(spec: AdapterSpec, path: Path, stage: Stage, mode: Mode | None = None) -> None:
    """Refuse an adapter of another stage, or for grids that show something else.

    Args:
        spec: The file's.
        path: The file, for errors.
        stage: The stage whose adapter is needed.
        mode: What its grids must show; None: anything.

    Raises:
        AdapterError: It is of another stage or mode.
    """
    needed = _KINDS[stage]
    if spec.stage != stage:
        raise AdapterError(
            f"adapter {path} is a {_KINDS[spec.stage]} (stage {spec.stage}); a {needed} "
            f"(stage {stage}) is needed here",
            hint=_use_hint(spec, path, stage, mode or spec.mode),
        )
    if mode is not None and spec.mode != mode:
        raise AdapterError(
            f"adapter {path} is a {needed} for grids of mode {spec.mode}, this grid is of mode "
            f"{mode}",
            hint=_use_hint(spec, path, stage, mode),
        )


_KINDS: dict[Stage, str] = {"dc": "Multi-DC LoRA", "grid": "Grid LoRA", "fill": "Grid-Fill adapter"}
"""What each stage makes, in words."""


def _use_hint(spec: AdapterSpec, path: Path, stage: Stage, mode: Mode) -> str:
    """Return the option that an adapter is for, or the command that makes the one needed."""
    command = f"dcgrid train --stage {stage}{'' if mode == 'consistent' else f' --mode {mode}'}"
    # One of the two adapters of a composition acts on some cells alone, which --lora does not know.
    routed = spec.stage == "grid" and spec.mode == "composition"
    if stage == "fill" and spec.stage != "fill" and not routed:
        return f"--lora {quote(str(path))} puts it under the adapter; {command} makes one of those"
    own = "; without --adapter the model's own is used" if stage == "fill" else ""
    return f"{command} makes one{own}"


def check_base(spec: AdapterSpec, path: Path, base: str, base_hash: str) -> None:
    """Refuse an adapter of another model.

    Raises:
        AdapterError: The hashes differ, or, where one is not known, the names. An empty name is
            not compared. Equal hashes are the same model under whatever name.
    """
    if base_hash and spec.base_hash == base_hash:
        return
    if base and spec.base and spec.base != base:
        raise AdapterError(
            f"adapter {path} is for the model {spec.base!r}, not for {base!r}",
            hint=f"Use --model {spec.base}, or an adapter for {base}.",
        )
    if base_hash and spec.base_hash and spec.base_hash != base_hash:
        raise AdapterError(
            f"adapter {path} is for other weights of {spec.base or 'the model'} "
            f"({spec.base_hash[:12]}, these are {base_hash[:12]})",
            hint="Fetch the weights that it was trained on, or train it anew.",
        )


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse an adapter with numbers that are none.

    Args:
        tensors: The file's.
        path: The file, for errors.

    Raises:
        AdapterError: It has some.
    """
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AdapterError(f"adapter {path}: {key} holds numbers not finite", hint=_HINT)


def check_fit(
    shapes: Mapping[str, tuple[int, int]],
    spec: AdapterSpec,
    tensors: Mapping[str, Tensor],
    path: Path,
) -> list[str]:
    """Check keys, shapes and numbers against a network; return the names of the layers.

    Args:
        shapes: Outputs and inputs of every linear layer, by name.
        spec: The file's.
        tensors: The file's.
        path: The file, for errors.

    Raises:
        AdapterError: Something does not fit.
    """
    places = match_targets(list(shapes), spec.targets)
    expected: dict[str, tuple[int, int]] = {}
    for place in places:
        outputs, inputs = shapes[place]
        for side in INPUT_SIDES[spec.form]:
            expected[side_key(place, side)] = (spec.rank, inputs)
        expected[side_key(place, OUTPUT_SIDE[spec.form])] = (outputs, spec.rank)
    odd = sorted(set(tensors) ^ set(expected))
    if odd:
        matched = len(set(tensors) & set(expected))
        raise AdapterError(
            f"adapter {path} does not fit this model: {matched} of {len(expected)} tensors match, "
            f"{len(odd)} do not, such as {odd[0][:200]}",
            hint="Use the model that it was trained on.",
        )
    for key, shape in expected.items():
        tensor = tensors[key]
        if tuple(tensor.shape) != shape or tensor.dtype not in _DTYPES:
            raise AdapterError(
                f"adapter {path}: {key} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"this model needs {shape}",
                hint="Use the model that it was trained on.",
            )
    check_finite(tensors, path)
    return places


def side_key(place: str, side: str) -> str:
    """Return the key of one tensor of a layer in an adapter file."""
    return f"{KEY_PREFIX}{place}.{side}.weight"


def layer_names(form: Form, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the layers of an adapter file, in its order."""
    end = f".{OUTPUT_SIDE[form]}.weight"
    return [k.removeprefix(KEY_PREFIX).removesuffix(end) for k in tensors if k.endswith(end)]


def product_sides(form: Form, tensors: Mapping[str, Tensor], place: str) -> tuple[Tensor, Tensor]:
    """Return A (RD) and B (DR) of a layer in float32, the input sides of A added up."""
    sides = [tensors[side_key(place, side)].float() for side in INPUT_SIDES[form]]
    return sum(sides[1:], sides[0]), tensors[side_key(place, OUTPUT_SIDE[form])].float()


def mean_update(spec: AdapterSpec, tensors: Mapping[str, Tensor]) -> float:
    """Return the mean over layers of the root mean square of alpha/R B A; see `LoadReport`."""
    sides = (product_sides(spec.form, tensors, p) for p in layer_names(spec.form, tensors))
    deltas = [spec.scale * product_rms(up_DR, down_RD) for down_RD, up_DR in sides]
    return sum(deltas) / len(deltas) if deltas else 0.0


def match_targets(names: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return those names that are a target or end in a dot and a target, in their order.

    Raises:
        AdapterError: If a target names no layer.
    """
    found: set[str] = set()
    for target in targets:
        hits = {name for name in names if name == target or name.endswith(f".{target}")}
        if not hits:
            ends = sorted({re.sub(r"^.*\.\d+\.", "", name) for name in names})
            raise AdapterError(
                f"target {target!r} names no linear layer of this network",
                hint=f"Linear layers end in: {', '.join(ends[:40])}.",
            )
        found |= hits
    return [name for name in names if name in found]


def product_rms(up_DR: Tensor, down_RD: Tensor) -> float:
    """Return the root mean square of the entries of B A without making that large matrix."""
    up, down = up_DR.double(), down_RD.double()
    # |BA|^2 = trace(A^T B^T B A) = sum of (B^T B) * (A A^T), two matrices of R x R.
    squares = float(((up.T @ up) * (down @ down.T)).sum())
    return math.sqrt(max(squares, 0.0) / (up.shape[0] * down.shape[1]))
