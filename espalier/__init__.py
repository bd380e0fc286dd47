"""Espalier: from a pruned Transformer in ONNX to kernels."""
