"""Instruction streams of the FPGA accelerator."""
