"""all-MiniLM-L6-v2 against embeddings that transformers and PyTorch made (tests/frontends/make_minilm_goldens.py)."""

from pathlib import Path

import numpy as np
import pytest

import rlx
from rlx.errors import DamagedModel, InputMismatch, MissingInput, ModelNotFound
from rlx.frontends.huggingface.tokenizer import Tokenizer
from rlx.ir.interpret import interpret

#: Greatest difference of any component of a unit vector, f32.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent.parent / "minilm_goldens.npz") as file:
        return dict(file)


def test_tokens_are_those_of_transformers(minilm, goldens):
    ends = np.cumsum(goldens["lengths"])
    encoded = Tokenizer(minilm)([str(text) for text in goldens["texts"]])
    for row, (end, length) in enumerate(zip(ends, goldens["lengths"], strict=True)):
        assert encoded["attention_mask"][row].sum() == length
        np.testing.assert_array_equal(encoded["input_ids"][row, :length], goldens["tokens"][end - length : end])
    assert not encoded["token_type_ids"].any()


def test_tokens_can_be_padded_to_a_length_but_never_cut_to_it(minilm):
    tokenizer = Tokenizer(minilm)
    assert tokenizer(["hello"], length=16)["input_ids"].shape == (1, 16)
    assert tokenizer([])["input_ids"].shape == (0, 0)
    with pytest.raises(InputMismatch, match="a text has 4 tokens, which do not fit into length 3"):
        tokenizer(["hello world"], length=3)


def test_a_directory_without_a_readable_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DamagedModel, match="is no tokenizer"):
        Tokenizer(tmp_path)


def test_the_interpreter_gives_the_embeddings_of_pytorch(minilm, goldens):
    pick = [0, 9, 31, 37]
    encoded = Tokenizer(minilm)([str(goldens["texts"][i]) for i in pick])
    graph = rlx.load(minilm).specialize({"input_ids": encoded["input_ids"].shape})
    difference = np.abs(interpret(graph, encoded)["sentence_embedding"] - goldens["embeddings"][pick]).max()
    assert difference < TOLERANCE


def test_the_cpu_gives_the_embeddings_of_pytorch_for_every_text_and_padding(minilm, goldens):
    tokenizer = Tokenizer(minilm)
    program = rlx.Session("cpu").compile(rlx.load(minilm))
    texts = [str(text) for text in goldens["texts"]]
    order = np.argsort(goldens["lengths"], kind="stable")
    for batch in np.array_split(order, 5):
        found = program.run(tokenizer([texts[i] for i in batch]))["sentence_embedding"]
        assert np.abs(found - goldens["embeddings"][batch]).max() < TOLERANCE
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_call_may_leave_out_mask_and_types_as_hugging_face_lets_it(minilm):
    ids = np.arange(1, 9)[None]
    program = rlx.Session("cpu").compile(rlx.load(minilm), shapes={"input_ids": ids.shape})
    short = program(input_ids=ids)
    whole = program(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))
    masked = program(input_ids=ids, attention_mask=(ids < 5).astype(np.int64))
    for name in program.outputs:
        np.testing.assert_array_equal(short[name], whole[name])
    assert np.abs(masked["sentence_embedding"] - whole["sentence_embedding"]).max() > 1e-3
    with pytest.raises(MissingInput, match="input_ids"):
        program(attention_mask=np.ones_like(ids))
