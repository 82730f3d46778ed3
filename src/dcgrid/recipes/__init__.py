"""Recipes: what effects and layouts are, read strictly from TOML. Loads no torch.

load.py looks recipes up and reads them, io/schema.py checks them. The recipe files
themselves are in recipes/ at the top of the repository.
"""

from dcgrid.recipes.load import (
    EFFECT_SLOTS,
    EffectRecipe,
    GivenAs,
    LayoutRecipe,
    SamplerValues,
    Side,
    effect_names,
    layout_names,
    list_effects,
    list_layouts,
    load_effect,
    load_layout,
    read_effect,
    read_layout,
    read_recipe,
    replaced_recipes,
    shipped_dir,
    unknown_recipe,
)

__all__ = [
    "EFFECT_SLOTS",
    "EffectRecipe",
    "GivenAs",
    "LayoutRecipe",
    "SamplerValues",
    "Side",
    "effect_names",
    "layout_names",
    "list_effects",
    "list_layouts",
    "load_effect",
    "load_layout",
    "read_effect",
    "read_layout",
    "read_recipe",
    "replaced_recipes",
    "shipped_dir",
    "unknown_recipe",
]
