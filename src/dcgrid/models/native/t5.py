"""The text side of `paper`: a T5 encoder from transformers behind the interface of mini's own.

Letters: N segments, L text tokens, E text width.

A folder holds `config.json`, `tokenizer.json` and `model.safetensors`, as the hub's T5 repositories
do (for example google-t5/t5-large, whose E is the 1024 of Table 5). transformers is imported when
such a folder is loaded and not before. Tags such as [Cat_identity] are embeddings of its input that
stage dc trains through the frozen encoder. Read `T5TextEncoder`; `load_t5` makes one.

Paper: sec. 8 (T5, context channels 1024)
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcgrid.errors import UsageError, WeightsError
from dcgrid.hub import fetch_weights, locate_weights
from dcgrid.models.base import CellText
from dcgrid.models.native.rows import encode_rows
from dcgrid.models.native.text import TAG, TextToken
from dcgrid.models.text_masking import TokenMasking
from dcgrid.models.trunk import TextReader
from dcgrid.models.weights import read_weights
from dcgrid.runtime.install import install_hint

FILE_NAMES = ("config.json", "tokenizer.json", "model.safetensors")
"""What a T5 folder or repository has to hold."""
_HINT = "name a T5 folder or repository with config.json, tokenizer.json and model.safetensors"
_EMBEDDING, _TIED = "shared.weight", "encoder.embed_tokens.weight"


_PUBLISHED = {
    "hf:google-t5/t5-small": {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "hf:google-t5/t5-large": {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
}
"""Sizes of repositories that a plan can count before they are downloaded."""


class T5Tokenizer:
    """Cuts text into T5's pieces and says which characters each one stands for.

    Args:
        tokenizer: A fast tokenizer of transformers.
        limit: Most tokens of one text, the end token included.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:  # noqa: ANN401
        self._tokenizer = tokenizer
        self.limit = limit

    def tokens(self, text: str) -> tuple[TextToken, ...]:
        """Return the text's tokens in order, at most `limit`; the last ends the text.

        Spans leave out white space. The end token stands for no character; an empty text has only
        that one.
        """
        encoded = self._tokenizer(
            text,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            truncation=True,
            max_length=self.limit,
        )
        rows = zip(
            encoded["input_ids"],
            encoded["offset_mapping"],
            encoded["special_tokens_mask"],
            strict=True,
        )
        end = (len(text), len(text))
        return tuple(_token(text, index, end if added else span) for index, span, added in rows)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Return the pieces of the text that T5 cannot spell, each once, in order."""
        unknown = (
            text[token.start : token.end]
            for token in self.tokens(text)
            if token.index == self._tokenizer.unk_token_id
        )
        return tuple(dict.fromkeys(unknown))


def _token(text: str, index: int, span: tuple[int, int]) -> TextToken:
    """Make a token; a piece's span may begin with the space before the word."""
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    return TextToken(index=index, start=start, end=end)


