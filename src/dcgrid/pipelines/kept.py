"""Models that stay loaded from one run to the next."""

import gc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from dcgrid.adapters.find import find_adapter
from dcgrid.io.progress import Progress
from dcgrid.pipelines.loading import LoadedModel, ModelRequest, adapter_file, load_model, lora_files


class KeptModels:
    """Loads a model once; the least recently used ones go.

    Args:
        most: How many stay loaded.
    """

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._models: OrderedDict[tuple[Any, ...], tuple[LoadedModel, bool, bool]] = OrderedDict()
        """Model, and how its given cells enter before any layout says so: clean, first."""

    def load(self, request: ModelRequest, progress: Progress) -> LoadedModel:
        """Return a model that was loaded before from the same files, else load it."""
        job = request.job
        settings = (job.quantize, job.attention, job.compile, request.offload, request.stage)
        key = (*_files(request), *settings, str(request.device), request.dtype)
        if key in self._models:
            loaded, clean, first = self._models[key]
            loaded.backbone.use_given(clean=clean, first=first)
            self._models.move_to_end(key)
            return loaded
        while len(self._models) >= self._most:
            self._models.popitem(last=False)
            _free_memory()
        loaded = load_model(request, progress)
        spec = loaded.backbone.spec
        self._models[key] = (loaded, spec.per_cell_time, spec.given_first)
        return loaded

    def clear(self) -> bool:
        """Let go of all models; return True if there were any."""
        had_any = bool(self._models)
        self._models.clear()
        _free_memory()
        return had_any


def _files(request: ModelRequest) -> tuple[Any, ...]:
    """Return what tells apart the files that a model is loaded from: path, size, time of change."""
    job, model = request.job, request.model
    paths = list(model.files.values())
    loras = lora_files(job)
    adapter = adapter_file(job, model, request.mode)
    concepts = find_adapter(job.concepts, offline=job.offline) if job.concepts else None
    paths += [path for path in (adapter, concepts) if path is not None]
    paths += [path for _, path in loras]
    strengths = [choice.strength for choice, _ in loras]
    return (model.name, str(adapter), str(concepts), *strengths, *map(_seen, paths))


def _seen(path: Path) -> tuple[str, int, int]:
    if not path.exists():
        return str(path), 0, 0
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
