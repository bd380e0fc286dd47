"""Schedules of the FPGA accelerator: how work is cut and packed for its array."""
