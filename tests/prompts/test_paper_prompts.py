"""The paper's two example prompts (section 9) from the shipped recipes, to the character."""

from pathlib import Path

import pytest

from dcgrid import prompts, recipes

PAPER = Path(__file__).parents[2].parent / "shared" / "paper" / "paper.txt"

# Typed off the paper: a multiplication sign in the shape, U+2010 in "high-energy".
EDITING = (
    "This 2\u00d72 grid illustrates consistent generation of a cat [Cat_identity] performing the "
    "exact same leisurely stroll [motion_stroll]. [TOP LEFT] Cat [Cat_identity] performing the "
    "exact same leisurely stroll [motion_stroll] on a blue playground surface. [TOP RIGHT] Cat "
    "[Cat_identity] performing the exact same leisurely stroll [motion_stroll] submerged in clear "
    "water up to its chest. [BOTTOM LEFT] Cat [Cat_identity] performing the exact same leisurely "
    "stroll [motion_stroll] in heavy rain, its fur drenched. [BOTTOM RIGHT] Cat [Cat_identity] "
    "performing the exact same leisurely stroll [motion_stroll] at night under violet ambient "
    "lighting."
)
COMPOSITION = (
    "This 2\u00d72 grid of videos illustrates the creative fusion of Lincoln [Lincoln_identity] "
    "performing the exact same angry opening gesture then composing himself to look directly at "
    "the camera [motion_angry_gesture_look] and a dancing spark effect [SparkEffect]. [TOP LEFT] "
    "shows the original input for Lincoln: Lincoln, a young Black man with short braided hair and "
    "wearing a dark shirt, performing the exact same angry opening gesture then composing himself "
    "to look directly at the camera [motion_angry_gesture_look] against a plain grey studio "
    "background. [TOP RIGHT] shows the original input for the effect: Golden sparks flying outward "
    "from a central point against a dark backdrop, capturing the exact same dynamic spark motion "
    "[SparkEffect]. [BOTTOM LEFT] presents a compositional result: Lincoln [Lincoln_identity] "
    "performing the exact same gesture [motion_angry_gesture_look] surrounded by the exact same "
    "dancing sparks [SparkEffect], the sparks reflecting off his braided hair and intense "
    "expression. [BOTTOM RIGHT] presents a second compositional result: Lincoln [Lincoln_identity] "
    "performing the exact same gesture [motion_angry_gesture_look] with the exact same golden "
    "sparks [SparkEffect] weaving around his body, creating a dramatic, high\u2010energy scene."
)


def editing_prompt():
    violet_night = recipes.load_effect("violet-night")
    return prompts.render_grid(
        recipes.load_layout("edit-2x2"),
        {
            "subject": "cat",
            "identity": "Cat_identity",
            "motion": "leisurely stroll",
            "motion_tag": "motion_stroll",
            "scene": "on a blue playground surface",
        },
        [
            None,
            "submerged in clear water up to its chest",
            "in heavy rain, its fur drenched",
            prompts.render_text(violet_night.clause, {}),
        ],
    )


def composition_prompt():
    return prompts.render_grid(
        recipes.load_layout("composition-2x2"),
        {
            "subject": "Lincoln",
            "identity": "Lincoln_identity",
            "look": "a young Black man with short braided hair and wearing a dark shirt",
            "motion": "angry opening gesture then composing himself to look directly at the camera",
            "motion_tag": "motion_angry_gesture_look",
            "gesture": "gesture",
            "scene": "against a plain grey studio background",
            "effect": "dancing spark effect",
            "effect_tag": "SparkEffect",
            "effect_look": "golden sparks flying outward from a central point against a dark "
            "backdrop",
            "effect_motion": "dynamic spark motion",
        },
        [
            None,
            None,
            "surrounded by the exact same dancing sparks [SparkEffect], the sparks reflecting off "
            "his braided hair and intense expression",
            "with the exact same golden sparks [SparkEffect] weaving around his body, creating a "
            "dramatic, high\u2010energy scene",
        ],
    )


def test_editing_prompt():
    assert editing_prompt().text == EDITING


def test_composition_prompt():
    assert composition_prompt().text == COMPOSITION


def test_the_two_prompts_stand_in_the_paper():
    if not PAPER.exists():
        pytest.skip(f"{PAPER} is not there")
    lines = PAPER.read_text(encoding="utf-8").split("\n")
    assert editing_prompt().text in lines
    assert composition_prompt().text in lines


@pytest.mark.parametrize("prompt", [editing_prompt(), composition_prompt()])
def test_each_cell_owns_its_clause(prompt):
    assert [segment.cell for segment in prompt.segments] == [None, 0, 1, 2, 3]
    for segment in prompt.segments[1:]:
        name = prompts.cell_names(2, 2)[segment.cell]
        assert prompt.segment_text(segment).startswith(f"[{name}] ")
        assert prompt.segment_text(segment).endswith(".")
