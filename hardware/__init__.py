"""Sources of the FPGA accelerator and its simulators; here as package data, not as Python."""
