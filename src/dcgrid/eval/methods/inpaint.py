"""Grid inpainting with the bare base: the same grid and text, no adapter.

Huang et al. 2024, "In-Context LoRA for Diffusion Transformers", arXiv 2410.23775, observe that text
and joint attention over panels already make a diffusion transformer work in context; here without
the LoRA that they add. What the adapters are worth is the distance to this.

The painter is the program's own, so `--method inpaint` is `--adapter none`, bit for bit.
"""

from dcgrid.pipelines.fill import Painter, fill_grid

paint: Painter = fill_grid
"""See `fill_grid`."""
