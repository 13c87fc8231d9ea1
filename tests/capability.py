"""Another processor than this machine's, pretended: what torch, oneDNN, MKL and numba read when they load."""

import platform

ENVIRONMENT = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "none": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
"""Of the processes that are to have no more than AVX2, or no vector instructions beyond the architecture's own."""
NUMBA = {
    "avx2": ("haswell", "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+movbe"),
    "none": ("x86-64", "+sse2"),
}
if platform.machine() in ("x86_64", "AMD64"):
    for capability, (name, features) in NUMBA.items():
        ENVIRONMENT[capability] |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
