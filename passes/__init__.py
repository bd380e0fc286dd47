"""From an ONNX file to a lowered Relax module: the importer and the passes, ordered in one list."""
