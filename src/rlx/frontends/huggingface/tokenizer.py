"""Text in, the encoder's inputs out: the `tokenizer.json` of a directory, through the `tokenizers` package.

What the file says about padding and truncation is replaced: sequences are cut to what the model was trained for
(`max_seq_length` of sentence-transformers, else the positions that config.json has) and padded to the longest of the
call, or to a length that the caller names.

Needs the extra `text`. A `Tokenizer` may be shared by threads once made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlx.errors import DamagedModel, InputMismatch, MissingExtra, ModelNotFound
from rlx.frontends.huggingface.config import read_bert_config, read_json

try:
    import tokenizers
except ModuleNotFoundError as missing:
    raise MissingExtra(
        "turning text into tokens needs the package 'tokenizers', which is not installed",
        hint="pip install 'rlx[text]'",
    ) from missing


class Tokenizer:
    """Encodes texts for the model in the directory `path`.

    max_length: tokens a text is cut to, special tokens included.
    Raises ModelNotFound where there is no tokenizer.json, DamagedModel where `tokenizers` cannot read it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        directory = Path(path)
        file = directory / "tokenizer.json"
        if not file.is_file():
            raise ModelNotFound(f"there is no file {str(file)!r}", hint="a directory needs one to read text")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001  # the package raises plain Exception
            raise DamagedModel(f"{file.name!r} is no tokenizer: {error}", where=str(file)) from None
        self.max_length = _longest(directory)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length)

    def __call__(self, texts: Sequence[str], *, length: int | None = None) -> dict[str, np.ndarray]:
        """`input_ids`, `attention_mask` and `token_type_ids`, i64 [len(texts), length].

        length: pads every text to it; None pads to the longest. Raises InputMismatch where a text is longer.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        longest = max((len(e.ids) for e in encodings), default=0)
        if length is None:
            length = longest
        elif longest > length:
            raise InputMismatch(f"a text has {longest} tokens, which do not fit into length {length}")
        ids, mask, types = (np.zeros((len(encodings), length), np.int64) for _ in range(3))
        ids[:] = self._tokenizer.token_to_id("[PAD]") or 0
        for row, encoding in enumerate(encodings):
            count = len(encoding.ids)
            ids[row, :count] = encoding.ids
            mask[row, :count] = 1
            types[row, :count] = encoding.type_ids
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def _longest(directory: Path) -> int:
    positions = read_bert_config(directory / "config.json").max_position_embeddings
    settings = directory / "sentence_bert_config.json"
    if settings.is_file():
        found = read_json(settings)
        trained = found.get("max_seq_length") if isinstance(found, dict) else None
        if type(trained) is int and 0 < trained <= positions:
            return trained
    return positions
