"""Where weights come from: inside the package, a hub repository, or a file of the user's.

Start at `fetch_weights` for a file and at `fetch_model` for a base model. This is the only package
that may touch the network (through huggingface_hub) or ask where the user's config and cache
folders are. huggingface_hub downloads, keeps and removes files in its own cache; here stand the
table of models, the commits and hashes that they are pinned to, and errors in our words. It is
imported inside the functions that need it, because nothing embedded ever does.
"""

from dcgrid.hub.client import BytesReport
from dcgrid.hub.known_models import (
    ADAPTERS,
    MODELS,
    SCORERS,
    HubAdapter,
    HubModel,
    default_adapter,
    hub_model,
    model_name,
)
from dcgrid.hub.pins import Pin, read_pin
from dcgrid.hub.places import cache_dir, config_dir, config_file, go_offline, hub_dir, is_offline
from dcgrid.hub.push import push_files
from dcgrid.hub.snapshot import (
    CachedModel,
    ModelDownload,
    bytes_left,
    cached_model,
    fetch_model,
    locate_model,
    look_up_model,
    model_download,
    remove_model,
)
from dcgrid.hub.weight_files import (
    download_bytes,
    fetch_beside,
    fetch_weights,
    file_sha256,
    locate_weights,
)
from dcgrid.hub.weight_reference import WeightReference, parse_reference

__all__ = [
    "ADAPTERS",
    "MODELS",
    "SCORERS",
    "BytesReport",
    "CachedModel",
    "HubAdapter",
    "HubModel",
    "ModelDownload",
    "Pin",
    "WeightReference",
    "bytes_left",
    "cache_dir",
    "cached_model",
    "config_dir",
    "config_file",
    "default_adapter",
    "download_bytes",
    "fetch_beside",
    "fetch_model",
    "fetch_weights",
    "file_sha256",
    "go_offline",
    "hub_dir",
    "hub_model",
    "is_offline",
    "locate_model",
    "locate_weights",
    "look_up_model",
    "model_download",
    "model_name",
    "parse_reference",
    "push_files",
    "read_pin",
    "remove_model",
]
