"""From kernel IR to WGSL."""

from rlx.codegen.wgsl.kernel import Shader as Shader
from rlx.codegen.wgsl.kernel import emit_kernel as emit_kernel
from rlx.codegen.wgsl.split import split_bindings as split_bindings
from rlx.codegen.wgsl.types import WgslTarget as WgslTarget
