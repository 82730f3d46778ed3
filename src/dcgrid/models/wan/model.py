"""Wan checkouts: found by name or folder, and loaded. Read `WanModel`."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError, safe_open

from dcgrid import hub
from dcgrid.errors import DcgridError, UsageError, WeightsError
from dcgrid.models.model import GridSize, MemoryNeed, Model, Placement, TextCounter
from dcgrid.models.native.config import PRESETS
from dcgrid.models.wan.checkpoint import WanFacts, is_checkout, known_spec, read_checkout
from dcgrid.models.wan.counts import WanSizes
from dcgrid.models.wan.digests import part_digests

if TYPE_CHECKING:
    from dcgrid.models.wan.backbone import WanBackbone


_BASE_BYTES = 550 * 1024 * 1024
"""Python, torch, diffusers and transformers, as runs of a small checkout held them."""


@dataclass(frozen=True, kw_only=True)
class WanModel(Model):
    """A Wan model: one of the hub's, or a folder in the layout of diffusers."""

    checkout: WanFacts | None
    """What its folder says; None: it has to be downloaded first."""

    @property
    def is_here(self) -> bool:
        """False: it has to be downloaded first."""
        return self.checkout is not None

    @property
    def facts(self) -> WanFacts:
        """What its folder says.

        Raises:
            WeightsError: It has to be downloaded first.
        """
        if self.checkout is None:
            raise WeightsError(f"{self.name} is not here", hint=f"dcgrid models pull {self.name}")
        return self.checkout

    @cached_property
    def sizes(self) -> WanSizes:
        """The configs of its networks; of a named model without a download."""
        if self.checkout is None:
            return WanSizes.known(self.name)
        return replace(WanSizes.of_checkout(self.checkout.folder), name=self.name)

    @property
    def download_bytes(self) -> int | None:
        """Bytes that are still to be downloaded; None: not known before the hub is asked."""
        return 0 if self.is_here else hub.model_download(self.name).bytes_left

    @property
    def text_width(self) -> int:
        """E, the width of its text embeddings."""
        return int(self.sizes.text["d_model"])

    def digests(self) -> dict[str, str]:
        """Return one SHA-256 for each part, over all its shards."""
        return part_digests(self.facts.files)

    def text_counter(self, tags: Sequence[str] = ()) -> TextCounter | None:
        """Return how its texts are counted.

        Its tokenizer is loaded only where a text is so long that letters do not settle it.
        """
        if self.checkout is None:
            return None
        from dcgrid.models.wan.parts import load_tokenizer
        from dcgrid.models.wan.text import clean_text

        folder = self.checkout.folder
        loaded: list[Any] = []

        def pieces(text: str) -> int:
            if not loaded:
                loaded.append(load_tokenizer(folder))
            # A tag is one embedding between the pieces of the words around it.
            named = "|".join(re.escape(f"[{tag}]") for tag in tags)
            around = re.split(named, text) if tags else [text]
            found = (loaded[0](clean_text(part), add_special_tokens=False) for part in around)
            words = sum(len(one.input_ids) for one in found)
            return words + len(around) - 1

        def most_pieces(text: str) -> int:
            # A piece has a byte at least; a space is put before the first, an end after the last.
            # Signs that stand for several letters are taken apart first, as UMT5's tokenizer does.
            return len(unicodedata.normalize("NFKC", clean_text(text)).encode()) + 2

        return TextCounter(
            of_segment=lambda text: pieces(text) + 1,
            of_words=pieces,
            most=most_pieces,
            whole_cell=True,
        )

    def load(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        placement: Placement | None = None,
    ) -> "WanBackbone":
        """Load the model; see `Model.load`."""
        from dcgrid.models.wan.backbone import load_wan
        from dcgrid.runtime.offload import check_offload

        where = placement or Placement()
        backbone = load_wan(
            self.facts,
            device=device,
            dtype=dtype,
            offload=check_offload(where.offload),
            quantize=where.quantize,
            attention=where.attention,
        )
        if where.compiled:
            backbone.compile_blocks()
        return backbone

    def memory_need(
        self,
        size: GridSize,
        placement: Placement,
        device: torch.device,
        dtype: torch.dtype,
        free_bytes: tuple[int, int],
    ) -> MemoryNeed:
        """Return what a grid takes, and the mode in which it fits; see `Model.memory_need`."""
        from dcgrid.models.wan.memory import MemoryJob, choose_offload, predict_memory

        on_cpu = device.type == "cpu"
        job = MemoryJob(
            cells=size.cells,
            frames=size.frames,
            height=size.height,
            width=size.width,
            quantize=placement.quantize,
            guided=size.guided,
            wide=dtype.itemsize == 4,
            given_cells=size.given,
            on_cpu=on_cpu,
        )
        mode = placement.offload
        if mode == "auto":
            free, free_host = free_bytes
            mode = choose_offload(
                self.sizes, job, free_device_bytes=free, free_host_bytes=free_host
            )
        plan = predict_memory(self.sizes, replace(job, offload=mode))
        device_bytes, host_bytes = plan.device_peak_bytes, plan.host_bytes
        if on_cpu:
            # Device and host are one there; weights that are always on the device are not there
            # twice.
            device_bytes += _BASE_BYTES + (host_bytes if mode != "none" else 0)
            host_bytes = 0
        return MemoryNeed(
            device_bytes=device_bytes,
            host_bytes=host_bytes,
            offload=mode,
            quantize=placement.quantize,
        )

    def explain_full(self, error: BaseException, need: MemoryNeed) -> DcgridError | None:
        """Return what to report where memory ran out, with the next setting to try."""
        from dcgrid.models.wan.memory import out_of_memory

        return out_of_memory(error, model=self.name, offload=need.offload, quantize=need.quantize)

    def check_processes(self, count: int, texts: Sequence[int]) -> str:
        """Return what each of several processes does; see `Model.check_processes`."""
        from dcgrid.models.wan.group import check_heads, divide

        heads = int(self.sizes.transformer["num_attention_heads"])
        for number in texts:
            check_heads(heads, number, count)
        by_text = divide(count, max(texts))[0] == 2
        work = "half for each of two texts" if by_text else "each with a part of the tokens"
        return f"Processes: {count}, {work}."

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the transformer's parameters; only headers of files are read."""
        if not self.is_here:
            return self._known_shapes()
        shapes: dict[str, tuple[int, ...]] = {}
        for path in self.facts.files["transformer"]:
            try:
                with safe_open(path, framework="pt") as file:
                    names = file.keys()
                    shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
            except (SafetensorError, OSError) as error:
                raise WeightsError(
                    f"cannot read {path}: {error}", hint="fetch the model again"
                ) from error
        return shapes

    def _known_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return what the files will hold once they are here, by the configs that are known."""
        import diffusers

        build: Any = diffusers.WanTransformer3DModel.from_config
        with torch.device("meta"):
            named = build(dict(self.sizes.transformer)).named_parameters()
        return {name: tuple(one.shape) for name, one in named}

    def fetched(self, *, offline: bool, report: hub.BytesReport | None) -> Self:
        """Return the model once it is here; see `Model.fetched`."""
        if self.is_here:
            return self
        hub.fetch_model(self.name, offline=offline, report=report)
        found = find_checkout(self.name)
        return replace(self, spec=found.spec, checkout=found.checkout)


def find_checkout(name: str) -> WanModel:
    """Return a Wan model by its name or folder.

    Raises:
        UsageError: Neither a model nor a folder has that name.
        WeightsError: It is a folder, but no Wan checkout, or a file is missing or damaged.
    """
    if name in hub.MODELS:
        source, folder = hub.MODELS[name], hub.locate_model(name)
        facts = None if folder is None else read_checkout(folder)
        spec = replace(
            known_spec(name) if facts is None else facts.spec,
            name=name,
            license=source.license,
            repo=source.repo,
            revision=source.revision if folder is None else folder.name,
        )
        here = None if facts is None else replace(facts, spec=spec)
        return WanModel(name=name, spec=spec, checkout=here)
    folder = Path(name).expanduser()
    if is_checkout(folder):
        facts = read_checkout(folder)
        return WanModel(name=name, spec=facts.spec, checkout=facts)
    if folder.is_dir():
        raise WeightsError(
            f"{folder} is no model: it has no model_index.json, and no config.json of dcgrid train",
            hint="name a folder in the layout of diffusers, such as a copy of "
            "Wan-AI/Wan2.2-TI2V-5B-Diffusers, or one that dcgrid train made",
        )
    known = [*PRESETS, *hub.MODELS]
    near = get_close_matches(name, known, n=1)
    raise UsageError(
        f"no model is called {name!r}, and no folder",
        hint=f"did you mean {near[0]!r}?" if near else f"models: {', '.join(known)}",
    )
