"""Kernels as TIR with named knobs, one folder a device family."""
