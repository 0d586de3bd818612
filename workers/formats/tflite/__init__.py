"""TFLite files: read and describe them, trusting none of their claims."""
