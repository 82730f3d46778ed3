"""Baselines on the same backbone, each a small file with its source. Read table.py first.

A method is a `GenerateFn` (pipelines/sampling.py): it has the signature of `fill_grid` and runs in
everything else of `dcgrid edit`. No torch is loaded by looking one up.
"""

from dcgrid.pipelines.baselines.table import METHODS, Method, method_of

__all__ = ["METHODS", "Method", "method_of"]
