"""Thresholds are certified on samples that nothing was fitted to, and written into a new bundle."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from stretto.policies import make_exit_rule
from stretto.policies.risk import TooFewSamplesError
from stretto.policies.situation import OperatingPoint
from stretto.runtime.bundle import Bundle, write_bundle
from stretto.runtime.manifest import PointRecord
from stretto.training.certify import Asked, calibrate_bundle, certify_points, thresholds
from stretto.training.data import load_data
from stretto.training.evaluate import logits_on

from ..runtime.toy import toy_bundle

CLASSES, DEPTHS = 6, 3
POINTS = [
    PointRecord(width, depth, precision, 0.9, int(100 * width * depth), 1, temperature=1.5)
    for width in (0.5, 1.0)
    for precision in ("fp32", "int8")
    for depth in range(1, DEPTHS + 1)
]
LOOSE = Asked(epsilon=0.7, delta=0.2)  # so loose that a toy which was never trained passes


def drawn(seed: int, samples: int) -> tuple[dict[OperatingPoint, np.ndarray], np.ndarray]:
    """Logits of every point, ever closer to the truth with depth and width, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=samples)
    hard = rng.exponential(size=(samples, 1))
    noise = rng.normal(size=(samples, CLASSES))  # shared, so that the points mostly agree
    logits = {}
    for point in POINTS:
        own = rng.normal(size=(samples, CLASSES)) * (1.2 / (point.depth * point.width) - 0.3)
        logits[point.point] = (4 * np.eye(CLASSES)[labels] + (noise + own) * hard).astype(np.float32)
    return logits, labels


def test_thresholds_begin_with_never_and_only_get_bolder():
    for rule in ("probability", "margin", "entropy", "patience"):
        grid = thresholds(rule, 4)
        assert grid[0] == inf and list(grid) == sorted(set(grid), reverse=True)
        for threshold in grid:
            make_exit_rule(rule, threshold=threshold)  # refuses what is out of its range
    assert thresholds("patience", 4) == (inf, 3.0, 2.0, 1.0)
    assert thresholds("patience", 1) == (inf,)


@pytest.mark.parametrize("rule", ["probability", "margin", "entropy", "patience"])
@pytest.mark.parametrize("loss", ["disagreement", "accuracy"])
def test_row_says_what_the_rule_does_on_these_samples(rule, loss):
    logits, labels = drawn(0, 1500)
    certified, rows = certify_points(POINTS, logits, labels, Asked(0.04, 0.1, loss, "ltt", rule))
    row = next(row for row in rows if (row["width"], row["precision"]) == (1.0, "fp32"))
    sure_at = make_exit_rule(rule, threshold=inf if row["threshold"] is None else row["threshold"])
    full = logits[OperatingPoint(1.0, DEPTHS)].argmax(axis=1)
    depths, found = [], []
    for sample in range(len(labels)):
        path = evidence(logits, sample)
        depths.append(next((d for d in range(1, DEPTHS) if sure_at.is_sure(path[:d])), DEPTHS))
        found.append(path[depths[-1] - 1].top)
    lost = (found != full) if loss == "disagreement" else (full == labels).astype(int) - (found == labels)
    assert row["early"] == pytest.approx(np.mean(np.array(depths) < DEPTHS)) and row["early"] > 0
    assert row["agreement"] == pytest.approx(np.mean(found == full))
    assert row["risk"] == pytest.approx(np.mean(lost)) and row["risk"] <= 0.04
    assert row["macs"] == pytest.approx(100 * np.mean(depths))
    assert row["macs_saved"] == pytest.approx(1 - np.mean(depths) / DEPTHS)
    assert (certified.rule, certified.loss, certified.samples) == (rule, loss, 1500)


def evidence(logits, sample):
    from stretto.policies.scores import highest_score
    from stretto.policies.situation import Evidence

    rows = [(point, logits[point][sample]) for point in (OperatingPoint(1.0, d) for d in range(1, DEPTHS + 1))]
    return tuple(Evidence(point, row, 1.5, *highest_score(row, 1.5), 0.9) for point, row in rows)


