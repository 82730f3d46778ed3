"""Keep what was encoded once: latents of clips and embeddings of texts.

A file's name is a hash of everything that its content depends on (the clip's bytes, which part of
it, the model's codec, the size), so a changed clip or another model finds nothing and makes its
own. Files are whole or absent; a run that was stopped goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcgrid.errors import WeightsError
from dcgrid.models.weights import read_weights, save_weights

Facts = Mapping[str, Any]
"""What a cached tensor depends on; anything that JSON can hold."""


@dataclass(slots=True, kw_only=True)
class CacheTally:
    """What a cache did."""

    found: int = 0
    made: int = 0
    damaged: int = 0
    """Files that could not be read or were of other content, and were made anew."""

    def line(self) -> str:
        """Return the tally as one sentence."""
        mended = f", {self.damaged} of them damaged before" if self.damaged else ""
        return f"cache: {self.found} found, {self.made} made{mended}"


class TensorCache:
    """A folder of tensors by what they depend on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tally = CacheTally()

    def path(self, facts: Facts) -> Path:
        """Return the file of these facts, there or not."""
        text = json.dumps(dict(facts), sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.safetensors"

    def get(self, facts: Facts, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors of these facts, made and kept if they are not there.

        Args:
            facts: Everything that the tensors depend on.
            make: Makes them; their dtype is kept.

        Raises:
            OutputError: They cannot be written.
        """
        path = self.path(facts)
        if path.exists():
            try:
                tensors, stored = read_weights(path)
                if stored == json.loads(json.dumps(dict(facts))):
                    self.tally.found += 1
                    return tensors
            except WeightsError:
                pass
            self.tally.damaged += 1
        tensors = {name: tensor.detach().cpu() for name, tensor in make().items()}
        dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
        if len(dtypes) > 1:
            raise ValueError(f"tensors of one entry have {len(dtypes)} number formats")
        save_weights(path, tensors, facts, dtypes.pop() if dtypes else torch.float32)
        self.tally.made += 1
        return tensors
