"""Studies: blinded, the same again, whole or not at all."""

import filecmp
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from dcgrid.errors import InputVideoError, OutputError, StudyError, UsageError
from dcgrid.eval.results import read_results, write_results
from dcgrid.eval.study.design import read_key
from dcgrid.eval.study.make import StudyConfig, make_study, render_page
from dcgrid.eval.study.media import damage
from dcgrid.video.probe import probe
from dcgrid.video.read import decode_all
from tests.eval.study.conftest import CLIPS, FAR, LABELS, NEAR, OURS, TASKS, make_evaluation


def quiet(*_):
    pass


def made(evaluation, out, **config):
    return make_study(evaluation, out, StudyConfig(**{"ours": OURS, **config}), on_video=quiet)


def frames(path):
    return torch.stack([frame for _, frame in decode_all(path)])


def page_of(folder):
    html = (folder / "page" / "index.html").read_text()
    found = re.search(r'<script type="application/json" id="study">(.*?)</script>', html, re.S)
    return html, json.loads(found[1])


def test_every_pair_of_each_comparison_is_there(shared_study):
    key = shared_study.key
    assert len(key.pairs) == len(CLIPS) * len(TASKS) * 2
    assert {(pair.clip, pair.task, pair.against) for pair in key.pairs} == {
        (clip, task, other) for clip in CLIPS for task in TASKS for other in (NEAR, FAR)
    }
    assert len(key.checks) == 3


