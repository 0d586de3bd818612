"""ONNX files: read, describe and try them, trusting none of their claims."""
