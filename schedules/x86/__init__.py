"""Kernels for x86 CPUs: 16-lane vectors that LLVM splits into what the CPU has."""