def test_width_whose_final_exit_loses_too_much_has_no_threshold_and_the_reference_is_full_fp32():
    logits, labels = drawn(1, 1500)
    certified, rows = certify_points(POINTS, logits, labels, Asked(0.01, 0.1))
    by_way = {(row["width"], row["precision"]): row for row in rows}
    assert by_way[1.0, "fp32"]["certified"] and not by_way[0.5, "fp32"]["certified"]
    narrow = by_way[0.5, "fp32"]
    differs = logits[OperatingPoint(0.5, DEPTHS)].argmax(axis=1) != logits[OperatingPoint(1.0, DEPTHS)].argmax(axis=1)
    assert (narrow["threshold"], narrow["early"], narrow["risk"]) == (None, 0.0, pytest.approx(differs.mean()))
    assert (0.5, "fp32") not in [(way.width, way.precision) for way in certified.ways]


def test_promise_holds_as_often_as_it_says_over_draws_of_the_samples():
    """Redrawn from a pool, each judged by the pool itself at every way at once."""
    epsilon, delta, draws, samples = 0.05, 0.2, 60, 300
    logits, labels = drawn(2, 4000)
    rng, violated = np.random.default_rng(0), 0
    full = logits[OperatingPoint(1.0, DEPTHS)].argmax(axis=1)
    fp32 = [point for point in POINTS if point.precision == "fp32"]
    lost = {}
    for _ in range(draws):
        some = rng.integers(len(labels), size=samples)
        certified, _ = certify_points(
            fp32, {point.point: logits[point.point][some] for point in fp32}, labels[some], Asked(epsilon, delta)
        )
        for way in certified.ways:
            key = way.width, way.threshold
            if key not in lost:
                lost[key] = pool_loss(logits, full, *key)
        violated += any(lost[way.width, way.threshold] > epsilon for way in certified.ways)
    assert violated <= delta * draws + 2 * np.sqrt(draws * delta * (1 - delta))


def pool_loss(logits, full, width, threshold):
    """Share of all that are answered otherwise, by arrays: no rule object."""
    found, open_ = np.full(len(full), -1), np.ones(len(full), bool)
    for depth in range(1, DEPTHS + 1):
        z = logits[OperatingPoint(width, depth)].astype(float) / 1.5
        scores = np.exp(z - z.max(axis=1, keepdims=True))
        top = (scores / scores.sum(axis=1, keepdims=True)).max(axis=1)
        stops = open_ & ((depth == DEPTHS) | (top >= (inf if threshold is None else threshold)))
        found[stops], open_ = z.argmax(axis=1)[stops], open_ & ~stops
    return float((found != full).mean())


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("certify") / "toy.stretto"
    made = toy_bundle(path, classes=CLASSES, precisions=("fp32", "int8"), temperature=3.0)
    manifest = replace(made.manifest, provenance={"holdout": 0.5})
    write_bundle(path, manifest, made.graphs, made.weights)
    return replace(made, manifest=manifest)


@pytest.fixture(scope="module")
def data(tmp_path_factory, toy):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 240), ("test", 90), ("validation", 120)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % CLASSES
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(path, classes=np.array(toy.manifest.classes), **arrays)
    return path


def temperatures(bundle: Bundle, precision: str) -> list[float]:
    return [record.temperature for record in bundle.manifest.points if record.precision == precision]


def test_validation_split_certifies_with_all_samples_and_the_bundles_own_temperatures(toy, data, tmp_path):
    made, report = calibrate_bundle(
        Bundle.open(toy.path), str(data), tmp_path / "new.stretto", LOOSE, splits=["validation"]
    )
    assert (report["samples"], report["samples_for_temperatures"], report["left_out"]) == (120, 0, [])
    assert temperatures(made, "fp32") == [3.0] * 6
    certified = made.manifest.certified
    assert certified is not None and certified.samples == 120
    assert {way.precision for way in certified.ways} == {"fp32", "int8"}
    assert made.manifest.provenance["certified_on"] == {"data": "noise", "splits": ["validation"]}
    assert made.graphs == Bundle.open(toy.path).graphs


def test_calibration_split_gives_temperatures_by_a_fifth_and_certifies_fp32_with_the_rest(toy, data, tmp_path):
    made, report = calibrate_bundle(Bundle.open(toy.path), str(data), tmp_path / "new.stretto", LOOSE)
    assert (report["samples"], report["samples_for_temperatures"], report["left_out"]) == (96, 24, ["int8"])
    assert 3.0 not in temperatures(made, "fp32") and temperatures(made, "int8") == [3.0] * 6
    assert {way.precision for way in made.manifest.certified.ways} == {"fp32"}