class T5TextEncoder(TextReader):
    """Encodes segments with T5; same interface as `text.TextEncoder`.

    `tags` holds one embedding a tag, shape E, read in place of the embedding of a piece of text;
    empty until `add_tags`.

    Args:
        model: A `transformers.T5EncoderModel`.
        tokenizer: What cuts its texts.

    Paper: sec. 8
    """

    def __init__(self, model: Any, tokenizer: T5Tokenizer) -> None:  # noqa: ANN401
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.tags = nn.ParameterList()
        self._names: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """E, channels of a text token."""
        return int(self.model.config.d_model)

    @property
    def tag_width(self) -> int:
        """E of the tags' embeddings."""
        return self.width

    @property
    def tag_names(self) -> tuple[str, ...]:
        """Names of the tags, without brackets."""
        return self._names

    def add_tags(self, tags: Sequence[str]) -> list[nn.Parameter]:
        """Let the encoder know tags, in place of any that it knew; all start at zero.

        Raises:
            ValueError: A name stands twice.

        Paper: sec. 3.1 (unique tokens)
        """
        if len(set(tags)) != len(tags):
            raise ValueError(f"tags stand twice: {tags}")
        self._names = tuple(tags)
        zero_E = self._words.weight.new_zeros(self.width)
        self.tags = nn.ParameterList(nn.Parameter(zero_E.clone()) for _ in tags)
        return list(self.tags)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Return the pieces of a text that T5 cannot spell, each once, in order."""
        return self.tokenizer.unknown_words(text)

    def read_rows(
        self,
        rows: Sequence[Sequence[str]],
        cells: int,
        masking: TokenMasking | None = None,
    ) -> CellText:
        """Encode the segments that each cell reads, each on its own, and pad; see `encode_rows`."""
        return encode_rows(self, rows, cells, masking)

    def tokens(self, text: str) -> tuple[TextToken, ...]:
        """Return the tokens of one text; see `T5Tokenizer.tokens`. A tag is not known here."""
        return self.tokenizer.tokens(text)

    def forward(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode segments, each on its own.

        Args:
            texts: N texts, at least one; tokens past the tokenizer's limit are left out.

        Returns:
            Embeddings of shape NLE and valid_NL, True where a token is real.
        """
        rows = [self._ids(text) for text in texts]
        longest = max(len(row) for row in rows)
        pad = int(self.model.config.pad_token_id)
        device = self._words.weight.device
        index_NL = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
        # Not from the ids: a text may hold the pad token's own id.
        valid = [[i < len(row) for i in range(longest)] for row in rows]
        valid_NL = torch.tensor(valid, device=device)
        encoded = self.model(inputs_embeds=self._embed(index_NL), attention_mask=valid_NL.long())
        encoded_NLE: torch.Tensor = encoded.last_hidden_state
        return encoded_NLE, valid_NL

    @property
    def _words(self) -> nn.Embedding:
        words: nn.Embedding = self.model.get_input_embeddings()
        return words

    def _ids(self, text: str) -> list[int]:
        """Return the ids of one text; those of tags follow the rows of T5's own table."""
        ids, end = [], 0
        for match in TAG.finditer(text):
            if match.group(1) in self._names:
                ids += self._pieces(text[end : match.start()])
                ids.append(self._words.num_embeddings + self._names.index(match.group(1)))
                end = match.end()
        if not ids:
            return [token.index for token in self.tokens(text)]
        *_, last = self.tokens("")
        return [*(ids + self._pieces(text[end:]))[: self.tokenizer.limit - 1], last.index]

    def _pieces(self, text: str) -> list[int]:
        """Return the ids of a part of a text, without the end token.

        White space at its ends is what stood around a tag, and no piece of its own.
        """
        return [token.index for token in self.tokens(text.strip())[:-1]]

    def _embed(self, index_NL: torch.Tensor) -> torch.Tensor:
        """Look up pieces of words and tags, shape NLE."""
        if not (index_NL >= self._words.num_embeddings).any():
            # Without its table in the graph, a tag gets no gradient from texts that do not name it.
            words_NLE: torch.Tensor = self._words(index_NL)
            return words_NLE
        table = torch.cat([self._words.weight, torch.stack(list(self.tags))])
        return torch.nn.functional.embedding(index_NL, table)


def missing_t5_files(source: str) -> tuple[str, ...]:
    """Return which files of a T5 folder, or cached repository, are not on this machine."""
    if source.startswith("hf:"):
        return tuple(n for n in FILE_NAMES if locate_weights(f"{source}/{n}") is None)
    return tuple(name for name in FILE_NAMES if not (Path(source) / name).is_file())


def count_t5(source: str) -> int | None:
    """Return how many numbers a T5 encoder has; None where its sizes are not on this machine.

    Raises:
        WeightsError: Its config.json is damaged.
    """
    path = Path(source) / "config.json"
    if source.startswith("hf:"):
        path = locate_weights(f"{source}/config.json") or path
    if path.is_file():
        config = _read_config(path)
    elif source in _PUBLISHED:
        config = {"vocab_size": 32128, "d_kv": 64, **_PUBLISHED[source]}
    else:
        return None
    try:
        return _numbers(config)
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path} does not say its sizes: {error}", hint=_HINT) from error


def _numbers(config: Mapping[str, Any]) -> int:
    """Count a T5 encoder from its sizes: embeddings, then attention, MLP and two norms a layer."""
    width, heads = config["d_model"], config["num_heads"]
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    attention = 4 * width * config["d_kv"] * heads
    layer = attention + (3 if gated else 2) * width * config["d_ff"] + 2 * width
    positions = config.get("relative_attention_num_buckets", 32) * heads
    return int(config["vocab_size"] * width + config["num_layers"] * layer + positions + width)


def fetch_t5(source: str, *, offline: bool = False) -> Path:
    """Return the cache's folder of a T5 repository, downloaded if it is not here.

    Args:
        source: `hf:OWNER/REPO[@REVISION]`.
        offline: True: nothing is downloaded.

    Raises:
        WeightsError: A file is missing there.
        NetworkError: A download failed, or would be needed and is forbidden.
    """
    files = [fetch_weights(f"{source}/{name}", offline=offline) for name in FILE_NAMES]
    return files[0].parent


