"""From an ONNX file to a lowered Relax module: the importer and the passes, one file each, ordered in one list."""
