"""Devices: what each is, how it is reached and timed."""
