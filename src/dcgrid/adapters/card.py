"""The model card (README.md) of a published adapter, written from what its file says of itself."""

import json

from dcgrid import hub
from dcgrid.adapters.spec import AdapterSpec

_STAGES = {
    "dc": "knows the dynamics of its training clips (stage dc)",
    "grid": "makes the cells of a grid belong together (stage grid)",
    "fill": "fills the missing cells of a grid (stage fill)",
}


def adapter_card(spec: AdapterSpec, reference: hub.WeightReference, license_: str = "") -> str:
    """Return the card as Markdown, with the header that the hub reads.

    Args:
        spec: What the adapter's file says.
        reference: Where the file will be on the hub.
        license_: Licence of the adapter, as the hub writes them; empty: the card names none.
    """
    base = hub.MODELS.get(spec.base)
    header = {
        "library_name": "dcgrid",
        "tags": ["dcgrid", "lora", "video-editing", f"stage-{spec.stage}"],
        **({"license": license_} if license_ else {}),
        **({"base_model": base.repo, "base_model_relation": "adapter"} if base else {}),
    }
    # JSON is YAML, and quotes whatever a spec may hold.
    yaml = [f"{key}: {json.dumps(value)}" for key, value in header.items()]
    base_link = f"{spec.base} ([{base.repo}](https://huggingface.co/{base.repo}))" if base else ""
    facts = {
        "base model": base_link or spec.base or "not said",
        "grids": f"{spec.layout}, {spec.mode}",
        "stage": spec.stage,
        "rank": f"{spec.rank}, alpha {spec.alpha:g}, {spec.form}",
        "noise scale": f"{spec.noise_scale:g}",
        "given cells": f"{spec.given}{', given-first' if spec.given_first else ''}",
        "tags": ", ".join(spec.tokens) or "none",
    }
    lines = [
        "---",
        *yaml,
        "---",
        "",
        f"# {spec.name}",
        "",
        f"An adapter for dcgrid: it {_STAGES[spec.stage]}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {_cell(value)} |" for key, value in facts.items()),
        "",
        "## Use",
        "",
        *(f"    {line}" for line in _commands(spec, reference)),
    ]
    if spec.prompts:
        lines += ["", "## Prompts", "", *(f"- {_cell(prompt)}" for prompt in spec.prompts)]
    return "\n".join(lines) + "\n"


def _commands(spec: AdapterSpec, reference: hub.WeightReference) -> list[str]:
    """Return the commands that use it; adapters of earlier stages are material for training."""
    model = f" --model {spec.base}" if spec.base else ""
    if spec.stage != "fill":
        return [f"dcgrid adapters info {reference}"]
    if spec.mode == "composition":
        return [
            'dcgrid compose a.mp4 b.mp4 --subject "a man" --concept "falling snow"'
            f"{model} --adapter {reference}"
        ]
    return [f"dcgrid edit input.mp4 --effect rain{model} --adapter {reference}"]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
