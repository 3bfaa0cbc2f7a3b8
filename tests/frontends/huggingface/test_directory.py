"""Hugging Face directories: what they declare, and how a wrong one is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlx.errors import (
    DamagedModel,
    ExternalDataRefused,
    FrontendError,
    InputMismatch,
    InvalidModel,
    ModelNotFound,
    OpenShape,
    UnsupportedModel,
)
from rlx.frontends.huggingface import load_huggingface
from rlx.frontends.load import load


def test_inputs_are_open_in_batch_and_sequence_and_outputs_follow(save_bert):
    model = load_huggingface(save_bert())
    assert {name: str(type) for name, type in model.inputs.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), "i64[batch, sequence]"
    )
    assert {name: str(type) for name, type in model.outputs.items()} == {
        "last_hidden_state": "f32[batch, sequence, 8]",
        "pooler_output": "f32[batch, 8]",
    }


def test_one_given_shape_decides_the_others(save_bert):
    graph = load_huggingface(save_bert()).specialize({"input_ids": (3, 5)})
    assert {str(type) for type in graph.input_types.values()} == {"i64[3, 5]"}
    assert str(graph.output_types["last_hidden_state"]) == "f32[3, 5, 8]"


def test_a_checkpoint_without_a_pooler_has_no_pooler_output(save_bert):
    model = load_huggingface(save_bert(weights={"pooler.dense.weight": None, "pooler.dense.bias": None}))
    assert list(model.outputs) == ["last_hidden_state"]


def test_parameters_carry_the_files_names_and_view_its_pages(save_bert):
    graph = load_huggingface(save_bert()).specialize({"input_ids": (1, 2)})
    by_name = {p.name: p.data for p in graph.parameters}
    assert "encoder.layer.1.attention.self.key.weight" in by_name
    assert not any(array.flags.owndata or array.flags.writeable for array in by_name.values())


def test_names_with_the_prefix_of_a_task_model_are_found(save_bert):
    graph = load_huggingface(save_bert(prefix="bert.")).specialize({"input_ids": (1, 2)})
    assert "bert.embeddings.LayerNorm.weight" in {p.name for p in graph.parameters}


def test_a_fixed_value_becomes_part_of_the_graph(save_bert):
    graph = load_huggingface(save_bert()).specialize(
        {"input_ids": (2, 3)}, {"token_type_ids": np.zeros((2, 3), np.int64)}
    )
    assert list(graph.input_types) == ["input_ids", "attention_mask"]


def test_sequences_longer_than_the_position_table_are_refused(save_bert):
    with pytest.raises(InputMismatch, match="'sequence' is 7 by axis 1 of 'input_ids', the model allows at most 6"):
        load_huggingface(save_bert()).specialize({"input_ids": (1, 7)})


def test_shapes_that_disagree_show_both_sides(save_bert):
    with pytest.raises(InputMismatch, match="'sequence' is 4 by .* but 3 by"):
        load_huggingface(save_bert()).specialize({"input_ids": (1, 3), "attention_mask": (1, 4)})


def test_without_shapes_the_open_dimensions_are_named(save_bert):
    with pytest.raises(OpenShape, match="'batch', 'sequence'"):
        load_huggingface(save_bert()).specialize()


def test_an_unknown_input_suggests_the_nearest(save_bert):
    with pytest.raises(InputMismatch, match="did you mean 'input_ids'"):
        load_huggingface(save_bert()).specialize({"input_id": (1, 2)})
    with pytest.raises(InputMismatch, match="did you mean 'token_type_ids'"):
        load_huggingface(save_bert()).specialize({"input_ids": (1, 2)}, {"token_type_id": np.zeros((1, 2), np.int64)})


def test_a_missing_directory_and_missing_files_are_named(tmp_path, save_bert):
    with pytest.raises(ModelNotFound, match="nowhere"):
        load_huggingface(tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        load_huggingface(tmp_path)
    (save_bert() / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelNotFound, match=r"(?s)model\.safetensors.*pytorch_model\.bin.*safe_serialization"):
        load_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"hidden_act": "snake"}, "(?s)'snake'.*gelu"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"is_decoder": True}, "decoder"),
    ],
)
def test_another_architecture_is_refused_by_name(save_bert, config, words):
    with pytest.raises(UnsupportedModel, match=words):
        load_huggingface(save_bert(config))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_size": None}, "hidden_size None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"vocab_size": True}, "vocab_size True"),
        ({"vocab_size": 11.0}, r"vocab_size 11\.0"),
        ({"num_attention_heads": 3}, "3 attention heads do not divide"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps 'small'"),
        ({"vocab_size": 12}, r"word_embeddings.weight' has shape \(11, 8\), config.json asks for \(12, 8\)"),
        ({"num_hidden_layers": 3}, "has no weight 'encoder.layer.2.attention.self.query.weight'"),
    ],
)
def test_a_config_that_makes_no_sense_or_fits_no_weights_is_refused(save_bert, config, words):
    with pytest.raises(InvalidModel, match=words):
        load_huggingface(save_bert(config))


def test_a_weight_of_another_dtype_is_refused(save_bert):
    with pytest.raises(InvalidModel, match=r"LayerNorm.bias' is float16, but the word embeddings are f32"):
        load_huggingface(save_bert(weights={"embeddings.LayerNorm.bias": np.zeros(8, np.float16)}))


@pytest.mark.parametrize("text", ["{", "\x00", "[" * 100_000])
def test_a_config_that_is_no_json_is_damaged(save_bert, text):
    directory = save_bert()
    (directory / "config.json").write_text(text)
    with pytest.raises(DamagedModel, match=r"'config\.json' is not JSON"):
        load_huggingface(directory)


def split_into_shards(directory: Path, placed: dict[str, str]) -> None:
    (directory / "model.safetensors").rename(directory / "shard-1.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def test_shards_are_read_through_their_index(save_bert):
    directory = save_bert()
    names = [p.name for p in load_huggingface(directory).specialize({"input_ids": (1, 1)}).parameters]
    split_into_shards(directory, dict.fromkeys(names, "shard-1.safetensors"))
    assert load_huggingface(directory).outputs


def test_an_index_that_names_a_missing_tensor_is_refused(save_bert):
    split_into_shards(directory := save_bert(), {"ghost": "shard-1.safetensors"})
    with pytest.raises(InvalidModel, match=r"'ghost' in 'shard-1\.safetensors'"):
        load_huggingface(directory)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_a_shard_outside_the_directory_is_refused(save_bert, shard):
    split_into_shards(directory := save_bert(), {"w": shard})
    with pytest.raises(ExternalDataRefused, match=shard):
        load_huggingface(directory)


def test_modules_after_pooling_that_are_unknown_are_refused(save_bert):
    directory = save_bert(modes={"pooling_mode_mean_tokens": True}, modules=("Transformer", "Pooling", "Dense"))
    with pytest.raises(UnsupportedModel, match="Transformer, Pooling, Dense"):
        load_huggingface(directory)


@pytest.mark.parametrize("modes", [{}, {"pooling_mode_weightedmean_tokens": True}])
def test_pooling_modes_that_are_missing_or_unknown_are_refused(save_bert, modes):
    with pytest.raises(UnsupportedModel, match="mean_tokens"):
        load_huggingface(save_bert(modes=modes))


def test_a_pooling_folder_outside_the_directory_is_refused(save_bert):
    directory = save_bert(modes={"pooling_mode_mean_tokens": True})
    modules = json.loads((directory / "modules.json").read_text())
    modules[1]["path"] = "../1_Pooling"
    (directory / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InvalidModel, match=r"'\.\./1_Pooling'"):
        load_huggingface(directory)


def test_a_folder_in_the_place_of_a_file_is_an_error_of_ours(save_bert):
    directory = save_bert(modes={"pooling_mode_mean_tokens": True})
    (directory / "1_Pooling" / "config.json").unlink()
    (directory / "1_Pooling" / "config.json").mkdir()
    with pytest.raises(FrontendError, match="cannot be read"):
        load(directory)
