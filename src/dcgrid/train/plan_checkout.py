"""What a stage trains, and needs, on a checkout: counted from its configs, nothing is loaded.

Letters: D width of the transformer, R rank.
"""

from dcgrid.models.wan.counts import (
    WanSizes,
    block_numbers,
    rest_numbers,
    text_numbers,
    vae_numbers,
)
from dcgrid.models.wan.model import find_checkout
from dcgrid.train.job import TrainJob
from dcgrid.train.settings import AdapterLoss, ConceptLoss

Counts = dict[str, int]

KEPT_WIDTHS, KEPT_FEEDS = 69, 2
"""Numbers of two bytes that a block keeps a token for the backward pass, in widths D and in hidden
widths of its MLP, where nothing is computed again; counted in tests/train/test_train_wan.py."""


def sizes_of(job: TrainJob) -> WanSizes:
    """Return the sizes of the checkout that a job trains on.

    Raises:
        UsageError: There is no such model.
        WeightsError: It is a folder, but no checkout that can be used.
    """
    return find_checkout(job.model).sizes


def checkout_counts(job: TrainJob, adapters: int, tags: int) -> tuple[Counts, Counts]:
    """Return how many numbers a stage trains, and how many stay as they are, by part.

    Args:
        job: The run.
        adapters: How many LoRAs it trains.
        tags: How many unique tokens it learns.
    """
    sizes, stage = sizes_of(job), job.recipe.run_name
    loss, routed = job.recipe.loss, adapters > 1
    rank = int(loss.rank) if isinstance(loss, AdapterLoss | ConceptLoss) else 0
    lora = rank * _sides(sizes, routed=routed, structured=job.recipe.stage == "dc")
    names = [f"{stage}{part}" for part in (("-a", "-b") if routed else ("",))]
    trained = {f"{name} LoRA": lora for name in names}
    if tags:
        trained["tokens"] = tags * int(sizes.text["d_model"])
    blocks = block_numbers(sizes).total * sizes.layers
    frozen = {
        "autoencoder": vae_numbers(sizes).total,
        "transformer": blocks + rest_numbers(sizes).total,
        "text": text_numbers(sizes).total,
    }
    return trained, frozen


def frozen_bytes(job: TrainJob) -> int:
    """Return the bytes of the frozen weights in one process: the autoencoder's are float32."""
    sizes, width = sizes_of(job), job.dtype.itemsize
    among = {"none": 1, "full": job.processes.count, "hybrid": job.processes.local_count}
    blocks = block_numbers(sizes).stored(width) * sizes.layers // among[job.recipe.scale.shard]
    rest = rest_numbers(sizes).stored(width) + text_numbers(sizes).stored(width)
    return blocks + rest + vae_numbers(sizes).stored(width)


def working_bytes(job: TrainJob, tokens: int) -> int:
    """Return roughly what a step keeps and works with beside the weights.

    Args:
        job: Says what is computed again in the backward pass.
        tokens: Of all grids of one batch.
    """
    sizes, width = sizes_of(job), job.dtype.itemsize
    feed = int(sizes.transformer["ffn_dim"])
    block = tokens * (KEPT_WIDTHS * sizes.width + KEPT_FEEDS * feed) * width
    kept = tokens * sizes.width * width * sizes.layers
    match job.recipe.scale.checkpointing:
        case "none":
            return block * sizes.layers
        case "attention":
            return 2 * kept + block
        case _:
            return kept + block


def _sides(sizes: WanSizes, *, routed: bool, structured: bool) -> int:
    """Return inputs and outputs of the layers that learn, added up; twice the inputs if two."""
    width, feed = sizes.width, int(sizes.transformer["ffn_dim"])
    inputs, outputs = (2 * width, 2 * width) if routed else (9 * width + feed,) * 2
    return sizes.layers * (inputs * (2 if structured else 1) + outputs)
