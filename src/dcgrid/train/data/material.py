"""What stage `dc` trains on: clips of concepts as latents, from files or from the world.

    clip -> sequence: all frames as one clip         1 C F Y X
         -> set:      each frame as a picture alone  N C 1 Y X     for phases of one frame

Latents are kept by `TensorCache`, under hashes of the clip and of the autoencoder.

Letters: N pictures of a set, C channels, F Y X latent frames/rows/columns, T H W pixel
frames/height/width.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F

from dcgrid.adapters.reading import hash_tensors
from dcgrid.hub import file_sha256
from dcgrid.models.trunk import VideoCodec
from dcgrid.runtime.device import autocast
from dcgrid.synthetic.fusion import ELEMENTS, draw_element
from dcgrid.synthetic.world_clips import WorldClips
from dcgrid.train.data.cache import TensorCache
from dcgrid.train.data.concept_manifest import Concept
from dcgrid.train.settings import Phase
from dcgrid.video.clip import ClipRules
from dcgrid.video.pixels import pixels_of_unit, signed_of
from dcgrid.video.probe import probe
from dcgrid.video.read import plan_clip, read_clip

SUBJECTS, SCENES = 5, 6
"""Concepts drawn from the world: identities and elements, as many as in the paper's section 3.1."""
WORLD_SEED = 1105
"""Seed of these, whatever the run's is: the same concepts in every run."""
_AT_ONCE = 16
"""Pictures of a set that are encoded at once."""

Size = tuple[int, int]
"""Height and width in pixels."""


