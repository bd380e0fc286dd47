"""Pruning and retraining of torch models (extra `train`)."""
