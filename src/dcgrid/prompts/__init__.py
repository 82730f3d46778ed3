"""The prompt template language: text with slots and cell blocks to a prompt with segments.

Read template.py first (`render_grid`); segments.py says what comes out. Loads no torch.
"""

from dcgrid.prompts.segments import Prompt, Segment
from dcgrid.prompts.template import (
    GridTemplate,
    cell_names,
    grid_problems,
    render_grid,
    render_text,
    text_problems,
)

__all__ = [
    "GridTemplate",
    "Prompt",
    "Segment",
    "cell_names",
    "grid_problems",
    "render_grid",
    "render_text",
    "text_problems",
]
