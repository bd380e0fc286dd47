"""The FPGA accelerator: its instruction set, geometry, simulators, boards and latency."""
