"""The messages of an ONNX file that RLX reads, with the field numbers of onnx.proto (ONNX IR version 13)."""

from __future__ import annotations

from enum import IntEnum

from rlx.frontends.onnx.wire import Field, Kind, Schema


class AttributeKind(IntEnum):
    """AttributeProto.AttributeType."""

    UNDEFINED = 0
    FLOAT = 1
    INT = 2
    STRING = 3
    TENSOR = 4
    GRAPH = 5
    FLOATS = 6
    INTS = 7
    STRINGS = 8
    TENSORS = 9
    GRAPHS = 10
    SPARSE_TENSOR = 11
    SPARSE_TENSORS = 12
    TYPE_PROTO = 13
    TYPE_PROTOS = 14


class ElementType(IntEnum):
    """TensorProto.DataType."""

    UNDEFINED = 0
    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26
    FLOAT6E2M3 = 27
    FLOAT6E3M2 = 28


#: TensorProto.DataLocation's number for data in another file.
EXTERNAL = 1

_INTEGER, _FLOAT, _DOUBLE, _TEXT, _BYTES = Kind.INTEGER, Kind.FLOAT, Kind.DOUBLE, Kind.TEXT, Kind.BYTES

_ENTRY = Schema({1: Field("key", _TEXT), 2: Field("value", _TEXT)})
_OPSET = Schema({1: Field("domain", _TEXT), 2: Field("version", _INTEGER)})
_DIMENSION = Schema({1: Field("dim_value", _INTEGER, oneof="value"), 2: Field("dim_param", _TEXT, oneof="value")})
_SHAPE = Schema({1: Field("dim", _DIMENSION, repeats=True)})
_TENSOR_TYPE = Schema({1: Field("elem_type", _INTEGER), 2: Field("shape", _SHAPE)})
_OTHER = Schema({})
_TYPE = Schema(
    {
        1: Field("tensor_type", _TENSOR_TYPE, oneof="value"),
        4: Field("sequence_type", _OTHER, oneof="value"),
        5: Field("map_type", _OTHER, oneof="value"),
        7: Field("opaque_type", _OTHER, oneof="value"),
        8: Field("sparse_tensor_type", _OTHER, oneof="value"),
        9: Field("optional_type", _OTHER, oneof="value"),
    }
)
_VALUE = Schema({1: Field("name", _TEXT), 2: Field("type", _TYPE)})
_TENSOR = Schema(
    {
        1: Field("dims", _INTEGER, repeats=True),
        2: Field("data_type", _INTEGER),
        4: Field("float_data", _FLOAT, repeats=True),
        5: Field("int32_data", _INTEGER, repeats=True),
        7: Field("int64_data", _INTEGER, repeats=True),
        8: Field("name", _TEXT),
        9: Field("raw_data", Kind.BLOB),
        10: Field("double_data", _DOUBLE, repeats=True),
        11: Field("uint64_data", Kind.UNSIGNED, repeats=True),
        13: Field("external_data", _ENTRY, repeats=True),
        14: Field("data_location", _INTEGER),
    }
)
_ATTRIBUTE = Schema(
    {
        1: Field("name", _TEXT),
        2: Field("f", _FLOAT),
        3: Field("i", _INTEGER),
        4: Field("s", _BYTES),
        5: Field("t", _TENSOR),
        7: Field("floats", _FLOAT, repeats=True),
        8: Field("ints", _INTEGER, repeats=True),
        9: Field("strings", _BYTES, repeats=True),
        20: Field("type", _INTEGER),
        21: Field("ref_attr_name", _TEXT),
    }
)
_NODE = Schema(
    {
        1: Field("input", _TEXT, repeats=True),
        2: Field("output", _TEXT, repeats=True),
        3: Field("name", _TEXT),
        4: Field("op_type", _TEXT),
        5: Field("attribute", _ATTRIBUTE, repeats=True),
        7: Field("domain", _TEXT),
    }
)
_GRAPH = Schema(
    {
        1: Field("node", _NODE, repeats=True),
        2: Field("name", _TEXT),
        5: Field("initializer", _TENSOR, repeats=True),
        11: Field("input", _VALUE, repeats=True),
        12: Field("output", _VALUE, repeats=True),
        15: Field("sparse_initializer", _OTHER, repeats=True),
    }
)
_ATTRIBUTE.fields[6] = Field("g", _GRAPH)  # graphs lie in attributes of nodes of graphs
_FUNCTION = Schema(
    {
        1: Field("name", _TEXT),
        4: Field("input", _TEXT, repeats=True),
        5: Field("output", _TEXT, repeats=True),
        6: Field("attribute", _TEXT, repeats=True),
        7: Field("node", _NODE, repeats=True),
        9: Field("opset_import", _OPSET, repeats=True),
        10: Field("domain", _TEXT),
        11: Field("attribute_proto", _ATTRIBUTE, repeats=True),
    }
)
MODEL = Schema(
    {
        1: Field("ir_version", _INTEGER),
        7: Field("graph", _GRAPH),
        8: Field("opset_import", _OPSET, repeats=True),
        25: Field("functions", _FUNCTION, repeats=True),
    }
)
