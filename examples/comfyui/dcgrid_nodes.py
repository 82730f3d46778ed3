"""ComfyUI nodes over `dcgrid.Session`: load a model, edit a video, compose two.

Copy this file into ComfyUI/custom_nodes/ and install dcgrid into ComfyUI's Python. Videos come as
VIDEO, or as IMAGE ([N, H, W, C], float, 0 to 1) with a rate; results come as both. VIDEO keeps
sound and time stamps. docs/comfyui.md says what of it was tried.
"""

import logging
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av
import torch

import dcgrid
from dcgrid.pipelines.elements import ELEMENT_CLIPS
from dcgrid.recipes import effect_names

NONE = "(none)"
SEED = ("INT", {"default": 0, "min": 0, "max": 2**63 - 1})
FPS = ("FLOAT", {"default": 24.0, "min": 1.0, "max": 1000.0, "step": 0.001})
WORDS = ("STRING", {"default": "", "multiline": True})


class LoadSession:
    """Names a model; it is loaded by the first edit and stays."""

    CATEGORY = "dcgrid"
    FUNCTION = "load"
    RETURN_TYPES = ("DCGRID_SESSION",)

    def __init__(self) -> None:
        self._session: dcgrid.Session | None = None

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the widgets."""
        return {
            "required": {
                "model": ("STRING", {"default": "mini"}),
                "adapter": ("STRING", {"default": "default"}),
                "device": ("STRING", {"default": "auto"}),
            }
        }

    def load(self, model: str, adapter: str, device: str) -> tuple[dcgrid.Session]:
        """Return the session; the node's one before lets go of its memory."""
        if self._session is not None:
            self._session.close()
        self._session = dcgrid.Session(model, adapter=adapter, device=device)
        return (self._session,)


class _Fills:
    CATEGORY = "dcgrid"
    FUNCTION = "run"
    RETURN_TYPES = ("VIDEO", "IMAGE")
    # As the first input of every run: a video, or pictures with their rate.
    INPUTS: ClassVar[dict[str, Any]] = {"video": ("VIDEO",), "images": ("IMAGE",), "fps": FPS}


class Edit(_Fills):
    """One effect, one edit in free words, or both; the first of them is the output."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return inputs and widgets."""
        return {
            "required": {
                "session": ("DCGRID_SESSION",),
                "effect": ([NONE, *effect_names()], {"default": "rain"}),
                "prompt": WORDS,
                "seed": SEED,
            },
            "optional": cls.INPUTS,
        }

    def run(
        self, session: dcgrid.Session, effect: str, prompt: str, seed: int, **clip: Any
    ) -> tuple[Any, torch.Tensor]:
        """Edit and return the first edit."""
        folder = _folder()
        with _Readable():
            effects = [] if effect == NONE else [effect]
            source = _file(folder, "input", clip)
            return _outputs(
                session.edit(source, effects, prompt=prompt, seed=seed, out=folder, progress=_Bar())
            )


class Compose(_Fills):
    """The subject of one video with a concept: a clip of the program, or a second video."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return inputs and widgets."""
        second = {"second": ("VIDEO",)}
        return {
            "required": {
                "session": ("DCGRID_SESSION",),
                "subject": WORDS,
                "concept": ([NONE, *ELEMENT_CLIPS], {"default": "sparks"}),
                "seed": SEED,
            },
            "optional": cls.INPUTS | second,
        }

    def run(
        self,
        session: dcgrid.Session,
        subject: str,
        concept: str,
        seed: int,
        second: Any = None,
        **clip: Any,
    ) -> tuple[Any, torch.Tensor]:
        """Compose and return the first fusion."""
        folder = _folder()
        with _Readable():
            first = _file(folder, "input", clip)
            other = None if second is None else _file(folder, "second", {"video": second})
            words = {} if concept == NONE else {"concept": concept}
            words |= {"subject": subject} if subject else {}
            return _outputs(
                session.compose(first, other, seed=seed, out=folder, progress=_Bar(), **words)
            )


class _Bar:
    """ComfyUI's progress bar, and its button that stops."""

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        from comfy.utils import ProgressBar

        self._bar = ProgressBar(total or 1)

    def update(self, done: int, total: int | None = None) -> None:
        from comfy.model_management import throw_exception_if_processing_interrupted

        throw_exception_if_processing_interrupted()
        self._bar.update_absolute(done, total)

    def note(self, line: str) -> None:
        logging.info("dcgrid: %s", line)

    def warn(self, line: str) -> None:
        logging.warning("dcgrid: %s", line)


class _Readable:
    """ComfyUI shows the message of an exception: the hint belongs to it."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, dcgrid.DcgridError):
            raise RuntimeError(f"{error.message} ({error.hint})" if error.hint else error.message)


def _folder() -> Path:
    """Return a new folder among ComfyUI's temporary files, which it deletes when it starts."""
    import folder_paths

    top = Path(folder_paths.get_temp_directory())
    top.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="dcgrid-", dir=top))


def _file(folder: Path, name: str, clip: dict[str, Any]) -> Path:
    """Write a VIDEO as the file that it is, or IMAGE without loss."""
    video, images = clip.get("video"), clip.get("images")
    if (video is None) == (images is None):
        raise dcgrid.UsageError("connect either video or images, with fps, to this node")
    if video is not None:
        path = folder / f"{name}.mp4"
        video.save_to(str(path))
        return path
    path = folder / f"{name}.mkv"
    rate = Fraction(clip.get("fps", FPS[1]["default"])).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "bgr0"
        for image_HWC in images:
            pixels_HWC = (image_HWC[..., :3].clamp(0, 1) * 255).round().to("cpu", torch.uint8)
            frame = av.VideoFrame.from_ndarray(pixels_HWC.contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _outputs(result: dcgrid.Result) -> tuple[Any, torch.Tensor]:
    from comfy_api.latest import InputImpl

    best = result.videos[0]
    return InputImpl.VideoFromFile(str(best.path)), best.frames("torch").float() / 255


NODE_CLASS_MAPPINGS = {
    "DcgridLoadSession": LoadSession,
    "DcgridEdit": Edit,
    "DcgridCompose": Compose,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DcgridLoadSession": "dcgrid: model",
    "DcgridEdit": "dcgrid: edit",
    "DcgridCompose": "dcgrid: compose",
}
