"""Results have size, frames and time stamps of their source; `tiny` makes the pictures."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from dcgrid.flow.noise import draw_noise
from dcgrid.models import particles
from dcgrid.models.drift import DriftingNoise
from dcgrid.models.native.presets import MINI_SPEC, TINY_SPEC
from dcgrid.models.registry import find_model
from dcgrid.pipelines import upsampling
from dcgrid.pipelines.footage import Footage, read_footage
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.sampling import to_frames, to_model_range
from dcgrid.pipelines.upsampling import (
    ResultClip,
    Shown,
    cell_noise,
    plain,
    text_size,
    upsampled,
)
from dcgrid.pipelines.windows import Join, plan_windows
from dcgrid.video.clip import ClipRules, Picture
from dcgrid.video.frames import CellFrames
from dcgrid.video.read import probe, read_clip
from tests.pipelines.runs import Silence, decoded, job, moving_square, run


def stamps(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def span_s(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.duration * stream.time_base)


def uneven(path: Path, times_ms: list[int], size: tuple[int, int] = (64, 96)) -> Path:
    """Write frames at these times, the last one shown for 100 ms."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        for index, time_ms in enumerate(times_ms):
            picture = np.full((*size, 3), 20 + 9 * index, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            packet.duration = packet.duration or 100
            container.mux(packet)
    return path


@pytest.mark.parametrize(("fps", "frames"), [(25, 33), (12, 9), (5, 4), (60, 40), (25, 1)])
def test_a_result_has_the_frames_of_its_source(tmp_path: Path, fps: int, frames: int) -> None:
    source = moving_square(tmp_path / "a.mp4", frames, size=(66, 118), fps=fps)
    result = run(job(source, duration_s=None, contact_sheet=False)).files[0]
    assert decoded(result).shape == (frames, 66, 118, 3)
    assert stamps(result) == [Fraction(n, fps) for n in range(frames)]
    with av.open(str(result)) as container:
        assert frames == 1 or container.streams.video[0].average_rate == fps


@pytest.mark.parametrize("end", [[1040, 1080], [1540, 3040]])
def test_every_frame_of_a_varying_rate_has_its_own_time(tmp_path: Path, end: list[int]) -> None:
    times = [0, 40, 80, 200, 233, 266, 500, 540, *end]
    source = uneven(tmp_path / "a.mp4", times)
    result = run(job(source, duration_s=None)).files[0]
    assert [round(1000 * stamp) for stamp in stamps(result)] == times
    assert span_s(result) == pytest.approx((times[-1] + 100) / 1000, abs=0.002)


def test_a_part_begins_with_the_frame_on_display(tmp_path: Path) -> None:
    source = moving_square(tmp_path / "a.mp4", 50, fps=25)
    result = run(job(source, start_s=0.59, duration_s=0.6)).files[0]
    assert stamps(result) == [Fraction(n, 25) for n in range(15)]
    varying = uneven(tmp_path / "b.mp4", [0, 40, 200, 300, 450])
    result = run(job(varying, start_s=0.25, duration_s=0.1, force=True)).files[0]
    # The frame of 0.2 s is on display for 50 ms more, and the next one comes in time.
    assert [round(1000 * stamp) for stamp in stamps(result)] == [0, 50]


def test_odd_sides_get_one_pixel_more_and_the_run_says_so(tmp_path: Path) -> None:
    source = tmp_path / "a.gif"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 61, 47, "rgb8"
        for level in (40, 90, 200):
            picture = np.full((47, 61, 3), level, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    result = run(job(source, duration_s=None))
    assert decoded(result.files[0]).shape == (3, 48, 62, 3)
    assert "Padded from 61x47 to 62x48: H.264 needs even sides." in result.notes


def test_a_cell_may_stay_as_the_model_makes_it(tmp_path: Path) -> None:
    source = moving_square(tmp_path / "a.mp4", 25, size=(64, 120), fps=25)
    plan = plan_run(prepare_run(job(source, duration_s=None, upsample="none", fps="model")))
    assert plan.as_json()["result_size"] == [26, 48]
    assert "Result: 48x26, 12 frames, 12 fps, the model's rate" in "\n".join(plan.lines())
    result = run(job(source, duration_s=None, upsample="none", fps="model")).files[0]
    assert decoded(result).shape == (12, 26, 48, 3)
    assert stamps(result) == [Fraction(n, 12) for n in range(12)]


def numbered(
    tmp_path: Path, frames: int, fps: int, cell_size: tuple[int, int] = (32, 48)
) -> Footage:
    """A source of a size that fills cells of 32x48 but for a padding of two rows."""
    path = moving_square(tmp_path / "a.mp4", frames, size=(56, 96), fps=fps)
    rules = ClipRules(
        fps=12, stride=4, max_frames=9, longest=401, cell_sizes=(cell_size,), keeps_all=True
    )
    clip, plan = read_clip(path, rules)
    return Footage(path=path, plan=plan, whole_THWC=clip.frames_THWC, stream=CellFrames(path, plan))


@pytest.mark.parametrize("threads", [1, 3])
def test_each_source_frame_shows_the_cell_frame_nearest_in_time(
    tmp_path: Path, threads: int
) -> None:
    footage = numbered(tmp_path, 60, 25)
    count = footage.plan.num_frames
    windows = plan_windows(count, 9, Join(head=5, blend=0), 4)
    cell_THWC = torch.zeros(count, 32, 48, 3, dtype=torch.uint8)
    cell_THWC += torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    cell_THWC[:, [0, 1, 30, 31]] = 255  # the padding must not be seen
    pieces = [cell_THWC[one.first :][one.fresh] for one in windows]
    shown = list(upsampled(footage, windows, pieces, plain((56, 96)), threads=threads))
    assert [one.result.time for one in shown] == [Fraction(n, 25) for n in range(60)]
    for number, one in enumerate(shown):
        assert one.result.rgb_HWC.shape == (56, 96, 3)
        assert one.result.rgb_HWC.unique().tolist() == [round(number * 12 / 25)]


def test_stretches_see_places_and_their_source(tmp_path: Path) -> None:
    """An upsampler gets given and generated frames of a stretch, and places within it."""
    footage = numbered(tmp_path, 30, 25)
    windows = plan_windows(footage.plan.num_frames, 9, Join(head=5, blend=0), 4)
    begun, places = [], []

    def spy(given_THWC: torch.Tensor, generated_THWC: torch.Tensor, first: int):  # type: ignore[no-untyped-def] # fmt: skip
        assert first == sum(length - 1 for length in begun)
        assert given_THWC.shape == generated_THWC.shape
        assert torch.equal(given_THWC, generated_THWC)
        begun.append(len(given_THWC))

        def enlarge(place: float, source_HWC: torch.Tensor) -> Callable[[], torch.Tensor]:
            assert 0 <= place <= begun[-1] - 1
            places.append(sum(length - 1 for length in begun[:-1]) + place)
            return lambda: source_HWC

        return enlarge

    rows, _ = footage.plan.picture
    assert rows == slice(2, 30)
    shown = list(upsampled(footage, windows, footage.pieces(windows), spy))
    assert sum(length - 1 for length in begun) == footage.plan.num_frames - 1
    assert places == pytest.approx([n * 12 / 25 for n in range(30)])
    assert all(torch.equal(one.result.rgb_HWC, one.source.rgb_HWC) for one in shown)


@pytest.mark.parametrize("longest", [401, 9])
def test_the_noise_of_a_cell_is_the_one_it_was_generated_from(tmp_path: Path, longest: int) -> None:
    """Drawn again for the whole clip, it is what `fill_grid` draws for every window."""
    footage, spec = numbered(tmp_path, 40, 25), MINI_SPEC
    plan, moving = footage.plan, len(spec.noise_motion)
    windows = plan_windows(plan.num_frames, longest, Join(head=5, blend=0), 4)
    found = [
        cell_noise(spec, windows, plan, cells=4, cell=cell, seed=5, text="") for cell in range(4)
    ]
    total = (plan.num_frames - 1) // 4 + 1
    for window in windows:
        first, count = window.first // 4, (window.count - 1) // 4 + 1
        drawn = draw_noise(
            (1, 4, spec.latent_channels, count, 4, 6),
            5,
            motion=spec.noise_motion,
            span=(first, total) if len(windows) > 1 else None,
        )
        for cell in range(4):
            known = found[cell]
            assert known is not None
            values_MFYX = known.values_MFYX[:, first : first + count]
            assert torch.equal(values_MFYX, drawn[0, cell, -moving:])


def test_models_without_drifting_noise_have_none(tmp_path: Path) -> None:
    plan = numbered(tmp_path, 9, 12).plan
    windows = plan_windows(plan.num_frames, 401, Join(head=5, blend=0), 4)
    assert cell_noise(TINY_SPEC, windows, plan, cells=4, cell=1, seed=5, text="rain") is None


def test_drops_are_where_the_noise_says_at_every_moment(tmp_path: Path) -> None:
    """Planes at 4 times the cell's size: what a truth is rendered with, without the padding."""
    plan = numbered(tmp_path, 12, 12, (64, 96)).plan
    windows = plan_windows(plan.num_frames, 401, Join(head=5, blend=0), 4)
    noise = cell_noise(MINI_SPEC, windows, plan, cells=4, cell=2, seed=5, text="rain")
    assert noise is not None
    assert plan.picture == (slice(4, 60), slice(0, 96))
    planes = noise.moments()
    for place in (0.0, 0.48, 4.0, 4.25, 6.9, 11.0):
        truth = DriftingNoise(
            values_MFYX=noise.values_MFYX,
            seconds_T=torch.tensor([place / 12]),
            like=torch.empty(1, 1, 256, 384),
            scale=4.0,
        )
        found = planes(place, (0, 3))
        assert found.shape == (2, 224, 384)
        assert found[0].max() > 0.1
        torch.testing.assert_close(found[0], particles.rain(truth)[0, 16:240], rtol=0, atol=1e-4)
        torch.testing.assert_close(found[1], particles.flakes(truth)[0, 16:240], rtol=0, atol=1e-4)
    looks = noise.looks(2, 3)
    assert looks.shape == (3, 3 + particles.PLANES, 56, 96)
    averaged = torch.nn.functional.avg_pool2d(planes(3.0, (3,))[None], 4)[0, 0]
    assert (averaged - looks[1, 3 + 3]).square().mean() < 0.1 * averaged.square().mean()


def test_any_stretch_of_a_result_is_that_of_the_whole() -> None:
    made: list[int] = []

    def results():  # type: ignore[no-untyped-def]
        made.append(0)
        for number in range(20):
            frame = torch.full((2, 2, 3), number, dtype=torch.uint8)
            picture = Picture(rgb_HWC=frame, time=Fraction(number), duration=Fraction(1))
            yield Shown(source=picture, result=picture)

    clip = ResultClip(results, 20)
    assert len(clip) == 20
    assert clip[:1].unique().tolist() == [0]
    for start in range(0, 20, 7):
        stretch = clip[start : start + 7]
        assert stretch[:, 0, 0, 0].tolist() == list(range(start, min(start + 7, 20)))
    assert len(made) == 2  # once for the first frame, once for all of them
    assert clip[5:8][:, 0, 0, 0].tolist() == [5, 6, 7]
    with pytest.raises(ValueError, match="no frames"):
        clip[20:22]


def test_results_from_text_are_a_multiple_of_the_cell() -> None:
    assert text_size((96, 160)) == (192, 320)
    assert text_size((32, 48)) == (192, 288)
    assert text_size((704, 1280)) == (704, 1280)


def test_the_source_is_what_the_probe_says(tmp_path: Path) -> None:
    info = probe(moving_square(tmp_path / "a.mp4", 30, fps=25))
    assert info.rate == 25
    assert probe(uneven(tmp_path / "b.mp4", [0, 40, 90, 250])).rate is None


def test_an_edit_is_compared_with_its_clip_as_the_autoencoder_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what the autoencoder blurs, as all that moves fast, looks like a part of the edit."""
    seen = []
    prepare_guided = upsampling.guided

    def guided(*arguments: object, **options: object) -> upsampling.Upsampler:
        prepare = prepare_guided(*arguments, **options)  # type: ignore[arg-type]

        def watched(given_THWC: Tensor, generated_THWC: Tensor, first: int) -> upsampling.Enlarge:
            seen.append(given_THWC)
            return prepare(given_THWC, generated_THWC, first)

        return watched

    monkeypatch.setattr(upsampling, "guided", guided)
    path = moving_square(tmp_path / "a.mp4", 5)
    run(job(path, out=tmp_path / "out"))
    plan = plan_run(prepare_run(job(path, out=tmp_path / "other")))
    plan, (footage,) = read_footage(plan, Silence())
    backbone = find_model("tiny").load()
    given_THWC = footage.frames(plan.windows[0])
    decoded_THWC = to_frames(backbone.decode(backbone.encode(to_model_range(given_THWC))))
    rows, cols = footage.plan.picture
    assert torch.equal(seen[0], decoded_THWC[:, rows, cols])
    assert not torch.equal(decoded_THWC, given_THWC)