def test_samples_that_certify_are_none_that_gave_the_temperatures(toy, data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "stretto.training.certify.logits_on", lambda some, x, *rest: seen.append(x) or logits_on(some, x, *rest)
    )
    calibrate_bundle(Bundle.open(toy.path), str(data), tmp_path / "new.stretto", LOOSE)
    fitted, certifying = ({image.tobytes() for image in x} for x in seen)
    assert not fitted & certifying
    calibration = load_data(data, calibration=0.5).split("calibration").x
    assert fitted | certifying == {image.tobytes() for image in calibration}


def test_split_that_an_export_spared_certifies_int8_too_and_moves_no_temperature(toy, data, tmp_path):
    spared = replace(toy.manifest, provenance={"holdout": 0.5, "spared": 0.75})
    write_bundle(tmp_path / "spared.stretto", spared, toy.graphs, toy.weights)
    made, report = calibrate_bundle(
        Bundle.open(tmp_path / "spared.stretto"), str(data), tmp_path / "new.stretto", LOOSE
    )
    assert (report["samples"], report["samples_for_temperatures"], report["left_out"]) == (90, 0, [])
    assert temperatures(made, "fp32") == temperatures(made, "int8") == [3.0] * 6


def test_coded_bundle_is_certified_and_stays_coded(toy, data, tmp_path):
    write_bundle(tmp_path / "coded.stretto", toy.manifest, toy.graphs, toy.weights, {})
    made, _ = calibrate_bundle(Bundle.open(tmp_path / "coded.stretto"), str(data), tmp_path / "new.stretto", LOOSE)
    assert made.coding == {} and made.manifest.certified is not None


def test_bundle_may_be_calibrated_in_place(toy, data, tmp_path):
    path = tmp_path / "same.stretto"
    path.write_bytes(toy.path.read_bytes())
    calibrate_bundle(Bundle.open(path), str(data), path, LOOSE)
    assert Bundle.open(path).manifest.certified is not None
    assert [file.name for file in tmp_path.iterdir()] == ["same.stretto"]


@pytest.mark.parametrize(
    "asked, options, error, message",
    [
        (Asked(), {}, TooFewSamplesError, r"^96 calibration samples can't show .*; give at least 368"),
        (replace(LOOSE, rule="luck"), {}, ValueError, r"no exit rule 'luck'"),
        (replace(LOOSE, loss="loss"), {}, ValueError, r"no loss 'loss'; name one of disagreement, accuracy"),
        (replace(LOOSE, method="hope"), {}, ValueError, r"no method 'hope'"),
        (replace(LOOSE, epsilon=0.0), {}, ValueError, r"epsilon is 0\.0; give a share in \(0, 1\)"),
        (LOOSE, {"splits": ["train"]}, ValueError, r"splits are \('train',\); give some, and none .* trained on"),
        (LOOSE, {"splits": []}, ValueError, r"splits are \(\)"),
        (LOOSE, {"splits": ["nope"]}, ValueError, r"noise has no split 'nope'"),
    ],
)
def test_what_can_not_be_certified_is_refused_and_nothing_written(toy, data, tmp_path, asked, options, error, message):
    with pytest.raises(error, match=message):
        calibrate_bundle(Bundle.open(toy.path), str(data), tmp_path / "new.stretto", asked, **options)
    assert list(tmp_path.iterdir()) == []


def test_data_of_other_classes_and_a_missing_folder_are_refused(toy, data, tmp_path):
    renamed = replace(toy.manifest, classes=tuple("abcdef"))
    write_bundle(tmp_path / "other.stretto", renamed, toy.graphs, toy.weights)
    with pytest.raises(ValueError, match=r"other\.stretto: has classes \['a', .*noise\.npz has \['class 0'"):
        calibrate_bundle(Bundle.open(tmp_path / "other.stretto"), str(data), tmp_path / "new.stretto", LOOSE)
    with pytest.raises(ValueError, match=r"there is no folder .*absent; make it first"):
        calibrate_bundle(Bundle.open(toy.path), str(data), tmp_path / "absent" / "new.stretto", LOOSE)
