"""Grid inpainting with the bare base: the same grid and text, no adapter.

Huang et al. 2024, "In-Context LoRA for Diffusion Transformers", arXiv 2410.23775, observe that text
and joint attention over panels already make a diffusion transformer work in context; here without
the LoRA that they add. What the adapters are worth is the distance to this.

It generates as the program does, so its cells are those of `--adapter none` with as many steps, bit
for bit. With `mini` it has 24: in one step, which is enough with the adapter, the bare base shows
nothing of the clip, and in 24 its outlines.
"""

from dcgrid.pipelines.sampling import GenerateFn, fill_grid

generate: GenerateFn = fill_grid
"""See `fill_grid`."""
