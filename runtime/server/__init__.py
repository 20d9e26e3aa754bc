"""The local inference server: bundles answered by the Open Inference Protocol v2, in JSON."""

try:
    import fastapi  # noqa: F401
    import orjson  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(f"the server needs {error.name}: pip install 'stretto[serve]'") from error
