"""Composites: ops with a name and a body in primitives. Importing this package registers them all."""

from rlx.ir.composites import activation as activation
from rlx.ir.composites import attention as attention
from rlx.ir.composites import mean as mean
from rlx.ir.composites import normalization as normalization
from rlx.ir.composites import one_hot as one_hot
from rlx.ir.composites import recurrent as recurrent
from rlx.ir.composites import softmax as softmax
