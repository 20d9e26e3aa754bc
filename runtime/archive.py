"""The zip that a bundle is: the manifest first, SHA-256 of all else inside it, and its own in the zip's comment."""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from .files import replacing
from .manifest import Manifest, Member

MANIFEST, WEIGHTS, CODED = "manifest.json", "weights.safetensors", "weights.coded"
INFLATED_BYTES_MAX = 256 << 20  # of all deflated members; far above real graphs, which are a few kilobytes each
_COMMENT = "sha256:"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same contents give the same file
# all that zipfile raises on malformed files, found by flipping bytes
ZIP_ERRORS = (
    OSError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, struct.error, ValueError, RuntimeError,
    NotImplementedError, OverflowError, IndexError,
)  # fmt: skip


def read_archive(path: Path) -> tuple[Manifest, str, dict[str, bytes]]:
    """The manifest, its SHA-256, and what the members hold, which is what the manifest says of them.

    Raises:
        one of `ZIP_ERRORS`: it can't be read, or was changed or damaged.
    """
    with zipfile.ZipFile(path) as file:
        members = _listed(file, path.stat().st_size)
        raw, sha256 = _read_manifest(file, members)
        with about(MANIFEST):
            manifest = Manifest.from_json(raw)
        return manifest, sha256, dict(_read_members(file, members, manifest.members))


def sealed(manifest: Manifest, contents: Mapping[str, bytes]) -> bytes:
    """The manifest in JSON, with these as its members.

    Raises:
        ValueError, TypeError: it couldn't be read back.
    """
    raw = replace(manifest, members={name: _member(content) for name, content in contents.items()}).to_json()
    with about(MANIFEST):
        Manifest.from_json(raw)
    return raw


def write_archive(path: Path, manifest: bytes, contents: Mapping[str, bytes]) -> None:
    """Atomic: all of it, or no trace."""
    with replacing(path) as temporary:
        _write_zip(temporary, manifest, contents)


@contextmanager
def about(member: str) -> Iterator[None]:
    """Puts the member's name before the message of what goes wrong with it."""
    try:
        yield
    except ZIP_ERRORS as error:
        raise ValueError(f"member {member!r}: {str(error) or type(error).__name__}") from error


def _write_zip(path: Path, manifest: bytes, contents: Mapping[str, bytes]) -> None:
    with open(path, "xb") as stream:
        with zipfile.ZipFile(stream, "w") as file:
            for name, content in {MANIFEST: manifest, **contents}.items():
                kind = zipfile.ZIP_STORED if name in (WEIGHTS, CODED) else zipfile.ZIP_DEFLATED
                file.writestr(zipfile.ZipInfo(name, _EPOCH), content, kind, compresslevel=9)
            file.comment = (_COMMENT + hashlib.sha256(manifest).hexdigest()).encode()
        stream.flush()
        os.fsync(stream.fileno())


def _member(content: bytes) -> Member:
    return Member(hashlib.sha256(content).hexdigest(), len(content))


def _listed(file: zipfile.ZipFile, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The zip's members, after what its directory says of them has been found sane; nothing of them is read yet."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in file.filelist:
        with about(info.filename):
            _check_listed(info, members)
        members[info.filename] = info
    stored = sum(info.compress_size for info in file.filelist)
    inflated = sum(info.file_size for info in file.filelist if info.compress_type != zipfile.ZIP_STORED)
    for what, found, limit in (("in the zip", stored, file_bytes), ("when inflated", inflated, INFLATED_BYTES_MAX)):
        if found > limit:
            raise ValueError(f"its members say they have {found} bytes {what}, expected at most {limit}")
    return members


def _check_listed(info: zipfile.ZipInfo, before: Mapping[str, object]) -> None:
    name, stored = info.filename, info.compress_type == zipfile.ZIP_STORED
    if name in before:
        raise ValueError("it is there twice")
    if name.startswith("/") or "\\" in name or ":" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError("its name isn't a plain relative path")
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    if not stored and (name in (WEIGHTS, CODED) or info.compress_type != zipfile.ZIP_DEFLATED):
        raise ValueError(f"compression {info.compress_type}, expected stored (0) or, but for weights, deflated (8)")
    if stored and info.file_size != info.compress_size:
        raise ValueError(f"it says {info.file_size} bytes, {info.compress_size} of them stored")


def _read_manifest(file: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> tuple[bytes, str]:
    if next(iter(members), None) != MANIFEST:
        raise ValueError(f"member {MANIFEST!r}: it must be the first, which is {next(iter(members), None)!r}")
    raw = _read(file, members[MANIFEST])
    found, expected = _COMMENT + hashlib.sha256(raw).hexdigest(), file.comment.decode("ascii", "replace")
    if found != expected:
        raise ValueError(f"member {MANIFEST!r}: it has {found}, the file's comment says {expected!r}")
    return raw, found.removeprefix(_COMMENT)


def _read_members(
    file: zipfile.ZipFile, listed: Mapping[str, zipfile.ZipInfo], expected: Mapping[str, Member]
) -> Iterator[tuple[str, bytes]]:
    if (WEIGHTS in expected) == (CODED in expected):
        listing = "both" if WEIGHTS in expected else "neither"
        raise ValueError(f"member {MANIFEST!r}: it lists {listing} of {WEIGHTS!r} and {CODED!r}, expected one")
    for name in sorted((listed.keys() - {MANIFEST}) ^ expected.keys()):
        problem = "the manifest doesn't list it" if name in listed else "it isn't there"
        raise ValueError(f"member {name!r}: {problem}")
    for name, member in expected.items():
        if listed[name].file_size != member.size:
            raise ValueError(f"member {name!r}: {listed[name].file_size} bytes, the manifest says {member.size}")
        content = _read(file, listed[name])
        if (found := _member(content)) != member:
            raise ValueError(f"member {name!r}: SHA-256 is {found.sha256}, the manifest says {member.sha256}")
        yield name, content


def _read(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with about(info.filename), file.open(info) as stream:
        content = stream.read(info.file_size)
        if len(content) < info.file_size or stream.read(1):
            raise ValueError(f"it doesn't have the {info.file_size} bytes that the zip's directory says")
        return content
