"""Resolves what `--model` names, once a command: see `find_model`. No network, no weights.

Weights of `mini` are inside the package; `tiny` has seeded random weights and is for tests; those
of `paper` were never published and those of `paper-small` are not shipped, so both are trained
first, and the folder of what was trained is the model's name. Any other model is a Wan checkout:
one of the hub's by its name, or a folder in the layout of diffusers.
"""

from dcgrid import hub
from dcgrid.models.base import ModelSpec
from dcgrid.models.model import Model
from dcgrid.models.native.model import find_native


def find_model(name: str) -> Model:
    """Return the model that a user names.

    Args:
        name: One of the program's own, one of the hub's by name or repository id, or a folder: of
            a model that was trained here, or in the layout of diffusers.

    Raises:
        UsageError: No model has that name, or it is a preset without weights.
        WeightsError: It is a folder, but nothing that can be used.
    """
    native = find_native(name)
    if native is not None:
        return native
    # With Wan's modules come diffusers and torch's compiler, which take as long as torch itself.
    from dcgrid.models.wan.model import find_checkout

    return find_checkout(hub.model_name(name))


def training_spec(name: str) -> ModelSpec:
    """Return the facts of a model to train, or to train on; a preset needs no weights for that.

    Raises:
        UsageError: No model has that name.
        WeightsError: It is a folder, but nothing that can be used.
    """
    native = find_native(name, to_train=True)
    return find_model(name).spec if native is None else native.spec
