"""What a run is asked to do: one dataclass a command. No torch here.

`GridJob` is what every command that fills grids asks; `EditJob` and `ComposeJob` add their own.
resolve.py turns a job into cells, text and sampler values.

`--lora FILE[:STRENGTH]` names LoRAs that go into the base before its Grid-Fill adapter. A reference
may hold colons itself (hf:OWNER/REPO/FILE), so only a number after the last one is a strength.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Le, Lt

from dcgrid import hub
from dcgrid.errors import InputVideoError, UsageError
from dcgrid.io.text import as_typed, missing_hint

MAX_STRENGTH = 4.0
"""Largest strength, either way; beyond it pictures only break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraChoice:
    """One LoRA of a job."""

    reference: str
    """See `adapters.find.find_adapter`."""
    strength: float
    """0 changes nothing, 1 is as trained."""

    def __str__(self) -> str:
        """Return the choice as a user writes it."""
        return f"{self.reference}:{self.strength!r}"


def parse_lora(text: str) -> LoraChoice:
    """Read FILE[:STRENGTH]; without a strength it is 1.

    Raises:
        UsageError: There is no file, or the strength is no number in [-4, 4].
    """
    reference, colon, tail = text.rpartition(":")
    strength = _number(tail) if colon and reference not in ("hf", "package") else None
    if strength is None and not reference.endswith(".safetensors"):
        reference, strength = text, 1.0
    if not reference.strip() or strength is None or not abs(strength) <= MAX_STRENGTH:
        raise UsageError(
            f"--lora {text!r} is no FILE or FILE:STRENGTH with a strength from "
            f"{-MAX_STRENGTH:g} to {MAX_STRENGTH:g}",
            hint="for example --lora steps.safetensors:0.8",
        )
    return LoraChoice(reference=reference, strength=strength)


