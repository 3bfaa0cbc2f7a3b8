"""From optimised graphs to lowered programs."""

from rlx.codegen.lower.lowering import lower as lower
from rlx.codegen.lower.templates import AttentionSpec as AttentionSpec
from rlx.codegen.lower.templates import ConvKernels as ConvKernels
from rlx.codegen.lower.templates import ConvSpec as ConvSpec
from rlx.codegen.lower.templates import Epilogue as Epilogue
from rlx.codegen.lower.templates import JoinedKernels as JoinedKernels
from rlx.codegen.lower.templates import MatmulKernels as MatmulKernels
from rlx.codegen.lower.templates import MatmulSpec as MatmulSpec
from rlx.codegen.lower.templates import NoTemplates as NoTemplates
from rlx.codegen.lower.templates import Scores as Scores
from rlx.codegen.lower.templates import Templates as Templates