def test_nothing_that_is_handed_out_names_a_method_a_clip_or_a_file(shared_study):
    told = [*LABELS, *LABELS.values(), *CLIPS, *TASKS, "key.json", "results.json", "made by"]
    files = [path for path in (shared_study.folder / "page").rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes().lower()
        for word in told:
            assert word.lower().encode() not in content, (path, word)
        assert not any(word.lower() in path.name for word in told)


def test_file_names_and_their_order_say_nothing(shared_study):
    key = shared_study.key
    media = list((shared_study.folder / "page" / "media").iterdir())
    assert all(re.fullmatch(r"[0-9a-f]{16}\.mp4", path.name) for path in media)
    assert len({path.stat().st_mtime for path in media}) == 1
    # No file stands in two pairs: the one that did would be the method in question.
    named = [file for one in (*key.pairs, *key.checks) for file in one.files]
    assert len(set(named)) == len(named)
    assert all(list(pair.files) == sorted(pair.files) for pair in key.pairs)
    assert {file for one in (*key.pairs, *key.checks) for file in (*one.files, *one.originals)} == {
        path.name for path in media
    }


def test_ours_is_first_by_name_about_half_the_time(evaluation):
    from dcgrid.eval.study.pairing import Blind, make_pairs

    results, first, total = read_results(evaluation / "results.json"), 0, 0
    for seed in range(100):
        pairs = make_pairs(results, OURS, (NEAR, FAR), 0, Blind(str(seed))).pairs
        first += sum(pair.files[0] == pair.ours for pair in pairs)
        total += len(pairs)
    assert abs(first - total / 2) < 4 * (total / 4) ** 0.5


def test_videos_are_those_of_the_methods(shared_study, evaluation):
    media = shared_study.folder / "page" / "media"
    for pair in shared_study.key.pairs:
        for file in pair.files:
            method = OURS if file == pair.ours else pair.against
            source = evaluation / "videos" / f"{pair.clip}--{pair.task}--{method}--0.mp4"
            assert (frames(media / file).float() - frames(source).float()).abs().mean() < 2
        assert not probe(media / pair.files[0]).has_audio
        original = frames(media / pair.originals[0]).float()
        truth = frames(evaluation / "clips" / f"{pair.clip}.mp4").float()
        assert (original - truth).abs().mean() < 2


def test_a_check_has_the_clip_itself_and_a_copy_without_identity_or_motion(shared_study):
    media = shared_study.folder / "page" / "media"
    for check in shared_study.key.checks:
        bad = next(file for file in check.files if file != check.good)
        clip = frames(media / check.originals[0]).float()
        assert (frames(media / check.good).float() - clip).abs().mean() < 1
        assert (frames(media / bad).float() - clip).abs().mean() > 5
        assert check.prompt in TASKS.values()


def test_damage_shuffles_frames_and_keeps_coarse_squares_alone():
    ramp_THWC = torch.arange(240, dtype=torch.uint8)[:, None, None, None].expand(240, 48, 96, 3)
    shuffled_THWC = damage(ramp_THWC, 3)
    order = shuffled_THWC[:, 0, 0, 0].tolist()
    assert sorted(order) == list(range(240))
    assert order != list(range(240))
    noise_THWC = torch.randint(0, 255, (2, 48, 96, 3)).byte()
    coarse_THWC = damage(noise_THWC, 3)
    assert coarse_THWC.shape == noise_THWC.shape
    blocks = coarse_THWC.unfold(1, 4, 4).unfold(2, 4, 4).flatten(-2)
    assert (blocks == blocks[..., :1]).all()


def test_the_same_results_and_seed_give_the_same_study(evaluation, shared_study, tmp_path):
    made(evaluation, tmp_path / "again", contact="Ada, room 1")
    compared = filecmp.dircmp(shared_study.folder / "page" / "media", tmp_path / "again/page/media")
    assert not compared.left_only + compared.right_only + compared.diff_files
    for name in ("key.json", "page/index.html"):
        assert (tmp_path / "again" / name).read_bytes() == (shared_study.folder / name).read_bytes()
    other = made(evaluation, tmp_path / "other", seed=1)
    assert other.key.id != shared_study.key.id
    names = {pair.id for pair in shared_study.key.pairs}
    assert not names & {pair.id for pair in other.key.pairs}


def test_a_prompt_cannot_leave_the_data(shared_study):
    html, data = page_of(shared_study.folder)
    assert html.count("</script>") == 2
    assert {pair["prompt"] for pair in data["pairs"]} == set(TASKS.values())
    assert set(data["pairs"][0]) == {"id", "prompt", "originals", "files", "deck"}
    assert data["id"] == shared_study.key.id


def test_marks_and_tags_in_a_title_stay_text():
    data = {"title": "{{script}} <i>", "pairs": [], "contact": "{{data}}"}
    html = render_page(data)
    assert '<h1 id="intro-head" tabindex="-1">{{script}} &lt;i&gt;</h1>' in html
    assert html.count("function makeSession") == 1


def test_nothing_is_loaded_from_elsewhere(shared_study):
    html, _ = page_of(shared_study.folder)
    assert not re.findall(r"https?:|//cdn|@import|url\(|<link(?! rel=\"icon\")|src=", html)


def test_failed_items_are_left_out_and_counted(tmp_path):
    failed = (f"{CLIPS[0]}--nighttask--{FAR}--0", f"{CLIPS[1]}--raintask--{OURS}--0")
    evaluation = make_evaluation(tmp_path / "evaluation", failed=failed)
    study = made(evaluation, tmp_path / "study")
    assert study.left_out == 3  # the rival's one, and ours against both
    assert len(study.key.pairs) == 5
    assert study.unlike == 0


def test_a_method_without_any_video_is_named(tmp_path):
    failed = tuple(f"{clip}--{task}--{FAR}--0" for clip in CLIPS for task in TASKS)
    evaluation = make_evaluation(tmp_path / "evaluation", failed=failed)
    with pytest.raises(StudyError, match=FAR):
        made(evaluation, tmp_path / "study")
    assert made(evaluation, tmp_path / "study", against=(NEAR,)).key.against == (NEAR,)


def test_pairs_that_differ_in_length_are_counted(tmp_path):
    from tests.eval.study.conftest import write_square

    evaluation = make_evaluation(tmp_path / "evaluation")
    video = evaluation / "videos" / f"{CLIPS[0]}--raintask--{OURS}--0.mp4"
    video.unlink()
    write_square(video, (9, 9, 9), frames=7)
    assert made(evaluation, tmp_path / "study").unlike == 2


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"ours": "nobody"}, "nobody"),
        ({"against": ("nobody",)}, "nobody"),
        ({"against": (OURS,)}, "each other method once"),
        ({"against": (FAR, FAR)}, "each other method once"),
        ({"pairs": 0}, "--pairs 0"),
        ({"checks": -1}, "--checks -1"),
        ({"title": " "}, "--title"),
    ],
)
def test_impossible_wishes_are_refused(evaluation, tmp_path, config, word):
    with pytest.raises(UsageError, match=word):
        made(evaluation, tmp_path / "study", **config)
    assert not list(tmp_path.iterdir())


