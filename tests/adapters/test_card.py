"""Model cards of published adapters."""

from huggingface_hub import ModelCard

from dcgrid import hub
from dcgrid.adapters.card import adapter_card
from dcgrid.adapters.spec import AdapterSpec

SPEC = AdapterSpec(
    name="rain",
    stage="fill",
    mode="composition",
    rank=16,
    alpha=32,
    targets=("to_q",),
    layout="1x3",
    base="wan2.2-5b",
    tokens=("[Cat_identity]",),
    prompts=("a cat | a dog", "two\nlines"),
)
PLACE = hub.parse_reference("hf:me/rain@v1/rain.safetensors")


def test_a_card_says_what_the_adapter_is_and_how_to_use_it() -> None:
    card = ModelCard(adapter_card(SPEC, PLACE, "apache-2.0"))  # the hub's own reader
    repo = hub.MODELS["wan2.2-5b"].repo
    assert (card.data.license, card.data.base_model) == ("apache-2.0", repo)
    assert {"dcgrid", "stage-fill"} <= set(card.data.tags or ())
    for told in (
        "| rank | 16, alpha 32, plain |",
        "| grids | 1x3, composition |",
        f"https://huggingface.co/{repo}",
        "dcgrid compose a.mp4 b.mp4",
        "--model wan2.2-5b --adapter hf:me/rain@v1/rain.safetensors",
        "[Cat_identity]",
        "- a cat \\| a dog",
        "- two lines",
    ):
        assert told in card.text, told


def test_adapters_of_earlier_stages_promise_no_edit() -> None:
    spec = AdapterSpec(name="dc", stage="dc", rank=4, alpha=4, targets=("to_q",))
    text = adapter_card(spec, PLACE)
    assert "dcgrid edit" not in text
    assert "dcgrid adapters info hf:me/rain@v1/rain.safetensors" in text
    assert "license" not in text
    assert "| base model | not said |" in text
