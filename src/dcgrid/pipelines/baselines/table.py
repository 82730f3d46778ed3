"""Which methods there are, what they need, and what they do by default. No torch.

`method_of(name)`, then `prepare(job)`, `refuse(...)` once the clip is planned, and `generate_fn()`,
which is called like `fill_grid`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from dcgrid.errors import UsageError
from dcgrid.pipelines.job import EditJob

if TYPE_CHECKING:
    from dcgrid.pipelines.sampling import GenerateFn

_SMALL_MODELS = ("mini", "tiny")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to edit a clip."""

    key: str
    """Name as in `--method`."""
    label: str
    """Name for people."""
    source: str
    """Who published it, and where."""
    title: str
    """What it does, a few words."""
    module: str
    """File in this folder; its `generate` is the method."""
    uses_adapter: bool = False
    """True: it wants the Grid-Fill adapter. False: the bare base is loaded for it."""
    trains: bool = False
    """True: it trains on the clip before it generates."""
    continues: bool = False
    """True: it takes clips of several windows."""
    steps: int | None = None
    """Sampling steps with the program's own models where nobody names any; None: the model's.
    With other models it is always theirs."""
    guidance_scale: float | None = None
    """Weight of the text, likewise."""

    @property
    def line(self) -> str:
        """What a plan says of it, one sentence."""
        learns = ", after training on the clip" if self.trains else ""
        return f"Method: {self.label} ({self.source}): {self.title}{learns}."

    def generate_fn(self) -> "GenerateFn":
        """Return what generates; this loads torch."""
        found: GenerateFn = import_module(f"dcgrid.pipelines.baselines.{self.module}").generate
        return found

    def prepare(self, job: EditJob) -> EditJob:
        """Return a job with this method, its own sampler values where the user names none.

        Raises:
            UsageError: The job names an adapter, and the method takes none.
        """
        job = replace(job, method=self.key)
        if not self.uses_adapter:
            if job.adapter not in ("default", "none"):
                raise UsageError(
                    f"--method {self.key} works on the bare base and takes no --adapter",
                    hint="leave out --adapter, or use --lora for what changes the base",
                )
            job = replace(job, adapter="none")
        if job.model not in _SMALL_MODELS:
            return job
        asked = job.guidance_scale
        return replace(
            job,
            num_inference_steps=job.num_inference_steps or self.steps,
            guidance_scale=self.guidance_scale if asked is None else asked,
        )

    def refuse(self, *, windows: int, longest_s: float, processes: int = 1) -> None:
        """Refuse before anything is loaded what the method cannot do.

        Args:
            windows: In how many windows the clip would be generated.
            longest_s: Seconds of the longest clip of one window.
            processes: How many processes generate.

        Raises:
            UsageError: The clip is too long for it, or it trains and there are several processes.
        """
        if windows > 1 and not self.continues:
            raise UsageError(
                f"--method {self.key} edits a clip in one go and cannot continue it from window "
                "to window",
                # Rounded down, so that what is named is not too long again.
                hint=f"use --duration {int(longest_s * 100) / 100:g} or less",
            )
        if processes > 1 and self.trains:
            raise UsageError(
                f"--method {self.key} trains in one process, not in {processes}",
                hint="start it without torchrun",
            )


_ALL = (
    Method(
        key="grid",
        label="Grid-Fill",
        source="this program's own, after arXiv 2507.17963",
        title="fills a grid beside the given clip",
        module="inpaint",
        uses_adapter=True,
        continues=True,
    ),
    Method(
        key="inpaint",
        label="Grid inpainting",
        source="Huang et al. 2024, arXiv 2410.23775, without its LoRA",
        title="fills the same grid with the bare base",
        module="inpaint",
        continues=True,
        steps=24,
    ),
    Method(
        key="sdedit",
        label="SDEdit",
        source="Meng et al. 2022, arXiv 2108.01073",
        title="noises the clip and samples back under the edit's text",
        module="sdedit",
        steps=24,
        guidance_scale=4.0,
    ),
    Method(
        key="flowedit",
        label="FlowEdit",
        source="Kulikov et al. 2024, arXiv 2412.08629",
        title="follows the difference of two velocities from clip to edit",
        module="flowedit",
        steps=28,
        guidance_scale=2.5,
    ),
    Method(
        key="dreambooth",
        label="DreamBooth-LoRA",
        source="Ruiz et al. 2023, arXiv 2208.12242; Ryu 2023, github.com/cloneofsimo/lora",
        title="ties the clip to a rare word and generates from noise",
        module="dreambooth",
        trains=True,
        steps=4,
        guidance_scale=2.0,
    ),
    Method(
        key="dreammix",
        label="DreamMix",
        source="Molad et al. 2023, arXiv 2302.01329",
        title="learns the clip and its frames, then generates from the noised clip",
        module="dreammix",
        trains=True,
        steps=24,
        guidance_scale=4.0,
    ),
    Method(
        key="set-and-sequence",
        label="Set-and-Sequence",
        source="Abdal et al. 2025, arXiv 2502.14844",
        title="learns first the frames as a set, then their motion, and generates from noise",
        module="set_and_sequence",
        trains=True,
        steps=4,
        guidance_scale=2.0,
    ),
    Method(
        key="unedited",
        label="Unedited",
        source="a reference, no method",
        title="gives back the clip itself",
        module="unedited",
        continues=True,
    ),
    Method(
        key="codec",
        label="Codec",
        source="a reference, no method",
        title="gives back the clip after the model's autoencoder",
        module="codec",
        continues=True,
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({method.key: method for method in _ALL})
"""All methods by name, in the order of tables."""


def method_of(name: str) -> Method:
    """Return a method by its name.

    Raises:
        UsageError: There is none; the hint names the nearest.
    """
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name, list(METHODS), n=1)
    raise UsageError(
        f"no method is called {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"methods: {', '.join(METHODS)}",
    )