class Source(Protocol):
    """A clip of one concept."""

    @property
    def concept(self) -> Concept:
        """The words for it."""

    @property
    def digest(self) -> str:
        """Hash of its content."""

    def size_of(self, sizes: Sequence[Size]) -> Size:
        """Return the size that suits the clip best."""

    def read(self, frames: int, size: Size) -> torch.Tensor:
        """Return at most so many first frames, uint8, THWC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A clip in a video file."""

    concept: Concept
    """The words for it, and which part of the file it is."""
    fps: float
    """Frames per second of the model."""
    stride: int
    """Pixel frames a latent frame of the model."""

    @property
    def digest(self) -> str:
        """Hash of the file."""
        return file_sha256(self.concept.clip)

    def size_of(self, sizes: Sequence[Size]) -> Size:
        """Return the size that cuts least."""
        rules = self._rules(1, sizes)
        plan = plan_clip(probe(self.concept.clip), rules, self.concept.start, None)
        return plan.cell_size

    def read(self, frames: int, size: Size) -> torch.Tensor:
        """Decode at most so many frames from the concept's start, uint8, THWC.

        Raises:
            InputVideoError: The file cannot be read.
        """
        concept = self.concept
        clip, _ = read_clip(
            concept.clip,
            self._rules(frames, [size]),
            start_s=concept.start,
            duration_s=concept.duration,
        )
        return clip.frames_THWC

    def _rules(self, frames: int, sizes: Sequence[Size]) -> ClipRules:
        return ClipRules(
            fps=self.fps, stride=self.stride, max_frames=frames, cell_sizes=tuple(sizes)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSource:
    """A clip that the world drew."""

    concept: Concept
    """The words for it."""
    frames_THWC: torch.Tensor = field(repr=False)
    """The clip, uint8, on the CPU."""

    @property
    def digest(self) -> str:
        """Hash of the pixels."""
        return hash_tensors({"clip": self.frames_THWC})

    def size_of(self, sizes: Sequence[Size]) -> Size:
        """Return the size whose shape is nearest."""
        _, height, width, _ = self.frames_THWC.shape
        apart = [abs(high * width - wide * height) / (high * height) for high, wide in sizes]
        return sizes[apart.index(min(apart))]

    def read(self, frames: int, size: Size) -> torch.Tensor:
        """Return the first frames, cut in the centre to the shape of `size` and scaled."""
        clip_THWC = self.frames_THWC[:frames]
        _, height, width, _ = clip_THWC.shape
        zoom = min(height / size[0], width / size[1])
        tall, wide = round(size[0] * zoom), round(size[1] * zoom)
        top, left = (height - tall) // 2, (width - wide) // 2
        cut_THWC = clip_THWC[:, top : top + tall, left : left + wide]
        if cut_THWC.shape[1:3] == size:
            return cut_THWC
        scaled = F.interpolate(
            cut_THWC.permute(0, 3, 1, 2).float(), size=size, mode="bilinear", antialias=True
        )
        return scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Latents with the text that goes with them."""

    text: str
    """The prompt."""
    latents_NCFYX: torch.Tensor
    """A set (F is 1) or one sequence (N is 1); normalised."""


def world_sources(world: WorldClips, frames: int, sizes: Sequence[Size]) -> list[WorldSource]:
    """Draw the concepts of the procedural world: subjects, and elements on a dark backdrop.

    Args:
        world: Where subjects and backgrounds are from.
        frames: Frames of each clip.
        sizes: Sizes that the clips have in turn.

    Paper: sec. 3.1 (5 identities and 6 scenes)
    """
    sources = []
    for number in range(SUBJECTS + SCENES):
        # A generator each: what one concept takes of it does not change the next.
        generator = torch.Generator().manual_seed(WORLD_SEED + number)
        size = sizes[number % len(sizes)]
        if number < SUBJECTS:
            drawn = world.draw_subject(frames, size, generator)
            clip_CTHW, words = drawn.clip_CTHW, (drawn.subject.strip(), drawn.motion, "")
        else:
            element = ELEMENTS[tuple(ELEMENTS)[number - SUBJECTS]]
            like_CTHW = torch.zeros(3, frames, *size, device=world.device)
            seconds_T = world.seconds(frames)
            clip_CTHW = draw_element(element.name, like_CTHW, seconds_T, generator)
            words = (element.phrases[0], element.motion, "against a dark backdrop")
        pixels_THWC = pixels_of_unit(clip_CTHW.permute(1, 2, 3, 0)).cpu().contiguous()
        concept = _world_concept(number + 1, words, is_subject=number < SUBJECTS)
        sources.append(WorldSource(concept=concept, frames_THWC=pixels_THWC))
    return sources


def _world_concept(number: int, words: tuple[str, str, str], *, is_subject: bool) -> Concept:
    """Name a drawn clip; the number makes its tokens unique."""
    subject, motion, scene = words
    named, moved = (re.sub(r"[^A-Za-z0-9]+", "_", word)[:40] for word in (subject, motion))
    return Concept(
        clip=Path(f"world-{number}"),
        subject=subject,
        motion=motion,
        scene=scene,
        identity=f"{named.capitalize()}_{number}_identity",
        motion_token=f"motion_{moved}_{number}",
        role="subject" if is_subject else "effect",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How clips become latents, and where these are kept."""

    autoencoder: VideoCodec
    """The encoder; it is not trained here."""
    cache: TensorCache
    """Keeps the latents."""
    fps: float
    """Frames per second of the model."""


def encode_concepts(
    sources: Sequence[Source], phases: Sequence[Phase], encoding: Encoding
) -> dict[Phase, list[Example]]:
    """Return the examples of every phase, one a concept: sets for phases of one frame.

    Raises:
        InputVideoError: A clip cannot be read.
        OutputError: The cache cannot be written.

    Paper: sec. 3.1
    """
    codec = hash_tensors(encoding.autoencoder.state_dict())
    longest = max(phase.frames for phase in phases)
    digests = [source.digest for source in sources]
    examples: dict[Phase, list[Example]] = {}
    for phase in phases:
        examples[phase] = []
        for source, digest in zip(sources, digests, strict=True):
            is_set = phase.frames == 1
            request = _Request(
                source=source,
                frames=longest if is_set else phase.frames,
                size=source.size_of(phase.sizes),
                is_set=is_set,
            )
            latents_NCFYX = _latents(request, {"clip": digest, "codec": codec}, encoding)
            concept = source.concept
            text = concept.static_prompt if is_set else concept.dynamic_prompt
            examples[phase].append(Example(text=text, latents_NCFYX=latents_NCFYX))
    return examples


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A clip in the form that a phase needs."""

    source: Source
    frames: int
    size: Size
    is_set: bool


def _latents(request: _Request, hashes: Mapping[str, str], encoding: Encoding) -> torch.Tensor:
    """Return latents that the cache has, or encode them."""
    concept = request.source.concept
    facts = {
        **hashes,
        "kind": "set" if request.is_set else "sequence",
        "start": concept.start,
        "duration": concept.duration,
        "fps": encoding.fps,
        "frames": request.frames,
        "size": list(request.size),
    }
    latents = encoding.cache.get(facts, lambda: {"latents": _encoded(request, encoding)})["latents"]
    return latents.to(encoding.autoencoder.latent_scale.device)


@torch.no_grad()
def _encoded(request: _Request, encoding: Encoding) -> torch.Tensor:
    """Encode a clip as a whole, or each of its frames alone; NCFYX."""
    device = encoding.autoencoder.latent_scale.device
    frames_THWC = request.source.read(request.frames, request.size)
    video_CTHW = signed_of(frames_THWC.permute(3, 0, 1, 2).to(device))
    clips_NCTHW = video_CTHW.transpose(0, 1)[:, :, None] if request.is_set else video_CTHW[None]
    with autocast(device, torch.bfloat16):
        parts = [encoding.autoencoder.encode(part).float() for part in clips_NCTHW.split(_AT_ONCE)]
    return torch.cat(parts).contiguous()