def load_t5(source: Path | str, *, limit: int = 256, offline: bool = False) -> T5TextEncoder:
    """Load a T5 encoder in float32 on the CPU.

    Args:
        source: A folder, or `hf:OWNER/REPO[@REVISION]`, fetched into the cache if it is not there.
        limit: Most tokens of one segment, the end token included; >= 1.
        offline: True: nothing is downloaded.

    Raises:
        UsageError: transformers is not installed.
        WeightsError: A file is missing or damaged, or does not hold a T5 encoder.
        NetworkError: A download failed, or would be needed and is forbidden.

    Paper: sec. 8 (T5)
    """
    if isinstance(source, str) and source.startswith("hf:"):
        folder = fetch_t5(source, offline=offline)
    else:
        folder = Path(source)
    for name in FILE_NAMES:
        if not (folder / name).is_file():
            raise WeightsError(f"no T5 in {folder}: {name} is missing", hint=_HINT)
    if find_spec("transformers") is None:
        raise UsageError("a T5 text encoder needs transformers", hint=install_hint("wan"))
    model = _load_model(folder)
    return T5TextEncoder(model, _load_tokenizer(folder, model.config.vocab_size, limit))


def t5_counter(source: str, tags: Sequence[str] = ()) -> Callable[[str], int]:
    """Return what counts the pieces of a text, without an end, as a T5 that is here cuts them.

    Args:
        source: T5 folder or cached `hf:OWNER/REPO[@REVISION]`.
        tags: Tags that texts may name, one token each.

    Raises:
        WeightsError: A file is missing or damaged.
    """
    folder = fetch_t5(source, offline=True) if source.startswith("hf:") else Path(source)
    tokenizer = _load_tokenizer(folder, _read_config(folder / "config.json")["vocab_size"], 10**6)

    def count(text: str) -> int:
        parts = re.split("|".join(re.escape(f"[{tag}]") for tag in tags), text) if tags else [text]
        if len(parts) > 1:
            parts = [part.strip() for part in parts]
        return sum(len(tokenizer.tokens(part)) - 1 for part in parts) + len(parts) - 1

    return count


def _load_tokenizer(folder: Path, rows: int, limit: int) -> T5Tokenizer:
    import transformers

    library: Any = transformers  # Only part of it is typed.
    path = folder / "tokenizer.json"
    try:
        tokenizer = library.PreTrainedTokenizerFast(
            tokenizer_file=str(path), eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
        )
    # The tokenizers library raises bare Exception for a file that it cannot read.
    except Exception as error:
        raise WeightsError(f"tokenizer {path} is damaged: {error}", hint=_HINT) from error
    if len(tokenizer) > rows:
        raise WeightsError(
            f"{path} has {len(tokenizer)} tokens, but the model beside it only {rows}", hint=_HINT
        )
    return T5Tokenizer(tokenizer, limit)


def _load_model(folder: Path) -> Any:  # noqa: ANN401
    import transformers

    library: Any = transformers
    config = _read_config(folder / "config.json")
    try:
        # Random weights that are thrown away at once would cost seconds.
        with torch.device("meta"):
            model = library.T5EncoderModel(library.T5Config(**config))
    # What transformers raises for a value that it refuses differs from version to version.
    except Exception as error:
        raise WeightsError(f"{folder / 'config.json'} is no T5: {error}", hint=_HINT) from error
    tensors = _encoder_tensors(folder / "model.safetensors", model)
    model.load_state_dict(tensors, assign=True)
    model.encoder.embed_tokens.weight = model.shared.weight  # one table, not two alike
    return model.eval().requires_grad_(False)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {error}", hint=_HINT) from error
    if not isinstance(config, dict) or config.get("model_type") != "t5":
        raise WeightsError(f"{path} does not describe a T5 model", hint=_HINT)
    return config


def _encoder_tensors(path: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the encoder's tensors in float32; the decoder's, if any, are left out."""
    tensors, _ = read_weights(path)
    if _EMBEDDING not in tensors and _TIED in tensors:
        tensors[_EMBEDDING] = tensors[_TIED]
    if _EMBEDDING in tensors:
        tensors[_TIED] = tensors[_EMBEDDING]
    expected = model.state_dict()
    missing = sorted(set(expected) - set(tensors))
    if missing:
        raise WeightsError(
            f"{path} is no T5 encoder: {len(missing)} of {len(expected)} tensors are missing, "
            f"first {missing[0]}",
            hint=_HINT,
        )
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise WeightsError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, "
                f"config.json says {tuple(tensor.shape)}",
                hint=_HINT,
            )
    return {name: tensors[name].float() for name in expected}
