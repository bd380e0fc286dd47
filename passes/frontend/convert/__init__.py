"""From each ONNX operator to plain operators: one file a group, all in one registry."""
