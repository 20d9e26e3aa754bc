"""A checkpoint and a bundle are told apart by what is inside, whatever they are called."""

import zipfile
from pathlib import Path

import pytest
import torch
from stretto.runtime.errors import BundleError
from stretto.training.checkpoint import CheckpointError, save_checkpoint
from stretto.training.sources import export_source, is_bundle

from ..runtime.toy import toy_bundle
from .small import small_net


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """Files of every kind, all of them with names that say something else."""
    found = {
        kind: tmp_path / kind for kind in ("bundle.pt", "checkpoint.stretto", "photos.pt", "old.pt", "note.stretto")
    }
    toy_bundle(found["bundle.pt"])
    save_checkpoint(found["checkpoint.stretto"], small_net(), optimizer={}, epoch=0, options={}, history=[], about={})
    with zipfile.ZipFile(found["photos.pt"], "w") as file:
        file.writestr("train/cat/1.jpg", b"")
    torch.save({}, found["old.pt"], _use_new_zipfile_serialization=False)
    found["note.stretto"].write_text("not a zip\n")
    return found


def test_kind_is_what_is_inside(sources: dict[str, Path]) -> None:
    assert is_bundle(sources["bundle.pt"]) and not is_bundle(sources["checkpoint.stretto"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos.pt", r"photos\.pt: a zip, but not a bundle, which has manifest\.json, nor a checkpoint, which has"),
        ("old.pt", r"old\.pt: not a bundle nor a checkpoint, or damaged at its end: File is not a zip file"),
        ("note.stretto", r"note\.stretto: not a bundle nor a checkpoint, or damaged at its end"),
        ("absent.pt", r"absent\.pt: no such file; give a checkpoint or a bundle"),
        (".", r"not a bundle nor a checkpoint, .*[Ii]s a directory"),
    ],
)
def test_other_files_are_refused_by_name(sources: dict[str, Path], tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_source(tmp_path / name, tmp_path / "out.stretto", "digits")
    assert not (tmp_path / "out.stretto").exists()


def test_each_kind_is_read_as_what_it_is(sources: dict[str, Path], tmp_path: Path) -> None:
    """The toy's provenance and the checkpoint's `about` are empty, which only their own readers look at."""
    with pytest.raises(ValueError, match=r"bundle\.pt: its provenance has splits None"):
        export_source(sources["bundle.pt"], tmp_path / "out.stretto", "digits")
    with pytest.raises(CheckpointError, match=r"checkpoint\.stretto: was written by fit\(\) without `about`"):
        export_source(sources["checkpoint.stretto"], tmp_path / "out.stretto", "digits")


def test_a_damaged_bundle_is_told_as_one(sources: dict[str, Path], tmp_path: Path) -> None:
    raw = bytearray(sources["bundle.pt"].read_bytes())
    raw[len(raw) // 2] ^= 1
    sources["bundle.pt"].write_bytes(raw)
    with pytest.raises(BundleError, match=r"bundle\.pt: member '.*'"):
        export_source(sources["bundle.pt"], tmp_path / "out.stretto", "digits")
