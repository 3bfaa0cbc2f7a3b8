"""What a program means: dtypes, types, graphs, op records, the text form, the verifier and the interpreter.

Nothing here knows of devices or of code generation; NumPy and ml_dtypes are all it needs. Names are imported at
their first use, the op records when the first is looked up.
"""

from typing import TYPE_CHECKING

from rlx.late_names import late_names

if TYPE_CHECKING:
    from rlx.ir import composites as composites
    from rlx.ir import dtypes as dtypes
    from rlx.ir import ops as ops
    from rlx.ir.builder import GraphBuilder as GraphBuilder
    from rlx.ir.dim import Dim as Dim
    from rlx.ir.dtypes import DType as DType
    from rlx.ir.fingerprint import fingerprint as fingerprint
    from rlx.ir.fingerprint import fingerprint_parameters as fingerprint_parameters
    from rlx.ir.graph import Attribute as Attribute
    from rlx.ir.graph import Graph as Graph
    from rlx.ir.graph import Node as Node
    from rlx.ir.graph import Parameter as Parameter
    from rlx.ir.graph import Value as Value
    from rlx.ir.interpret import interpret as interpret
    from rlx.ir.location import Location as Location
    from rlx.ir.op import REQUIRED as REQUIRED
    from rlx.ir.op import Op as Op
    from rlx.ir.op import all_ops as all_ops
    from rlx.ir.op import get as get
    from rlx.ir.op import register as register
    from rlx.ir.printer import print_graph as print_graph
    from rlx.ir.specialize import bind_dims as bind_dims
    from rlx.ir.specialize import input_dims as input_dims
    from rlx.ir.specialize import specialize as specialize
    from rlx.ir.text import parse_text as parse_text
    from rlx.ir.types import TensorType as TensorType
    from rlx.ir.types import type_of as type_of
    from rlx.ir.verify import verify as verify

late_names(
    __name__,
    {
        "rlx.ir": "composites dtypes ops",
        "rlx.ir.builder": "GraphBuilder",
        "rlx.ir.dim": "Dim",
        "rlx.ir.dtypes": "DType",
        "rlx.ir.fingerprint": "fingerprint fingerprint_parameters",
        "rlx.ir.graph": "Attribute Graph Node Parameter Value",
        "rlx.ir.interpret": "interpret",
        "rlx.ir.location": "Location",
        "rlx.ir.op": "REQUIRED Op all_ops get register",
        "rlx.ir.printer": "print_graph",
        "rlx.ir.specialize": "bind_dims input_dims specialize",
        "rlx.ir.text": "parse_text",
        "rlx.ir.types": "TensorType type_of",
        "rlx.ir.verify": "verify",
    },
)