def absolute_loras(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the same LoRAs as they are found from any folder, as a manifest needs them."""
    choices = map(parse_lora, texts)
    return tuple(str(replace(one, reference=absolute_reference(one.reference))) for one in choices)


def absolute_reference(reference: str) -> str:
    """Return the same weight reference as it is found from any folder.

    "default" and "none", which name no weights, stay as they are.
    """
    if reference in ("default", "none") or hub.parse_reference(reference).source != "file":
        return reference
    return str(Path(reference).expanduser().resolve())


def lora_part(number: int) -> str:
    """Return what the LoRA of this number, counted from 1, is called among the weights."""
    return f"lora {number}"


def lora_lines(texts: Sequence[str]) -> list[str]:
    """Return the LoRAs of a plan as a sentence, if there are any."""
    folded = [f"{one.reference} at {one.strength:g}" for one in map(parse_lora, texts)]
    return [f"LoRA: {', '.join(folded)}."] if folded else []


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


Keep = Literal["best", "all"]
"""Which of several tries at one edit are written."""

Upsample = Literal["guided", "plain", "none"]
"""How cells become the size of the input."""

Seconds = Annotated[float, Ge(0), Lt(1e9)]
Pixels = Annotated[int, Ge(1), Le(2**15)]

MAX_CANDIDATES = 64
"""Most seeds of one run."""
MAX_EDITS = 3
"""Most edits of one run: the cells of a 2x2 grid that are left beside the given one."""
MAX_FUSIONS = 2
"""Most fusions of one run: the cells of a 2x2 grid that are left beside the two given ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridJob:
    """What every run asks, whatever its grid shows."""

    command: ClassVar[str] = ""
    """Name of the command."""
    shows: ClassVar[str] = ""
    """What the layout recipe's `mode` must be."""
    has_reel: ClassVar[bool] = False
    """True: all results are put together as one video, too."""
    numbers_results: ClassVar[bool] = False
    """True: names of results may end in a number of their own (a.b.fusion-2.mp4)."""

    layout: str
    """Layout recipe: name or path."""
    model: str = "mini"
    """Name of the model."""
    adapter: str = "default"
    """Reference of a Grid-Fill adapter; "default": the model's own; "none": the bare base."""
    loras: tuple[str, ...] = ()
    """LoRAs that are folded into the base before the adapter, each FILE or FILE:STRENGTH."""
    concepts: str = ""
    """Reference of a file of tags that prompts may name; empty: see texts.py."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of the noise; >= 0."""
    num_inference_steps: Annotated[int, Ge(1), Le(1000)] | None = None
    """Sampling steps; None: the recipe's."""
    guidance_scale: Annotated[float, Ge(0), Le(30)] | None = None
    """Weight of the text; None: the recipe's, cell by cell."""
    device: str = "auto"
    """Device to run on: auto, cpu, cuda, cuda:N, mps."""
    offload: Literal["auto", "none", "model", "block", "disk"] = "auto"
    """Where a checkout's weights are while they are not needed; auto: the fastest that fits."""
    quantize: Literal["none", "fp8", "int8"] = "none"
    """How the weights of a checkout's blocks are stored."""
    attention: Literal["auto", "sdpa", "cudnn", "flash", "sage"] = "auto"
    """Which kernel attends in a checkout; auto: the fastest exact one that is there."""
    compile: bool = False
    """True: a checkout's blocks run as code of torch's compiler."""
    dtype: str = "auto"
    """Number format: auto, fp32, bf16, fp16."""
    out: Path | None = None
    """Folder, or file name for a single result; None: beside the input."""
    keep: Keep = "best"
    """Which tries at an edit are written when spare cells repeat it."""
    candidates: Annotated[int, Ge(1), Le(MAX_CANDIDATES)] = 1
    """How many seeds are generated, from `seed` on; the best tries of all are delivered."""
    rank: tuple[str, ...] = ()
    """Metrics that rank tries; empty: the cheap scores of ranking.py."""
    save_grid: bool = False
    """True: the whole grid is written as a video too."""
    contact_sheet: bool = True
    """True: a picture with frames of all cells is written too."""
    cell_size: Annotated[tuple[Pixels, Pixels], "[height, width] in pixels"] | None = None
    """Height and width of a cell in pixels; None: the one of the model's that fits the clip."""
    start_s: Seconds | None = None
    """Where in the (first) input to start, in seconds; None: at its first frame."""
    duration_s: Seconds | None = None
    """Seconds to use; None: the input to its end; without one, the model's usual length."""
    fps: Literal["model", "source"] = "source"
    """Frames of the result: each of the input's at its own time, or the model's rate."""
    upsample: Upsample = "guided"
    """How cells become the size of the input: with its detail, or enlarged as they are; "none":
    they stay as the model makes them."""
    force: bool = False
    """True: existing results are replaced."""
    offline: bool = False
    """True: nothing is downloaded."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where values come from, by the option's name: "command line", a variable, or a file and its
    line; options that are not in it are as they are built in."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The videos, in the order of the layout's given cells."""
        raise NotImplementedError

    @property
    def generated_by(self) -> str:
        """Name of the method that generates: "grid", or a baseline for comparisons."""
        return "grid"

    @property
    def tag(self) -> str:
        """What stands behind an edit's name in names of results; a baseline is named."""
        return "" if self.generated_by == "grid" else f".{self.generated_by}"

    def with_inputs(self, inputs: Sequence[Path]) -> Self:
        """Return the job for other files, as many as `inputs` has."""
        raise NotImplementedError

    def located(self) -> Self:
        """Return the job with whole paths, so that it can be repeated from any folder."""
        folder = Path(self.model).expanduser()
        model = str(folder.resolve()) if folder.is_dir() else self.model
        here = self.with_inputs([path.resolve() for path in self.inputs])
        return replace(
            here,
            model=model,
            adapter=absolute_reference(self.adapter),
            loras=absolute_loras(self.loras),
            concepts=absolute_reference(self.concepts) if self.concepts else "",
        )

    @property
    def starts_s(self) -> tuple[float | None, ...]:
        """Where each of them starts."""
        return (self.start_s,)

    @property
    def words(self) -> str:
        """All free text of the user."""
        raise NotImplementedError

    @property
    def typed(self) -> tuple[tuple[str, str], ...]:
        """The user's words with the option, or scene, that they were given in."""
        raise NotImplementedError

    @property
    def slots(self) -> Mapping[str, str]:
        """The user's words by the slot of the layout that they fill; "" where none were given."""
        raise NotImplementedError

    @property
    def stem(self) -> str:
        """What names of results begin with."""
        return ".".join(path.stem for path in self.inputs)

    @property
    def home(self) -> Path:
        """Folder of the results where none is asked for."""
        return self.inputs[0].parent

    def joined(self, names: tuple[str, ...]) -> str:
        """Return what stands for all results in the name of a file that there is one of."""
        return "-".join(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditJob(GridJob):
    """One run of `dcgrid edit`."""

    command: ClassVar[str] = "edit"
    shows: ClassVar[str] = "edit"

    layout: str = "edit-2x2"
    input: Path
    """The video to edit."""
    effects: tuple[str, ...] = ()
    """Names of effect recipes, or paths of recipe files."""
    prompt: str = ""
    """Free text; counts as one edit. Empty: none."""
    subject: str = ""
    """Who or what the video shows, e.g. "a cat"; empty: the layout's wording."""
    motion: str = ""
    """What the subject does, e.g. "jump"; empty: the layout's wording."""
    method: str = "grid"
    """What generates: "grid", or a baseline of `dcgrid.pipelines.baselines`."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The video."""
        return (self.input,)

    @property
    def generated_by(self) -> str:
        """The method."""
        return self.method

    def with_inputs(self, inputs: Sequence[Path]) -> Self:
        """Return the job for another video."""
        return replace(self, input=inputs[0])

    @property
    def words(self) -> str:
        """All free text of the user."""
        return " ".join((self.prompt, self.subject, self.motion))

    @property
    def typed(self) -> tuple[tuple[str, str], ...]:
        """Prompt, subject and motion."""
        return (("--prompt", self.prompt), ("--subject", self.subject), ("--motion", self.motion))

    @property
    def slots(self) -> Mapping[str, str]:
        """Subject and motion."""
        return {"subject": self.subject, "motion": self.motion}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeJob(GridJob):
    """One run of `dcgrid compose`.

    Paper: sec. 3.2 (composition)
    """

    command: ClassVar[str] = "compose"
    shows: ClassVar[str] = "composition"
    numbers_results: ClassVar[bool] = True

    layout: str = "composition-2x2"
    first: Path
    """The video of the subject, A."""
    second: Path
    """The video of what is put with it, B."""
    subject: str = ""
    """Who or what the first shows, e.g. "a man"; empty: the layout's wording."""
    motion: str = ""
    """What the subject does; empty: the layout's wording."""
    concept: str = ""
    """What the second shows, e.g. "a shower of sparks"; empty: the layout's wording."""
    concept_motion: str = ""
    """What that does; empty: the layout's wording."""
    prompts: tuple[str, ...] = ()
    """How each fusion is to look, in free text; may be fewer than the fusions."""
    concept_start_s: Seconds | None = None
    """Where in the second to start, in seconds; None: at its first frame."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Both videos."""
        return (self.first, self.second)

    def with_inputs(self, inputs: Sequence[Path]) -> Self:
        """Return the job for two other videos."""
        return replace(self, first=inputs[0], second=inputs[1])

    @property
    def starts_s(self) -> tuple[float | None, ...]:
        """Where each of them starts."""
        return (self.start_s, self.concept_start_s)

    @property
    def words(self) -> str:
        """All free text of the user."""
        return " ".join((*self.prompts, *self.slots.values()))

    @property
    def typed(self) -> tuple[tuple[str, str], ...]:
        """Prompts, subject and concept with their motions."""
        return (
            *(("--prompt", text) for text in self.prompts),
            ("--subject", self.subject),
            ("--motion", self.motion),
            ("--concept", self.concept),
            ("--concept-motion", self.concept_motion),
        )

    @property
    def slots(self) -> Mapping[str, str]:
        """Subject and concept with their motions."""
        return {
            "subject": self.subject,
            "motion": self.motion,
            "effect": self.concept,
            "effect_motion": self.concept_motion,
        }

    def joined(self, names: tuple[str, ...]) -> str:
        """Return the first name: all are fusions of the same two."""
        return names[0]


def check_input(path: Path) -> None:
    """Check that the input is a readable file, without decoding it.

    Raises:
        InputVideoError: Missing, a folder, or not readable.
    """
    if path.is_dir():
        raise InputVideoError(f"{path} is a folder, not a video", hint="name a file in it")
    if not path.exists():
        raise InputVideoError(f"{as_typed(path)} does not exist", hint=missing_hint(path))
    if not path.is_file():  # opening a pipe without a writer would wait for ever
        raise InputVideoError(f"{path} is a pipe or a device, not a video", hint="name a file")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        hint = "check its permissions"
        raise InputVideoError(f"{path} cannot be read ({reason})", hint=hint) from error


def check_numbers(job: GridJob) -> None:
    """Check that the numbers of a job are in range and agree, the strengths of LoRAs among them.

    Raises:
        UsageError: They do not.
    """
    for text in job.loras:
        parse_lora(text)
    if not 1 <= job.candidates <= MAX_CANDIDATES:
        raise UsageError(
            f"{job.candidates} candidates are out of range",
            hint=f"use --candidates 1 to {MAX_CANDIDATES}",
        )
    if job.seed + job.candidates > 2**63:
        raise UsageError(
            f"seed {job.seed} leaves no seeds for {job.candidates} candidates", hint="use --seed 0"
        )
    if len(set(job.rank)) < len(job.rank) or not all(job.rank):
        raise UsageError(
            f"--rank {','.join(job.rank)} names a metric twice, or none",
            hint="name each once: --rank id,ct,tc",
        )
    if job.seed < 0 or job.seed >= 2**63:
        raise UsageError(f"seed {job.seed} is out of range", hint="use 0 or a positive number")
    if job.num_inference_steps is not None and not 1 <= job.num_inference_steps <= 1000:
        raise UsageError(
            f"{job.num_inference_steps} sampling steps are out of range",
            hint="use --num-inference-steps 1 to 1000; 12 to 40 are usual",
        )
    if job.guidance_scale is not None and not 0 <= job.guidance_scale <= 30:
        raise UsageError(
            f"guidance scale {job.guidance_scale} is out of range",
            hint="use --guidance-scale 0 to 30; 1 is no guidance",
        )
