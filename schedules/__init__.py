"""Kernels as TIR with their knobs, a folder per device family."""

from espalier.schedules.linear import Epilogue, LinearKernel, LinearWork, Quantization, linear_candidates

__all__ = ["Epilogue", "LinearKernel", "LinearWork", "Quantization", "linear_candidates"]
