"""A case from end to end: what is measured, what is not and why, and what is made only once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dcgrid import hub
from dcgrid.errors import WeightsError
from dcgrid.eval.columns import METRICS
from dcgrid.eval.encoders import encoders as encoders_module
from dcgrid.eval.encoders.dino import DinoEncoder
from dcgrid.eval.scoring import Case, Encoders, fit, score_case
from dcgrid.runtime import install
from dcgrid.runtime.install import install_hint
from tests.eval.encoders.test_clip import frames
from tests.eval.places import CLIPS, WEIGHTS, lacks, needs_clips, needs_weights

ARITHMETIC = ("change", "change_subject", "change_background", "psnr", "ssim", "leak")


def case(**fields):
    given = {"source_THWC": frames(4, 48, 64), "result_THWC": frames(4, 48, 64, seed=1)}
    return Case(**{**given, "prompt": "rain", "fps": 8.0, **fields})


def test_every_metric_has_a_value_or_a_reason_and_a_column():
    encoders = Encoders()
    scores = score_case(case(), list(METRICS), encoders)
    columns = {column.key: column for column in encoders.columns(list(METRICS))}
    assert list(scores) == list(columns) == list(METRICS)
    for key, score in scores.items():
        assert (score.value is None) == bool(score.reason), key
    for key in ("id", "id_sface", "subject", "ct", "tc", "lpips"):
        assert "dcgrid models pull" in columns[key].unavailable
        assert columns[key].encoder == ""
    assert scores["ct"].reason == columns["ct"].unavailable
    assert scores["psnr"].reason == "no known truth"
    assert scores["change_subject"].reason == "no subject mask"
    assert scores["leak"].reason == "no known truth"
    assert score_case(case(prompt=" "), ["ct"], encoders)["ct"].reason == "no prompt"
    assert scores["change"].value > 1


@lacks("cv2")
def test_a_perfect_result_has_perfect_scores():
    mask = torch.zeros(4, 48, 64, dtype=torch.bool)
    mask[:, 10:30, 10:30] = True
    truth, other = frames(4, 48, 64), frames(4, 48, 64, seed=2)
    perfect = case(result_THWC=truth, truth_THWC=truth, subject_THW=mask, other_THWC=other)
    found = score_case(perfect, [*ARITHMETIC, "motion"], Encoders())
    values = {key: score.value for key, score in found.items()}
    zeros = {"change": 0, "change_subject": 0, "change_background": 0, "leak": 0}
    assert values == pytest.approx({**zeros, "psnr": 100, "ssim": 1, "motion": 1})
    other_case = case(result_THWC=other, truth_THWC=truth, other_THWC=other)
    assert score_case(other_case, ["leak"], Encoders())["leak"].value == pytest.approx(1)


def test_sizes_and_lengths_may_differ():
    large = frames(8, 96, 128)
    result = fit(large, 4, 48, 64)
    assert result.shape == (4, 48, 64, 3)
    assert torch.equal(fit(large[[1, 3, 5, 7]], 4, 48, 64), result)
    mask = torch.zeros(8, 96, 128, dtype=torch.bool)
    mask[:, :, :64] = True
    found = score_case(
        case(
            source_THWC=large,
            result_THWC=result,
            truth_THWC=large,
            other_THWC=frames(3, 20, 20, seed=2),
            subject_THW=mask,
        ),
        ARITHMETIC,
        Encoders(),
    )
    assert found["change_subject"].value == 0
    assert found["psnr"].value == 100
    assert len(found["psnr"].series) == 4
    assert found["leak"].value == pytest.approx(0)


def test_the_subject_and_what_is_beside_it_are_told_apart():
    # Left half of the source, at twice the size and length of the result.
    mask = torch.zeros(8, 96, 128, dtype=torch.bool)
    mask[:, :, :64] = True
    source = torch.full((8, 96, 128, 3), 128, dtype=torch.uint8)
    result = torch.full((4, 48, 64, 3), 128, dtype=torch.uint8)
    result[:, :, :32] = 200
    given = case(source_THWC=source, result_THWC=result, subject_THW=mask)
    found = score_case(given, ["change_subject", "change_background", "change"], Encoders())
    values = [score.value for score in found.values()]
    assert values[0] > 20
    assert values[1] == 0
    assert values[2] == pytest.approx(values[0] / 2)


@pytest.mark.parametrize("count", [0, 1])
@lacks("cv2")
def test_no_frame_and_one_frame(count):
    one = frames(1, 48, 64)[:count]
    keys = [key for key, metric in METRICS.items() if metric.slot in (None, "flow")]
    few = case(source_THWC=one, result_THWC=one, truth_THWC=one, other_THWC=frames(1, 48, 64))
    found = score_case(few, keys, Encoders())
    reasons = {key: score.reason for key, score in found.items()}
    if count:
        assert reasons["motion"] == reasons["flicker"] == "a single frame"
        assert found["ssim"].value == pytest.approx(1)
    else:
        assert {reasons[key] for key in ("motion", "flicker", "change", "psnr")} == {"no frames"}


@lacks("cv2")
def test_tiny_frames_say_so():
    tiny = frames(3, 9, 40)
    found = score_case(
        case(source_THWC=tiny, result_THWC=tiny, truth_THWC=tiny), ["motion", "ssim"], Encoders()
    )
    assert found["motion"].reason == "frames of 40x9 are too small for optical flow"
    assert "less than 11" in found["ssim"].reason


def test_what_are_no_frames_is_refused():
    with pytest.raises(ValueError, match="source_THWC is"):
        case(source_THWC=frames().float())
    with pytest.raises(ValueError, match="truth_THWC"):
        case(truth_THWC=frames()[..., :2])
    with pytest.raises(ValueError, match="subject_THW"):
        case(subject_THW=torch.ones(4, 24, 64, dtype=torch.bool))
    with pytest.raises(KeyError):
        score_case(case(), ["nonsense"], Encoders())


@lacks("cv2")
def test_flow_of_real_motion():
    wide = frames(1, 96, 256)[0]
    right = torch.stack([wide[:, 40 - 4 * t : 140 - 4 * t] for t in range(6)])
    left = torch.stack([wide[:, 20 + 4 * t : 120 + 4 * t] for t in range(6)])
    dimmed = (right.float() * 0.7).to(torch.uint8)
    encoders = Encoders()

    def motion(result):
        return score_case(case(source_THWC=right, result_THWC=result), ["motion"], encoders)[
            "motion"
        ].value

    flow = encoders.get("flow").forward(right)[:, 20:-20, 20:-20]
    assert torch.allclose(flow.mean(dim=(0, 1, 2)), torch.tensor([4.0, 0.0]), atol=0.3)
    back = encoders.get("flow").backward(right)[:, 20:-20, 20:-20]
    assert torch.allclose(back.mean(dim=(0, 1, 2)), torch.tensor([-4.0, 0.0]), atol=0.3)
    assert motion(right) == pytest.approx(1)
    assert motion(dimmed) > 0.85
    assert motion(left) < 0.3
    unsteady = right.clone()
    unsteady[1::2] = (unsteady[1::2].float() * 0.8).to(torch.uint8)
    steady, flickering = (
        score_case(case(result_THWC=one), ["flicker"], encoders)["flicker"].value
        for one in (right, unsteady)
    )
    assert steady < 3
    assert flickering > steady + 10


def test_a_source_is_encoded_once_for_all_of_its_results():
    encoders, seen = Encoders(), []

    def make(given):
        seen.append(len(given))
        return given.float().mean(dim=(1, 2))

    one = frames(4)
    first = encoders.remembered("dino", one, make)
    assert encoders.remembered("dino", one.clone(), make) is first
    # By content, also of a view, and by what is made.
    assert torch.equal(encoders.remembered("dino", one[::2], make), first[::2])
    encoders.remembered("clip", one, make)
    encoders.remembered("dino", one.reshape(4, 64, 40, 3), make)
    assert seen == [4, 2, 4, 4]


def test_old_embeddings_are_dropped(monkeypatch):
    monkeypatch.setattr(encoders_module, "_KEPT_BYTES", 100)
    encoders, seen = Encoders(), []

    def make(given):
        seen.append(int(given[0, 0, 0, 0]))
        return torch.zeros(15)  # 60 bytes

    one, two = torch.zeros(1, 2, 2, 3).byte(), torch.ones(1, 2, 2, 3).byte()
    for given in (one, two, two, one):
        encoders.remembered("x", given, make)
    assert seen == [0, 1, 0]


def test_a_missing_package_blanks_its_columns_alone(monkeypatch):
    def lack(name):
        raise ImportError(name=name)

    monkeypatch.setattr(install, "import_module", lack)
    encoders = Encoders()
    motion, change = encoders.columns(["motion", "change"])
    assert motion.unavailable == f"this score needs cv2 ({install_hint('eval')})"
    assert change.unavailable == ""
    found = score_case(case(), ["motion", "change"], encoders)
    assert found["motion"].reason == motion.unavailable
    assert found["change"].value > 0


def test_the_document_has_every_metric_and_network():
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [name for name in [*METRICS, *hub.SCORERS] if f"`{name}`" not in text] == []


def test_a_failure_is_told_once_and_for_all(monkeypatch):
    tries = []

    def find(name, folder, *, offline):
        tries.append(name)
        raise WeightsError("gone", hint="do something")

    monkeypatch.setattr(encoders_module, "find_network", find)
    encoders = Encoders()
    assert encoders.unavailable("clip") == encoders.unavailable("clip") == "gone (do something)"
    assert tries == ["clip-vit-l14"]


def test_stand_ins_never_bear_the_real_name(tmp_path, monkeypatch):
    """A random ViT in the place of DINO is refused, so its column stays blank."""
    from safetensors.torch import save_file

    width, own = 64, tmp_path / "dino-vits16"
    own.mkdir()
    block = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (width, width),
        "mlp.fc1.bias": (width,),
        "mlp.fc2.weight": (width, width),
        "mlp.fc2.bias": (width,),
    }
    sizes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 5, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        **{f"blocks.0.{name}": size for name, size in block.items()},
    }
    path = own / "model.safetensors"
    save_file({name: torch.randn(size) * 0.1 for name, size in sizes.items()}, path)
    assert DinoEncoder(path, torch.device("cpu")).frames(frames(2)).shape == (2, width)
    encoders = Encoders(tmp_path)
    (column,) = encoders.columns(["tc"])
    assert "another network than ViT-S/16" in column.unavailable
    assert score_case(case(), ["tc"], encoders)["tc"].value is None
    # The same column with a network of the right size, under the real way's label.
    monkeypatch.setattr(encoders_module.dino, "VIT_S16", (width, 1, 16))
    encoders = Encoders(tmp_path)
    (column,) = encoders.columns(["tc"])
    assert column.encoder.startswith("DINO (dino-vits16 ")
    found = score_case(case(), ["tc", "subject"], encoders)
    assert -1 <= found["tc"].value <= 1
    assert found["subject"].value < 1
    same = score_case(case(result_THWC=case().source_THWC), ["subject"], encoders)
    assert same["subject"].value == pytest.approx(1)


@needs_weights
@needs_clips
@lacks("cv2", "onnxruntime")
def test_faces_of_clips():
    from benchmarks.clips import read_frames

    again, brother, book = (
        read_frames(CLIPS / f"asl_{name}.mkv")[::30] for name in ("again", "brother", "book")
    )
    encoders, keys = Encoders(WEIGHTS), ["id", "id_sface", "face_kept"]
    labels = [column.encoder for column in encoders.columns(keys)]
    assert labels[0] == labels[2] == "ArcFace (w600k_mbf, faces by scrfd_500m_bnkps)"
    assert labels[1].startswith("SFace (")
    same = score_case(case(source_THWC=again, result_THWC=brother), keys, encoders)
    other = score_case(case(source_THWC=again, result_THWC=book), keys, encoders)
    assert same["id"].value >= 0.7
    assert other["id"].value <= 0.45
    assert same["id_sface"].value > other["id_sface"].value + 0.3
    assert same["face_kept"].value == other["face_kept"].value == 1
    blank = score_case(case(source_THWC=again, result_THWC=0 * again), keys, encoders)
    assert blank["id"].reason == "no face found in the result"
    assert blank["face_kept"].value == 0
    nobody = score_case(case(source_THWC=0 * again, result_THWC=again), keys, encoders)
    assert nobody["id"].reason == nobody["face_kept"].reason == "no face in the clip"


@needs_weights
@lacks("cv2", "onnxruntime")
def test_face_kept_goes_on_with_sface_where_arcface_is_not_here(tmp_path):
    import shutil

    for name in ("face_recognition_sface_2021dec", "face_detection_yunet_2023mar"):
        shutil.copy(WEIGHTS / f"{name}.onnx", tmp_path)
    arcface, kept = Encoders(tmp_path).columns(["id", "face_kept"])
    assert "arcface-r50 is not here" in arcface.unavailable
    assert kept.encoder.startswith("SFace (")


def test_the_command_line_loads_no_torch_and_metrics_no_network():
    code = (
        "import sys; import dcgrid.cli.main, dcgrid.eval.columns;"
        "print({'torch', 'cv2', 'transformers', 'onnxruntime'} & set(sys.modules));"
        "import dcgrid.eval.scoring;"
        "print({'cv2', 'transformers', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["set()", "set()"], done.stderr
