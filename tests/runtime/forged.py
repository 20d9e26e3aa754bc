"""Bundles that nobody would write: zips of chosen contents, manifests edited with their hashes right again."""

import atexit
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from .toy import Toy, toy_bundle

Json = dict[str, Any]


@cache
def folder() -> Path:
    """For bundles that several tests read; goes away with the process."""
    path = Path(mkdtemp())
    atexit.register(shutil.rmtree, path)
    return path


@cache
def toy() -> Toy:
    return toy_bundle(folder() / "toy.stretto")


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {info.filename: file.read(info) for info in file.filelist}


def pack(path: Path, manifest: bytes, members: dict[str, bytes], comment: bytes | None = None) -> Path:
    """A bundle that hasn't been verified; the comment is right unless it is given."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.json", manifest)
        for name, content in members.items():
            file.writestr(name, content)
        file.comment = b"sha256:" + hashlib.sha256(manifest).hexdigest().encode() if comment is None else comment
    return path


def forge(path: Path, edit: Callable[[Json], object] | None = None, **members: bytes) -> Path:
    """The toy bundle with its manifest edited and members replaced, and every hash right again."""
    found = contents(toy().path)
    manifest = json.loads(found.pop("manifest.json"))
    found |= members
    manifest["members"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in found.items()
    }
    if edit:
        edit(manifest)
    return pack(path, json.dumps(manifest).encode(), found)
