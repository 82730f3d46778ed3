"""What the files of adapters say of their training, for plans and samplers; no numbers are read."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from dcgrid import hub
from dcgrid.adapters.foreign import assumed_scale
from dcgrid.adapters.reading import check_base, check_use, read_sha256, read_spec
from dcgrid.adapters.spec import AdapterSpec, Stage
from dcgrid.errors import AdapterError
from dcgrid.grid.modes import Mode
from dcgrid.models.base import Backbone, ModelSpec
from dcgrid.models.native.config import PRESETS
from dcgrid.pipelines.lora import parse_lora
from dcgrid.pipelines.resolve import ResolvedGrid


def planned_adapter(
    reference: str, model: ModelSpec, mode: Mode, stage: Stage = "fill"
) -> AdapterSpec | None:
    """Return what the header of an adapter says, before anything is loaded.

    Args:
        reference: Its weight reference; "none" is the bare base.
        model: What it is put on.
        mode: What the grid shows.
        stage: Which stage's adapter fills it.

    Returns:
        None: there is no adapter, or its file has to be downloaded first.

    Raises:
        AdapterError: The file is damaged, is no adapter of this program, or is for another model,
            stage or mode.
    """
    path = None if reference == "none" else hub.locate_weights(reference)
    if path is None:
        return None
    spec = read_spec(path)
    if spec is None:
        raise AdapterError(
            f"{path} is not an adapter that dcgrid wrote",
            hint=f"a LoRA of another program goes under the adapter: --lora {quote(str(path))}",
        )
    check_use(spec, path, stage, mode)
    _check_model(spec, path, model)
    return spec


def _check_model(adapter: AdapterSpec, path: Path, model: ModelSpec) -> None:
    """Refuse an adapter for another of our own models; of checkouts the hashes decide, at loading.

    Raises:
        AdapterError: It is one.
    """
    if model.name in PRESETS:
        check_base(adapter, path, model.name, "")


def use_adapter(backbone: Backbone, adapter: AdapterSpec) -> None:
    """Let a backbone and its samplers do what an adapter that was put on was trained for."""
    backbone.use_given(clean=adapter.given == "clean", first=adapter.given_first)
    shift = adapter.inference_time_shift
    backbone.use_sampling(
        noise_scale=adapter.sampled_noise_scale,
        time_shift=backbone.spec.time_shift if shift is None else shift,
        self_conditioning=adapter.self_conditioning,
    )


def adapter_lines(
    spec: ModelSpec,
    adapters: Sequence[AdapterSpec],
    grids: Sequence[ResolvedGrid],
    loras: Sequence[str],
) -> list[str]:
    """Return what is unusual in the numbers that grids are sampled with, a sentence a line.

    Args:
        spec: The model.
        adapters: Those that fill the grids, the Grid-Fill adapter first.
        grids: What is filled; recipes may override an adapter's numbers.
        loras: The job's, as `parse_lora` reads them.
    """
    lines = [line for one in adapters if (line := _sampling_line(spec, one))]
    scale = adapters[0].sampled_noise_scale if adapters else spec.noise_scale
    owner = f"adapter {adapters[0].name}" if adapters else spec.name
    for asked in dict.fromkeys(grid.noise_scale for grid in grids):
        if asked is not None and asked != scale:
            lines.append(f"Noise scale: {asked:g} from the recipe; {owner} has {scale:g}.")
    for given_as in dict.fromkeys(grid.given_as for grid in grids):
        if adapters and given_as not in ("trained", adapters[0].given):
            lines.append(
                f'Given cells: "{given_as}" from the layout; {owner} was trained with '
                f'"{adapters[0].given}".'
            )
    for choice in map(parse_lora, loras):
        path = hub.locate_weights(choice.reference)
        lora = None if path is None else read_spec(path)
        if path is not None and lora is not None:
            _check_model(lora, path, spec)
        if path is not None and lora is None and (assumed := assumed_scale(path)):
            lines.append(f"LoRA {path.name}: scale 1 is {assumed}.")
        if lora is not None and lora.sampled_noise_scale != scale:
            lines.append(
                f"LoRA {lora.name} is for noise scale {lora.sampled_noise_scale:g}; {owner} has "
                f"{scale:g}, which is used."
            )
    return lines


def multi_dc_lines(reference: str, adapter: AdapterSpec | None, loras: Sequence[str]) -> list[str]:
    """Return what becomes of the Multi-DC LoRA that an adapter was trained on; empty: on none.

    It is left away unless a `--lora` names it, at the strength that stands there.

    Args:
        reference: The adapter's weight reference; its Multi-DC LoRA may stand beside it.
        adapter: What the adapter's header says.
        loras: The job's, as `parse_lora` reads them.

    Paper: sec. 3.2, Table 1
    """
    if adapter is None or not adapter.dc_strength:
        return []
    trained = f"adapter {adapter.name} was trained on it at {adapter.dc_strength:g}"
    for choice in map(parse_lora, loras):
        path = hub.locate_weights(choice.reference)
        lora = None if path is None else read_spec(path)
        if path is not None and lora is not None and lora.stage == "dc":
            other = "" if read_sha256(path) == adapter.dc_sha256 else "; this is another one"
            return [f"Multi-DC: kept at {choice.strength:g}; {trained}{other}."]
    own = hub.locate_weights(reference)
    beside = None if own is None else own.parent / "dc.safetensors"
    known = beside is not None and beside.is_file() and read_sha256(beside) == adapter.dc_sha256
    file = quote(str(beside)) if known else "FILE"
    return [f"Multi-DC: left away; {trained}. To keep it: --lora {file}:{adapter.dc_strength:g}"]


def _sampling_line(spec: ModelSpec, adapter: AdapterSpec) -> str:
    """Return an adapter's numbers if they are not the model's, else nothing."""
    scale, shift = adapter.sampled_noise_scale, adapter.inference_time_shift
    told = []
    if not scale == adapter.noise_scale == spec.noise_scale:
        told.append(f"noise scale {scale:g} ({adapter.noise_scale:g} in training)")
    if shift is not None and shift != spec.time_shift:
        told.append(f"time shift {shift:g}")
    return f"Adapter {adapter.name}: sampled with {', '.join(told)}." if told else ""
