"""What stages know of a model before any network is built: shapes, speed, which layers are trained.

Native models say it in their preset (that of `paper`, whose weights nobody has, too), checkouts in
their configs. No weights are read.
"""

from dataclasses import dataclass

from dcgrid.adapters.spec import Targets, adapter_targets
from dcgrid.errors import UsageError
from dcgrid.grid.layout import LatentGeometry
from dcgrid.models.native.config import PRESETS, NativeConfig
from dcgrid.models.native.folder import CONFIG_NAME
from dcgrid.models.registry import find_model, training_spec

WAN_TABLES = ("wan2.1", "wan2.2")
"""Tables of a training recipe for checkouts: of 8 pixels a latent, and of 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainFacts:
    """Facts about a model that is trained, or trained on."""

    name: str
    """What adapters call it."""
    tables: tuple[str, ...]
    """Tables of a training recipe that are for it; later ones win."""
    native: NativeConfig | None
    """The preset; None: a checkout, whose own weights are not trained here."""
    fps: float
    """Frames per second."""
    geometry: LatentGeometry
    """Pixels to latents to tokens."""
    latent_channels: int
    """C of the latents."""
    noise_motion: tuple[tuple[int, float], ...]
    """How the last channels of the noise move; empty: all noise is white."""
    own_clause_only: bool
    """True: a cell reads the global text and its own clause, whatever the mode lets it read."""
    given_first: bool
    """True: given cells read given cells alone, whatever adapter is on."""
    time_shift: float
    """Shift of samplers' times where no adapter says another; 1 is none."""
    self_conditioning: bool
    """True: the network takes its last estimate of the clean latents."""
    targets: Targets
    """Layers that adapters train."""

    def file_of(self, part: str) -> str:
        """Return the name of a part's file in the folder of a run.

        A model that reads text with T5 has no weights of it there, but a note of where it is.
        """
        noted = part == "text" and self.native is not None and self.native.text is None
        return CONFIG_NAME if noted else f"{part}.safetensors"


def train_facts(model: str) -> TrainFacts:
    """Return the facts of a model.

    Args:
        model: A preset, or what `--model` may be.

    Raises:
        UsageError: No model has that name.
        WeightsError: It is a folder, but no checkout that can be used.
    """
    return _of_preset(model, PRESETS[model]) if model in PRESETS else _of_checkout(model)


def preset_of(model: str, stage: str) -> NativeConfig:
    """Return the preset of a model whose own weights a stage makes.

    Raises:
        UsageError: It is not one of ours.
    """
    if model not in PRESETS:
        raise UsageError(
            f"stage {stage} makes weights of the program's own models; {model} has its weights",
            hint="stages dc, cells, grid, sample and fill train adapters on it",
        )
    return PRESETS[model]


def table_names() -> tuple[str, ...]:
    """Return the names that a table of overrides for one model may have."""
    return (*PRESETS, *WAN_TABLES)


def _of_preset(model: str, config: NativeConfig) -> TrainFacts:
    codec, dit = config.autoencoder, config.dit
    spec = training_spec(model)
    return TrainFacts(
        name=model,
        tables=(model,),
        native=config,
        fps=spec.fps,
        geometry=LatentGeometry(
            stride_T=codec.total_stride_T, stride_HW=codec.total_stride_HW, patch=dit.patch
        ),
        latent_channels=codec.latent_channels,
        noise_motion=dit.noise_motion,
        # The paper's cells read what their mode lets them read (docs/decisions/0001).
        own_clause_only=spec.own_clause_only,
        given_first=dit.given_first,
        time_shift=spec.time_shift,
        self_conditioning=dit.self_conditioning,
        targets=adapter_targets(config),
    )


def _of_checkout(model: str) -> TrainFacts:
    spec = find_model(model).spec
    return TrainFacts(
        name=spec.name,
        tables=(WAN_TABLES[spec.stride_HW >= 16],),
        native=None,
        fps=spec.fps,
        geometry=LatentGeometry(stride_T=spec.stride_T, stride_HW=spec.stride_HW, patch=spec.patch),
        latent_channels=spec.latent_channels,
        noise_motion=(),
        own_clause_only=spec.own_clause_only,
        given_first=False,
        time_shift=spec.time_shift,
        self_conditioning=False,
        targets=adapter_targets(None),
    )
