"""Networks of a checkout that have no numbers in memory, and the numbers in its files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dcgrid.errors import WeightsError
from dcgrid.models.quantize import QuantLinear, quantize_rows

Foreign: TypeAlias = Any
"""A module of diffusers or transformers, whose parts their types do not tell."""

Read: TypeAlias = Callable[[], Iterable[Tensor]]

_PIECE = 1 << 24
"""Numbers that are looked at in one go: UMT5's table of words has a billion."""


class StoredWeights:
    """The tensors of some safetensors files by name; files are mapped, not read whole.

    Args:
        files: The shards of one network.

    Raises:
        WeightsError: A file is damaged.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)
        self._where: dict[str, Any] = {}
        for path in self._files:
            try:
                file: Foreign = safe_open(path, "pt")
            except (SafetensorError, OSError) as error:
                raise WeightsError(
                    f"cannot load {path}: {error}", hint="fetch the model again"
                ) from error
            for name in file.keys():  # noqa: SIM118  # it is no dict
                self._where[name] = file

    def __contains__(self, name: str) -> bool:
        """Return True if there is a tensor of that name."""
        return name in self._where

    def require(self, shapes: Mapping[str, torch.Size]) -> None:
        """Check that there are tensors of some names and shapes; no numbers are read.

        Raises:
            WeightsError: One is missing or of another shape.
        """
        for name, shape in shapes.items():
            found = tuple(self._file_of(name).get_slice(name).get_shape())
            if found != tuple(shape):
                raise _other_shape(name, found, shape)

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is stored.

        Raises:
            WeightsError: There is none of that name, or it cannot be read.
        """
        file = self._file_of(name)
        try:
            tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"cannot read {name} of {self._files[0].parent}: {error}",
                hint="fetch the model again",
            ) from error
        return tensor

    def read_finite(self, name: str) -> Tensor:
        """Return a tensor as it is stored.

        Raises:
            WeightsError: It cannot be read, or holds numbers that are not finite.
        """
        tensor = self.read(name)
        check_finite(self._files[0].parent, name, tensor)
        return tensor

    def check_finite(self) -> None:
        """Read everything once.

        Raises:
            WeightsError: A tensor holds numbers that are not finite.
        """
        for name in self._where:
            self.read_finite(name)

    def _file_of(self, name: str) -> Foreign:
        if name not in self._where:
            raise WeightsError(
                f"{self._files[0].parent} has no {name}", hint="fetch the model again"
            )
        return self._where[name]


def check_finite(folder: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor with numbers that are none.

    Args:
        folder: Where it is stored, for errors.
        name: What it is called there.
        tensor: Its numbers.

    Raises:
        WeightsError: It has some.
    """
    if not all(piece.isfinite().all() for piece in tensor.detach().flatten().split(_PIECE)):
        raise WeightsError(
            f"{folder}: {name} holds numbers that are not finite", hint="fetch the model again"
        )


def wan_skeleton(config: dict[str, Any], stored: StoredWeights, dtype: torch.dtype) -> Foreign:
    """Return a Wan transformer in evaluation mode that has all its weights but the blocks'.

    Args:
        config: Of diffusers.
        stored: Its weights.
        dtype: Of what diffusers does not keep in float32.

    Raises:
        WeightsError: A weight is missing or of another shape.
    """
    import diffusers

    build: Foreign = diffusers.WanTransformer3DModel.from_config
    # The rest is built in memory: tables that no file has are computed then.
    model: Foreign = build({**config, "num_layers": 0})
    with torch.device("meta"):
        model.blocks = build(config).blocks
    model.register_to_config(num_layers=config["num_layers"])
    kept = set(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        wide = bool(kept & set(name.split(".")))
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(torch.float32 if wide else dtype)
        if not parameter.is_meta:
            _fill(parameter, stored.read(name), name)
    return model.eval()


def _fill(parameter: nn.Parameter, tensor: Tensor, name: str) -> None:
    if tensor.shape != parameter.shape:
        raise _other_shape(name, tensor.shape, parameter.shape)
    parameter.data.copy_(tensor)


def _other_shape(name: str, found: Sequence[int], wanted: Sequence[int]) -> WeightsError:
    return WeightsError(
        f"{name} has shape {tuple(found)}, not {tuple(wanted)}",
        hint="the config and the weights are of two models; fetch the model again",
    )


def block_on_disk(
    block: nn.Module, prefix: str, stored: StoredWeights
) -> tuple[list[Tensor], Read]:
    """Return the tensors of a block, and how to read their numbers, in the same order.

    Args:
        block: On the meta device; gets tensors without numbers, off it.
        prefix: Its name in the files.
        stored: The files.

    Raises:
        WeightsError: A weight is missing or of another shape.
    """
    _leave_meta(block)
    plan: list[tuple[str, QuantLinear | None]] = []
    tensors: list[Tensor] = []
    shapes: dict[str, torch.Size] = {}
    for path, module in block.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            key = ".".join(filter(None, (prefix, path, name)))
            rounded = module if isinstance(module, QuantLinear) and name == "weight" else None
            plan.append((key, rounded))
            shapes[key] = parameter.shape
            tensors += [parameter] if rounded is None else [parameter, rounded.step_O1]
    stored.require(shapes)

    def read() -> Iterator[Tensor]:
        for key, layer in plan:
            tensor = stored.read(key)
            if layer is None:
                yield tensor
            else:
                # First to the dtype that it has in memory, so that both ways round alike.
                dtype = layer.step_O1.dtype
                yield from quantize_rows(tensor.to(dtype), layer.kind, dtype)

    return tensors, read


def text_skeleton(files: Sequence[Path], dtype: torch.dtype) -> tuple[Foreign, Read]:
    """Return a UMT5 encoder without numbers, and how to read them in the order of its parameters.

    Args:
        files: Its weights, beside its config.
        dtype: Of its parameters.

    Raises:
        WeightsError: A weight is missing or of another shape; when read: not finite.
    """
    import transformers

    stored = StoredWeights(files)
    config = transformers.UMT5Config.from_pretrained(files[0].parent)
    with torch.device("meta"):
        encoder: Foreign = transformers.UMT5EncoderModel(config)
    encoder.tie_weights()
    encoder.to(dtype).eval().requires_grad_(False)
    _leave_meta(encoder)
    names: dict[int, list[str]] = {}
    for name, parameter in encoder.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    # Of a weight with two names the files have one.
    keys = [
        next((name for name in names[id(parameter)] if name in stored), names[id(parameter)][0])
        for parameter in encoder.parameters()
    ]
    shapes = [parameter.shape for parameter in encoder.parameters()]
    stored.require(dict(zip(keys, shapes, strict=True)))
    return encoder, lambda: (stored.read_finite(key) for key in keys)


def _leave_meta(module: nn.Module) -> None:
    """Replace meta tensors by ones of one number seen from everywhere, which take no memory."""
    replaced: dict[int, Tensor] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in replaced:
                blank = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                replaced[id(parameter)] = nn.Parameter(blank, requires_grad=False)
            owner.register_parameter(name, replaced[id(parameter)])  # type: ignore[arg-type]
        for name, buffer in owner.named_buffers(recurse=False):
            owner.register_buffer(name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))