def test_nothing_half_made_is_left(tmp_path):
    evaluation = make_evaluation(tmp_path / "evaluation")
    (evaluation / "videos" / f"{CLIPS[1]}--raintask--{OURS}--0.mp4").write_bytes(b"no video")
    with pytest.raises(InputVideoError):
        made(evaluation, tmp_path / "study")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]


def test_only_a_study_without_answers_is_replaced(evaluation, tmp_path):
    out = tmp_path / "study"
    out.mkdir()
    made(evaluation, out, checks=0)  # an empty folder is no loss
    with pytest.raises(OutputError, match="exists already"):
        made(evaluation, out)
    make_study(evaluation, out, StudyConfig(ours=OURS), force=True, on_video=quiet)
    assert len(read_key(out).checks) == 3
    (out / "answers").mkdir()
    (out / "answers" / "ada.json").write_text("{}")
    with pytest.raises(OutputError, match="holds answers"):
        make_study(evaluation, out, StudyConfig(ours=OURS), force=True, on_video=quiet)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="is no study"):
        make_study(evaluation, mine, StudyConfig(ours=OURS), force=True, on_video=quiet)
    with pytest.raises(OutputError, match="does not exist"):
        made(evaluation, tmp_path / "no" / "where")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "study"]


def test_a_composition_shows_both_originals(evaluation, tmp_path):
    folder = tmp_path / "evaluation"
    shutil.copytree(evaluation, folder)
    results = read_results(folder / "results.json")
    clips = tuple(replace(clip, second=f"clips/{CLIPS[0]}.mp4") for clip in results.clips)
    write_results(folder / "results.json", replace(results, clips=clips))
    study = made(folder, tmp_path / "study")
    by_clip = {pair.clip: len(pair.originals) for pair in study.key.pairs}
    assert by_clip == dict.fromkeys(CLIPS, 2)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda key: key.pop("ours"), "ours"),
        (lambda key: key.update(format="other"), "format"),
        (lambda key: key["pairs"][0].update(ours="x.mp4"), "x.mp4"),
        (lambda key: key["pairs"][0].update(against="nobody"), "nobody"),
        (lambda key: key["pairs"].append(key["pairs"][0]), "same id"),
        (lambda key: key["checks"][0].update(good="x.mp4"), "x.mp4"),
        (lambda key: key.update(labels={}), "label"),
        (lambda key: key.update(per_rater="many"), "many"),
        (lambda key: key.update(per_rater=0), "per_rater"),
    ],
)
def test_a_damaged_key_is_named(shared_study, tmp_path, change, word):
    key = json.loads((shared_study.folder / "key.json").read_text())
    change(key)
    (tmp_path / "key.json").write_text(json.dumps(key))
    with pytest.raises(StudyError, match=re.escape(str(tmp_path / "key.json"))) as caught:
        read_key(tmp_path)
    assert word in caught.value.message


@pytest.mark.parametrize("how", ["absolute", "upwards", "link"])
def test_videos_outside_of_the_results_are_not_handed_out(evaluation, tmp_path, how):
    folder = tmp_path / "results"
    shutil.copytree(evaluation, folder)
    found = read_results(folder / "results.json")
    item = next(one for one in found.items if one.method == OURS and one.video)
    secret = tmp_path / "secret.mp4"
    shutil.copy(folder / item.video, secret)
    name = {"absolute": str(secret), "upwards": "../secret.mp4", "link": "link.mp4"}[how]
    if how == "link":
        (folder / name).symlink_to(secret)
    items = tuple(replace(one, video=name) if one is item else one for one in found.items)
    write_results(folder / "results.json", replace(found, items=items))
    with pytest.raises(StudyError, match="outside of") as raised:
        made(folder, tmp_path / "study")
    assert "--outside" in raised.value.hint
    assert not (tmp_path / "study").exists()
    assert made(folder, tmp_path / "study", outside=True).key.pairs
