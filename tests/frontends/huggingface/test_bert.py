"""What the BERT graph computes, by the interpreter: padding, pooling, positions, bad token ids."""

import numpy as np
import pytest

from rlx.frontends.huggingface import load_huggingface
from rlx.ir.interpret import interpret

IDS = np.array([[1, 5, 9, 2], [1, 7, 2, 0]], np.int64)
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int64)


def run(directory, ids=IDS, mask=MASK, types=None) -> dict[str, np.ndarray]:
    graph = load_huggingface(directory).specialize({"input_ids": ids.shape})
    types = np.zeros_like(ids) if types is None else types
    return interpret(graph, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})


def test_padding_changes_nothing_for_the_tokens_before_it(save_bert):
    directory = save_bert()
    padded = run(directory)["last_hidden_state"][1, :3]
    alone = run(directory, IDS[1:, :3], MASK[1:, :3])["last_hidden_state"][0]
    np.testing.assert_allclose(padded, alone, atol=1e-6)


def test_what_stands_in_the_padding_does_not_matter(save_bert):
    directory = save_bert(modes={"pooling_mode_mean_tokens": True})
    other = IDS.copy()
    other[1, 3] = 8
    np.testing.assert_array_equal(run(directory)["sentence_embedding"], run(directory, other)["sentence_embedding"])


def test_order_and_type_of_tokens_matter(save_bert):
    directory = save_bert()
    first = run(directory)["last_hidden_state"]
    turned = run(directory, IDS[:, ::-1].copy(), np.ones_like(MASK))["last_hidden_state"][0, ::-1]
    typed = run(directory, types=np.ones_like(IDS))["last_hidden_state"]
    assert np.abs(first[0] - turned).max() > 1e-3
    assert np.abs(first - typed).max() > 1e-3


def test_a_row_of_nothing_but_padding_stays_finite(save_bert):
    out = run(save_bert(modes={"pooling_mode_mean_tokens": True}), mask=np.zeros_like(MASK))
    assert all(np.isfinite(array).all() for array in out.values())


@pytest.mark.parametrize("bad", [-1, 11])
def test_a_token_outside_the_vocabulary_gives_nan_for_its_sentence_alone(save_bert, bad):
    ids = IDS.copy()
    ids[0, 1] = bad
    hidden = run(save_bert(), ids)["last_hidden_state"]
    assert np.isnan(hidden[0]).all()
    assert np.isfinite(hidden[1]).all()


@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        ("cls_token", lambda h, m: h[:, 0]),
        ("max_tokens", lambda h, m: np.where(m[..., None] > 0, h, -np.inf).max(1)),
        ("mean_tokens", lambda h, m: (h * m[..., None]).sum(1) / m.sum(1, keepdims=True)),
        ("mean_sqrt_len_tokens", lambda h, m: (h * m[..., None]).sum(1) / np.sqrt(m.sum(1, keepdims=True))),
    ],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_takes_the_tokens_that_are_no_padding(save_bert, mode, pool, normalize):
    chain = ("Transformer", "Pooling", "Normalize")[: 3 if normalize else 2]
    out = run(save_bert(modes={f"pooling_mode_{mode}": True}, modules=chain))
    expected = pool(out["last_hidden_state"].astype(np.float64), MASK)
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(out["sentence_embedding"], expected, rtol=1e-5, atol=1e-6)


def test_several_modes_stand_side_by_side(save_bert):
    directory = save_bert(
        modes={"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, modules=("Transformer", "Pooling")
    )
    out = run(directory)
    assert out["sentence_embedding"].shape == (2, 16)
    np.testing.assert_array_equal(out["sentence_embedding"][:, :8], out["last_hidden_state"][:, 0])


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "silu"])
def test_the_activation_is_the_one_that_the_config_names(save_bert, activation):
    plain = run(save_bert())["last_hidden_state"]
    other = run(save_bert({"hidden_act": activation}))["last_hidden_state"]
    assert np.abs(plain - other).max() > 1e-5
