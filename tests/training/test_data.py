"""Data sets become uint8 splits that share no image, or an error that names the file."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stretto.training.data import Split, load_data, load_data_as
from stretto.training.images import decode_image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
LAYOUT = ["train/cat", "train/dog", "test/cat", "test/dog"]


def encoded(colour=0, width=8, height=8, mode="RGB", kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, kind, **options)
    return buffer.getvalue()


def photo_set(images: int = 4, folders=LAYOUT, **options) -> dict[str, bytes]:
    """{path: contents}; every image has its own grey."""
    names = [f"{folder}/{index}.png" for folder in folders for index in range(images)]
    return {name: encoded((grey,) * 3, **options) for grey, name in enumerate(names)}


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, contents in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, contents in files.items():
            archive.writestr(name, contents)
    return path


def arrays(**changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (20, 6, 7, 3), dtype=np.uint8)
    y = np.arange(20) % 4
    return {"x_train": x, "y_train": y, "x_test": x[:8], "y_test": y[:8]} | changes


def write_npz(path: Path, **changes) -> Path:
    np.savez(path, **{name: array for name, array in arrays(**changes).items() if array is not None})
    return path


def rows(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.x}


def test_digits_are_split_into_fifths_that_keep_every_class():
    data = load_data("digits")
    assert data.input_shape == (1, 8, 8) and data.scale == 1 / 16 and data.splits["train"].x.max() == 16
    assert sum(len(split) for split in data.splits.values()) == 1797
    for split in data.splits.values():
        shares = np.bincount(split.y, minlength=10) / len(split)
        assert np.all(np.abs(shares - 0.1) < 0.02)


def test_digits_test_split_is_the_same_for_every_seed_and_calibration_is_not():
    first, second = load_data("digits", seed=1), load_data("digits", seed=2)
    assert np.array_equal(first.splits["test"].x, second.splits["test"].x)
    assert not np.array_equal(first.splits["calibration"].x, second.splits["calibration"].x)


def test_same_seed_gives_the_same_splits():
    first, second = load_data("digits", seed=5), load_data("digits", seed=5)
    assert all(np.array_equal(first.splits[name].x, second.splits[name].x) for name in first.splits)


def test_calibration_is_held_out_of_train_by_class(tmp_path):
    files = photo_set(images=20)
    data = load_data(write_folder(tmp_path, files), calibration=0.1)
    train, held = data.splits["train"], data.splits["calibration"]
    assert np.bincount(train.y).tolist() == [18, 18] and np.bincount(held.y).tolist() == [2, 2]
    assert not rows(train) & rows(held)
    assert len(rows(train) | rows(held)) == 40


def test_calibration_takes_one_of_a_small_class_but_never_its_last(tmp_path):
    files = photo_set(images=2) | {"train/owl/0.png": encoded((99,) * 3)}
    data = load_data(write_folder(tmp_path, files))
    assert np.bincount(data.splits["train"].y).tolist() == [1, 1, 1]
    assert np.bincount(data.splits["calibration"].y, minlength=3).tolist() == [1, 1, 0]


def test_statistics_are_those_of_scaled_train_pixels():
    data = load_data("digits")
    pixels = data.splits["train"].x / 16
    assert np.allclose([data.mean[0], data.std[0]], [pixels.mean(), pixels.std()])


def test_constant_channel_has_unit_std(tmp_path):
    x = arrays()["x_train"].copy()
    x[..., 1] = 7
    data = load_data(write_npz(tmp_path / "a.npz", x_train=x))
    assert data.std[1] == 1 and data.std[0] != 1


def test_folder_and_zip_read_the_same_in_sorted_order(tmp_path):
    files = photo_set() | photo_set(folders=["validation/dog"])
    folder = load_data(write_folder(tmp_path / "set", files))
    archive = load_data(write_zip(tmp_path / "set.zip", dict(reversed(files.items()))))
    assert folder.classes == archive.classes == ("cat", "dog") and folder.name == archive.name == "set"
    assert set(folder.splits) == {"train", "calibration", "test", "validation"}
    for name, split in folder.splits.items():
        assert np.array_equal(split.x, archive.splits[name].x) and np.array_equal(split.y, archive.splits[name].y)
    assert folder.splits["test"].x[:, 0, 0, 0].tolist() == list(range(8, 16))


def test_litter_a_folder_around_it_and_nested_folders_do_not_matter(tmp_path):
    files = {f"set/{name}": contents for name, contents in photo_set().items()}
    files |= {
        "__MACOSX/set/train/cat/._0.png": b"x",
        "set/train/.DS_Store": b"x",
        "set/train/cat/.hidden.png": b"x",
        "set/train/cat/Thumbs.db": b"x",
        "set/train/labels.csv": b"x",
        "set/README.md": b"x",
        "set/train/dog/more/9.png": encoded((200,) * 3),
    }
    data = load_data(write_zip(tmp_path / "a.zip", files))
    assert data.classes == ("cat", "dog")
    assert len(data.splits["train"]) + len(data.splits["calibration"]) == 9


def test_zip_members_with_escaping_names_are_passed_over(tmp_path):
    files = photo_set() | {"../train/cat/evil.png": b"x", "train/../../evil.png": b"x"}
    files["/train/cat/absolute.png"] = encoded((250,) * 3)
    (tmp_path / "in").mkdir()
    data = load_data(write_zip(tmp_path / "in" / "a.zip", files))
    assert len(data.splits["train"]) + len(data.splits["calibration"]) == 9
    assert [child.name for child in tmp_path.iterdir()] == ["in"]


def test_images_of_one_size_keep_it_and_others_become_224(tmp_path):
    same = load_data(write_folder(tmp_path / "same", photo_set(width=9, height=7)))
    assert same.input_shape == (3, 7, 9)
    files = photo_set() | {"test/dog/9.png": encoded(width=9)}
    assert load_data(write_folder(tmp_path / "mixed", files)).input_shape == (3, 224, 224)
    large = photo_set(images=2, width=300, height=260)
    assert load_data(write_folder(tmp_path / "large", large)).input_shape == (3, 224, 224)


def test_size_is_resizing_the_shorter_side_and_cutting_out_the_middle():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    expected = np.asarray(image.resize((20, 10), Image.Resampling.BILINEAR))[:, 5:15].transpose(2, 0, 1)
    assert np.abs(decode_image(buffer.getvalue(), 10).astype(int) - expected).max() <= 1


def test_size_applies_to_arrays_too(tmp_path):
    assert load_data("digits", size=16).input_shape == (1, 16, 16)
    data = load_data(write_npz(tmp_path / "a.npz"), size=4)
    assert data.input_shape == (3, 4, 4)


@pytest.mark.parametrize(("shape", "found"), [((3, 6, 7), (3, 6, 7)), ((3, 9, 9), (3, 9, 9))])
def test_images_are_read_in_the_shape_that_a_bundle_takes(tmp_path, shape, found):
    assert load_data_as(write_npz(tmp_path / "a.npz"), shape).input_shape == found


@pytest.mark.parametrize("shape", [(3, 7, 6), (1, 9, 9), (126,)])
def test_images_of_another_shape_than_the_bundle_takes_are_refused_by_name(tmp_path, shape):
    with pytest.raises(ValueError, match=r"a\.npz: images \(C, H, W\) are .*, .* is needed"):
        load_data_as(write_npz(tmp_path / "a.npz"), shape)


def test_split_that_is_not_there_is_named_beside_those_that_are():
    with pytest.raises(ValueError, match=r"digits has no split 'nope'; it has train, test, calibration"):
        load_data("digits").split("nope")


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (encoded(90, mode="L"), (90, 90, 90)),
        (encoded((1, 2, 3, 4), mode="RGBA"), (1, 2, 3)),
        (encoded((9, 0), mode="LA"), (9, 9, 9)),
        (encoded(1, mode="1"), (255, 255, 255)),
        (encoded(0x8040, mode="I;16"), (128, 128, 128)),
        (encoded(5, mode="P", transparency=5), None),
        (encoded((0, 255, 255, 0), mode="CMYK", kind="TIFF"), (255, 0, 0)),
    ],
    ids=["grey", "rgba", "grey-alpha", "one-bit", "sixteen-bit", "palette", "cmyk"],
)
def test_every_mode_becomes_rgb(contents, expected):
    pixels = decode_image(contents)
    assert pixels.shape == (3, 8, 8) and pixels.dtype == np.uint8
    assert expected is None or tuple(pixels[:, 0, 0]) == expected


def test_exif_orientation_is_honoured():
    image = Image.new("RGB", (8, 4))
    image.paste((255, 255, 255), (0, 0, 1, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees clockwise to be upright
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    pixels = decode_image(buffer.getvalue())
    assert pixels.shape == (3, 8, 4) and np.all(pixels[:, 0] == 255) and np.all(pixels[:, 1:] == 0)


def test_progress_ends_at_the_number_of_images(tmp_path):
    seen = []
    load_data(write_folder(tmp_path, photo_set(images=40)), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (160, 160) and seen == sorted(seen) and len(seen) > 1


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_corrupt_image_is_named(tmp_path, kind):
    files = photo_set() | {"train/dog/2.png": encoded(width=64, height=64)[:60]}
    path = write_folder(tmp_path / "a", files) if kind == "folder" else write_zip(tmp_path / "a.zip", files)
    with pytest.raises(ValueError, match=r"a(\.zip)?: train/dog/2\.png can't be read as an image"):
        load_data(path, size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train/owl/": b""}, r"no images in train/owl"),
        ({"test/owl/0.png": encoded()}, r"test/ has classes that train/ lacks: owl"),
        ({"train/cat/notes.txt": b"x"}, r"train/cat/notes\.txt in a class folder is no image"),
        ({"train/loose.png": encoded()}, r"train/loose\.png lies in no class folder"),
        ({"train/cat/empty.png": b""}, r"train/cat/empty\.png can't be read as an image"),
    ],
)
def test_wrong_layout_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_data(write_zip(tmp_path / "a.zip", photo_set() | change))


def test_empty_class_folder_on_disk_is_named(tmp_path):
    (write_folder(tmp_path, photo_set()) / "test" / "cat2").mkdir()
    with pytest.raises(ValueError, match="no images in test/cat2"):
        load_data(tmp_path)


@pytest.mark.parametrize("kept", ["train", "test", "photos"])
def test_missing_split_says_what_there_is(tmp_path, kept):
    files = {f"{kept}/cat/0.png": encoded(), f"{kept}/dog/0.png": encoded(), "LICENSE": b"x"}
    with pytest.raises(ValueError, match=r"no folder (train/|test/).*it has LICENSE"):
        load_data(write_zip(tmp_path / "a.zip", files))


def test_single_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the one class cat"):
        load_data(write_folder(tmp_path, photo_set(folders=["train/cat", "test/cat"])))


def test_single_image_of_every_class_leaves_nothing_to_calibrate_on(tmp_path):
    with pytest.raises(ValueError, match="no class of train has two images"):
        load_data(write_folder(tmp_path, photo_set(images=1)))


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("absent.zip", None, r"absent\.zip: no such file or folder.*built-in data: digits"),
        ("digit", None, r"digit: no such file or folder \(did you mean the built-in 'digits'\?\)"),
        ("a.zip", b"", r"a\.zip: the file is empty"),
        ("a.txt", b"not a data set", r"a\.txt: neither a zip nor an \.npz"),
        ("a.zip", write_zip, r"a\.zip: neither a zip nor an \.npz \(or damaged at its end\)"),
        ("a.npz", b"not an array", r"a\.npz: not an \.npz archive"),
    ],
)
def test_unreadable_path_is_named(tmp_path, monkeypatch, name, contents, message):
    monkeypatch.chdir(tmp_path)
    if contents is write_zip:
        contents = write_zip(tmp_path / "whole.zip", photo_set()).read_bytes()[:-40]
    if contents is not None:
        Path(name).write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        load_data(name)


@pytest.mark.parametrize(("option", "value"), [("calibration", 0), ("calibration", 1.0), ("size", 0)])
def test_option_out_of_range_is_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} {value} isn't"):
        load_data("digits", **{option: value})


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((20, 6, 7), (1, 6, 7)), ((20, 6, 7, 3), (3, 6, 7)), ((20, 1, 6, 7), (1, 6, 7)), ((20, 6, 7, 4), (4, 6, 7))],
)
def test_npz_layouts_become_channels_first(tmp_path, shape, expected):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = load_data(write_npz(tmp_path / "a.npz", x_train=x, x_test=x[:8]))
    assert data.input_shape == expected
    assert (
        data.splits["test"].x.tobytes()
        == np.ascontiguousarray(
            x[:8].reshape(8, *expected) if x.shape[-1] > 4 else x[:8].transpose(0, 3, 1, 2)
        ).tobytes()
    )


@pytest.mark.parametrize("scaled", [lambda x: x / np.float32(255), lambda x: x.astype(np.float64), np.int64])
def test_npz_pixels_of_any_kind_come_back_as_the_same_bytes(tmp_path, scaled):
    x = arrays()["x_train"]
    data = load_data(write_npz(tmp_path / "a.npz", x_train=scaled(x), x_test=scaled(x[:8])))
    assert np.array_equal(data.splits["test"].x, x[:8].transpose(0, 3, 1, 2))


def test_npz_names_and_validation_are_read(tmp_path):
    extra = {"classes": np.array(["a", "b", "c", "d"]), "unrelated": np.zeros(3)}
    x, y = arrays()["x_test"], arrays()["y_test"][:, None]
    data = load_data(write_npz(tmp_path / "a.npz", x_validation=x, y_validation=y, **extra))
    assert data.classes == ("a", "b", "c", "d") and len(data.splits["validation"]) == 8


X, Y = arrays()["x_train"], arrays()["y_train"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_test": None}, r"no array y_test \(it has x_test, x_train, y_train\); needed are x_train"),
        ({"x_validation": X}, "no array y_validation"),
        ({"x_train": X[:, :, 0, 0]}, r"x_train has shape \(20, 6\); allowed are"),
        ({"x_train": X[:, :3, :, :]}, r"x_train has shape \(20, 3, 7, 3\), in which the channels can't be told"),
        ({"x_train": X[:0]}, r"x_train has shape \(0, 6, 7, 3\)"),
        ({"x_test": X[:, :5]}, r"x_test has images .* \(3, 5, 7\) of uint8, x_train \(3, 6, 7\)"),
        ({"x_test": X.astype(float)}, r"x_test has images .* of float64"),
        ({"x_train": X.astype(str)}, "x_train has dtype"),
        ({"x_train": X.astype(object)}, "array x_train can't be read"),
        ({"x_train": X - 300.0, "x_test": X - 300.0}, r"x_train is float64 from -300 .* before any normalisation"),
        ({"x_train": X * 0.5, "x_test": X * 0.5}, "x_train is float64 .* allowed are whole numbers"),
        ({"x_train": X / 255.0, "x_test": X * 1.0}, "splits have different ranges"),
        ({"x_train": X * np.nan, "x_test": X * 1.0}, "x_train is float64 from nan"),
        ({"y_train": Y[:-1]}, r"y_train has shape \(19,\) .* 20 images"),
        ({"y_train": Y * 1.0}, "y_train has shape .* dtype float64"),
        ({"y_train": Y + 1}, "no image of label 0"),
        ({"y_train": Y * 2}, "no image of label 1"),
        ({"y_train": Y * 0, "y_test": Y[:8] * 0}, "no image of label 1"),
        ({"y_train": Y - 1}, "y_train goes from -1"),
        ({"y_test": Y[:8] + 1, "x_test": X[:8]}, "y_test goes from 1 to 4; allowed is 0 to 3"),
        ({"classes": np.array(["a", "b"])}, "y_train goes from 0 to 3; allowed is 0 to 1"),
        ({"classes": np.array(list("abcde"))}, "no image of label 4"),
        ({"classes": np.array([["a", "b"]])}, r"classes has shape \(1, 2\)"),
    ],
)
def test_npz_that_does_not_fit_is_refused_by_name(tmp_path, change, message):
    longer = {"y_test": Y} if "x_test" in change and "y_test" not in change else {}
    with pytest.raises(ValueError, match=rf"a\.npz: .*{message}"):
        load_data(write_npz(tmp_path / "a.npz", **(longer | change)))


def test_npz_with_damaged_member_names_the_array(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    damaged = bytearray(path.read_bytes())
    damaged[300:340] = bytes(40)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.npz: array x_train can't be read"):
        load_data(path)


def test_take_selects_images_with_their_labels():
    split = Split(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), np.arange(4))
    assert split.take(np.array([2, 0])).x.flatten().tolist() == split.take(np.array([2, 0])).y.tolist() == [2, 0]
    assert len(split.take(np.array([True, False, True, True]))) == 3


def test_reading_data_leaves_torch_unimported():
    code = "import sys; from stretto.training import data; data.load_data('digits'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_photos_of_clothes_are_read_from_their_zip(tmp_path):
    if not (SHARED / "clothing.zip").exists():
        pytest.skip("needs ../shared/data/clothing.zip")
    with zipfile.ZipFile(SHARED / "clothing.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith(("train/hat/", "train/skirt/", "test/hat/"))]
        path = write_zip(tmp_path / "clothes.zip", {name: archive.read(name) for name in names[::4]})
    data = load_data(path, size=160)
    assert data.classes == ("hat", "skirt") and data.input_shape == (3, 160, 160)
    assert all(0.3 < mean < 0.8 for mean in data.mean)


def test_parts_of_a_split_share_no_image_and_nothing_spared_changes_nothing():
    calibration = load_data("digits", calibration=0.2).split("calibration")
    kept, spared = calibration.parted(0.75)
    assert (len(kept), len(spared)) == (len(calibration) - len(spared), round(0.75 * len(calibration)))
    images = [{image.tobytes() for image in part.x} for part in (kept, spared)]
    assert not images[0] & images[1] and images[0] | images[1] == {image.tobytes() for image in calibration.x}
    np.testing.assert_array_equal(calibration.parted(0.0)[0].x, calibration.x)
    for share in (-0.1, 1.0, 0.999):
        with pytest.raises(ValueError, match=r"images can't be spared; give a share in \[0, 1\) that leaves some"):
            calibration.parted(share)
