"""ONNX graphs as torch modules: the same numbers as the runtime's, and gradients.

Nothing outside this room and the steps that need gradients imports torch; `extra.require_torch` says what to install.
"""
