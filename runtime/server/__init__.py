"""The local inference server."""
