"""What only a fresh process can tell: time to import and load, memory, and what the core install weighs."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

_IMPORT = """
started = time.perf_counter()
import stretto
told["import_s"] = time.perf_counter() - started
told["torch"] = "torch" in sys.modules
stretto.load  # resolves, and with it imports the runtime
told["runtime_s"] = time.perf_counter() - started
told["torch_with_runtime"] = "torch" in sys.modules
"""
_LOAD = """
import numpy, onnxruntime
told["bare_bytes"] = resident()
started = time.perf_counter()
import stretto
session = stretto.load(sys.argv[1])
told["load_s"] = time.perf_counter() - started
told["bytes"] = resident()
told["profile"] = session.profile.source
"""
# sessions of steps as the engine doesn't make them: Python that changes `options`
VARIANTS = {
    "memory planned ahead": "options.enable_mem_pattern = True",
    "no arenas": "options.enable_cpu_mem_arena = False",
}
_CHANGE = """
from stretto.runtime.engines.onnx import OnnxEngine
def changed(engine, made=OnnxEngine._options):
    options = made(engine)
    {change}
    return options
OnnxEngine._options = changed
"""
_RAW = """
import numpy, onnxruntime
told["bare_bytes"] = resident()
started = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
told["load_s"] = time.perf_counter() - started
source = session.get_inputs()[0]
for _ in range(10):  # from the second run on it may plan its memory
    session.run(None, {source.name: numpy.zeros(source.shape, "float32")})
told["bytes"] = resident()
"""
_FRAME = """
import json, sys, time, psutil
resident = lambda: psutil.Process().memory_info().rss
told = {{}}
{body}
print(json.dumps(told))
"""


def imported() -> dict[str, Any]:
    """Seconds to `import stretto`, and with its runtime; whether torch came with them."""
    return _told(_IMPORT)


def loaded(bundle: Path, cache: Path, variant: str | None = None) -> dict[str, Any]:
    """A session with every stage of every width loaded and run once: seconds, resident bytes before and after.

    `cache`: the folder whose profiles it finds; `variant`: one of `VARIANTS`. The seconds include importing stretto,
    but not NumPy and ONNX Runtime, which the bytes before include too.
    """
    body = (
        _LOAD if variant is None else _LOAD.replace("session =", _CHANGE.format(change=VARIANTS[variant]) + "session =")
    )
    return _told(body, str(bundle), XDG_CACHE_HOME=str(cache))


def loaded_raw(plain: Path) -> dict[str, Any]:
    """The same of one ONNX Runtime session of a whole network."""
    return _told(_RAW, str(plain))


def _told(body: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """What `body` leaves in `told`, run by a new interpreter in a folder with nothing in it."""
    with tempfile.TemporaryDirectory() as nowhere:
        ended = subprocess.run(
            [sys.executable, "-c", _FRAME.format(body=body), *arguments],
            cwd=nowhere, env=os.environ | environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if ended.returncode:
        raise RuntimeError(f"a fresh process failed:\n{ended.stderr}")
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def core_bytes(package: str = "stretto") -> dict[str, int]:
    """Bytes on disk, as installed here, of what a package requires without its extras, by distribution.

    Raises:
        RuntimeError: a requirement isn't installed.
    """
    sizes: dict[str, int] = {}
    pending = [package]
    while pending:
        for requirement in _core_requirements(pending.pop()):
            if requirement not in sizes:
                sizes[requirement] = _installed_bytes(requirement)
                pending.append(requirement)
    return sizes


def _core_requirements(package: str) -> Iterator[str]:
    for text in importlib.metadata.requires(package) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield re.sub(r"[-_.]+", "-", requirement.name).lower()


def _installed_bytes(package: str) -> int:
    try:
        files = importlib.metadata.files(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeError(f"{package} isn't installed; install stretto's core requirements first") from error
    if files is None:
        raise RuntimeError(f"{package} has no list of its files; install it with pip")
    paths = [Path(str(file.locate())) for file in files]
    return sum(path.stat().st_size for path in paths if path.is_file())


def really_installed_bytes(source: Path) -> int:
    """Bytes that `pip install` of the checkout `source`, without extras, adds to a new virtual environment."""
    with tempfile.TemporaryDirectory() as folder:
        copy, environment = Path(folder) / "source", Path(folder) / "venv"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git", "*.egg-info", "build", "out", ".venv"))
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        before = _folder_bytes(environment)
        pip = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
        subprocess.run([str(pip), "-m", "pip", "install", "--quiet", str(copy)], check=True)
        return _folder_bytes(environment) - before


def _folder_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
