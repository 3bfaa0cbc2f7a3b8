"""What code is made for: an instruction set, its vectors and caches.

A `Target` is plain data: it names everything that emitted code may depend on, so equal targets give equal code. Nothing
here asks which machine we are on; a backend finds that out and picks or refines a preset.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One instruction set.

    name: of the preset it came from, a key of PRESETS.
    triple, cpu, features: as LLVM spells them; a feature is "+name" or "-name".
    vector_bits: width of the registers that the emitter fills.
    l1d, l2, l3: bytes of cache that one worker can count on; templates choose their blocks by them.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    l1d: int = 32 << 10
    l2: int = 512 << 10
    l3: int = 8 << 20

    def has(self, feature: str) -> bool:
        """Whether the feature, by LLVM's name without a sign, is switched on."""
        return f"+{feature}" in self.features

    @property
    def is_x86(self) -> bool:
        return self.triple.startswith("x86_64")

    @property
    def has_fma(self) -> bool:
        """Fused multiply-add as one instruction."""
        return self.has("fma") or not self.is_x86

    def lanes(self, bits: int) -> int:
        """Elements of `bits` bits in one register."""
        return self.vector_bits // bits

    def masks(self, bits: int) -> bool:
        """Whether loads and stores of elements of `bits` bits can be masked by lane, in one instruction."""
        if self.has("avx512bw"):
            return True
        return self.has("avx2") and bits in (32, 64)


_AVX2 = ("+sse4.2", "+avx", "+avx2", "+fma", "+f16c", "+bmi", "+bmi2", "+movbe", "+lzcnt", "+popcnt")
_AVX512 = (*_AVX2, "+avx512f", "+avx512bw", "+avx512dq", "+avx512vl", "+avx512cd")


def _avx512(name: str, *features: str) -> Target:
    """AVX-512 and what else is named."""
    return Target(name, "x86_64-unknown-linux-gnu", "x86-64-v4", (*_AVX512, *features), 512, l2=1 << 20, l3=16 << 20)


PRESETS: dict[str, Target] = {
    "avx512": _avx512("avx512"),
    "avx512_bf16": _avx512("avx512_bf16", "+avx512bf16"),
    "amx_bf16": _avx512("amx_bf16", "+avx512bf16", "+amx-tile", "+amx-bf16"),
    "avx512_vnni": _avx512("avx512_vnni", "+avx512vnni"),
    "amx_int8": _avx512("amx_int8", "+avx512vnni", "+amx-tile", "+amx-int8"),
    "avx2": Target("avx2", "x86_64-unknown-linux-gnu", "x86-64-v3", _AVX2, 256),
    "portable": Target("portable", "x86_64-unknown-linux-gnu", "x86-64", ("+sse2",), 128, l2=256 << 10),
    "neon": Target("neon", "aarch64-unknown-linux-gnu", "generic", ("+neon",), 128),
}
