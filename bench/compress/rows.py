"""The figures of compression, each beside its control."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...policies.situation import OperatingPoint
from ...runtime.coded import decode, encode
from ...runtime.engines import make_engine
from ...training.export import export
from ...training.supernet import make_supernet
from ...training.task import restore
from ..bootstrap import interval, resample
from ..report import Row, block_ratios, interleaved, spread, time_ms
from .jobs import Made

All = Mapping[str, Made]
Tell = Callable[[str, int, int], None]
Hits = NDArray[np.bool_]
ROUNDS, CALLS = 40, 5
SEEDS_NOTE = "mean of {count} seeds, least and largest in brackets"
CONTROLS = {"inplace": "in-place distillation alone", "labels": "neither"}  # of distillation
EARLY_NOTE = "all from one checkpoint, after one epoch from labels"
LATE_NOTE = "all from one checkpoint, of the supernet trained by labels to its end"
GOALS, NO_GOALS = (0.5, 1.0), (None, None)  # over the controls
DISTILLED = (  # way and ending of a job, in words, a note, and what it is to gain
    ("taught", "", "distilled", EARLY_NOTE, GOALS),
    ("mixed", "", "distilled, and in place", EARLY_NOTE, GOALS),
    ("assisted", "", "the widest distilled, the others in place", EARLY_NOTE, GOALS),
    ("taught", "-late", "distilled once trained", LATE_NOTE, NO_GOALS),
)
DECODING_MBS = 100.0
LONGER = "fp32, trained on as long"
TUNED_NOTE = "fine-tuned for {more} epochs after the fp32 network's {before}, which may gain what compression takes"


def lost(before: Sequence[Hits], after: Sequence[Hits]) -> tuple[float, dict[str, float]]:
    """Points of accuracy that went, and their interval: over the test's samples for one pair, else over the seeds."""
    points = [100 * float(b.mean() - a.mean()) for b, a in zip(before, after, strict=True)]
    if len(points) > 1:
        return over_seeds(points)
    drawn = resample(np.stack([before[0], after[0]], axis=1))
    return points[0], interval(100 * (drawn[:, 0] - drawn[:, 1]))


def over_seeds(values: Sequence[float]) -> tuple[float, dict[str, float]]:
    """Their mean; the least and the largest as what it is within."""
    found = {"median": float(np.median(values)), "low": min(values), "high": max(values), "count": len(values)}
    return float(np.mean(values)), found


def tuned_note(before: Made, after: Made) -> str:
    """How much longer the compressed one was trained."""
    return TUNED_NOTE.format(more=after.job.work.epochs, before=before.job.work.epochs)


def lenets_rows(made: All, tell: Tell) -> list[Row]:
    """Sizes and losses over the seeds; the stack against its parts."""
    rows = []
    for name, title, goal in (("lenet300", "LeNet-300-100", 40.0), ("lenet5", "LeNet-5", 39.0)):
        dense, coded = _seeds(made, name), _seeds(made, name, "-coded")
        ratio, within = over_seeds([d.size / c.size for d, c in zip(dense, coded, strict=True)])
        note = SEEDS_NOTE.format(count=len(dense))
        sizes = {"fp32_bytes": [d.size for d in dense], "coded_bytes": [c.size for c in coded]}
        rows.append(Row("fp32 file over coded bundle", title, ratio, "×", None, goal, within, sizes, note))
        points, within = lost([d.final() for d in dense], [c.final() for c in coded])
        accuracies = {"fp32": [d.accuracy() for d in dense], "coded": [c.accuracy() for c in coded]}
        note = f"{note}; {tuned_note(dense[0], coded[0])}"
        rows.append(Row("accuracy lost", title, points, "points", 0.5, None, within, accuracies, note))
    return [*rows, *_stack_rows(made), *_decoding_rows(made)]


def _seeds(made: All, name: str, ending: str = "") -> list[Made]:
    return [made[key] for seed in range(len(made)) if (key := f"{name}-{seed}{ending}") in made]


def _stack_rows(made: All) -> list[Row]:
    """The whole recipe's file over each part's smallest of at least its accuracy, less what samples of the test make
    uncertain: 0.1 point."""
    whole = made["lenet300-0-coded"]
    rows = []
    for part in ("prune", "cluster", "distill"):
        tried = [one for name, one in made.items() if name.startswith(f"lenet300-{part}")]
        equal = [one for one in tried if one.accuracy() >= whole.accuracy() - 0.001]
        best = min(equal or [made["lenet300-0"]], key=lambda one: one.size)
        control = {"whole": [whole.size, whole.accuracy()], "part": [best.size, best.accuracy()], "job": best.job.name}
        note = "of the settings tried, the smallest whose accuracy is at least as high, within 0.1 point; seed 0"
        note = note if equal else "no setting tried is as accurate, within 0.1 point: over the fp32 file; seed 0"
        figure = f"stacked recipe's file over that of {part} alone"
        rows.append(Row(figure, "LeNet-300-100", whole.size / best.size, "×", 1.0, None, None, control, note))
    return rows


def _decoding_rows(made: All) -> list[Row]:
    rows = []
    for name in ("lenet300-0-coded", "lenet5-0-coded", "cifar64-coded", "clothes-coded"):
        if name in made:
            weights = made[name].bundle.weights
            raw = encode(weights, made[name].bundle.coding or {})
            size = sum(array.nbytes for array in decode(raw)[0].values())
            times = np.array([time_ms(lambda raw=raw: decode(raw)) for _ in range(ROUNDS)])  # type: ignore[misc]
            speeds = size / 1e3 / times
            rows.append(
                Row("decoding", name, float(np.median(speeds)), "MB/s", None, DECODING_MBS, spread(speeds),
                    {"decoded_bytes": size, "coded_bytes": len(raw)}, "of decoded weights, one thread")
            )  # fmt: skip
    return rows


def supernets_rows(made: All, tell: Tell) -> list[Row]:
    """One coded bundle of every width and exit against fp32 files, and what each width's final exit loses."""
    rows, sizes = [], cache(lambda source: separate_bytes(made[source]))
    for source, job, name, against, goal, most in (
        ("cifar16", "cifar16-coded", "cifar16", "four", 10.0, 0.5),
        ("cifar64", "cifar64-coded", "cifar64", "four", 20.0, 0.5),
        ("clothes", "clothes-coded", "clothes", "one", 6.0, 1.0),
        ("clothes", "clothes-skip", "clothes, depthwise layers unpruned", "one", None, None),
    ):
        if job not in made:
            continue
        dense, coded, files = made[source], made[job], sizes(source)
        whole = sum(files.values()) if against == "four" else files[1.0]
        control = {"fp32_files": files, "fp32_supernet": dense.size, "coded": coded.size}
        figure = f"{against} fp32 networks' files over the coded bundle" if against == "four" else (
            "the one fp32 network's file over the coded bundle")  # fmt: skip
        rows.append(Row(figure, name, whole / coded.size, "×", None, goal, None, control))
        for width in sorted(dense.bundle.manifest.widths, reverse=True):
            points, within = lost([dense.final(width)], [coded.final(width)])
            accuracies = {"fp32": dense.accuracy(width), "coded": coded.accuracy(width)}
            rows.append(Row(f"accuracy lost, width {width:g}", name, points, "points", most, None, within,
                            accuracies, tuned_note(dense, coded)))  # fmt: skip
    return [*rows, *_decoding_rows(made)]


def separate_bytes(dense: Made) -> dict[float, int]:
    """What each width takes as a fp32 bundle of its own with one exit, which doesn't depend on its numbers."""
    net, _ = restore(dense.job.checkpoint)
    has = dense.bundle.manifest
    held_out = [(torch.randn(8, *has.input.shape), torch.zeros(8, dtype=torch.long))]
    found = {}
    with TemporaryDirectory() as folder:
        for width in net.widths:
            subnet, example = net.subnet(width, net.depths), torch.zeros(1, *has.input.shape)
            alone, path = make_supernet(subnet, example, (1.0,), 1, sort=False), Path(folder) / "alone.stretto"
            export(alone, held_out, path, input=has.input, classes=has.classes)
            found[width] = path.stat().st_size
    return found


def channels_rows(made: All, tell: Tell) -> list[Row]:
    """Half the MACs: accuracy, time, the same shape from scratch, the supernet's own point of equal time."""
    whole, pruned, scratch, supernet = (
        made[n] for n in ("plain", "plain-channels", "plain-channels-scratch", "cifar64")
    )
    network = "ResNet-14, 64 channels"
    macs = _final(pruned).macs / _final(whole).macs
    points, within = lost([whole.final()], [pruned.final()])
    rows = [
        Row("MACs left by channel pruning", network, macs, "×", 0.5),
        Row("accuracy lost by channel pruning", network, points, "points", 1.0, None, within,
            {"whole": whole.accuracy(), "pruned": pruned.accuracy()}, tuned_note(whole, pruned)),
    ]  # fmt: skip
    times = _times({"whole": whole, "again": whole, "pruned": pruned, "supernet": supernet}, tell)
    ratios = block_ratios(times["pruned", 1.0], times["whole", 1.0])
    same = spread(block_ratios(times["again", 1.0], times["whole", 1.0]))
    rows.append(Row("its time over the whole network's", network, float(np.median(ratios)), "×", 0.65, None,
                    spread(ratios), {"whole over itself": same}, "one graph, one thread, fp32"))  # fmt: skip
    points, within = lost([pruned.final()], [scratch.final()])
    rows.append(Row("pruned over the same shape from scratch for equal cost", network, points, "points", None, None,
                    within, {"scratch": scratch.accuracy()}))  # fmt: skip
    return [*rows, _equal_time_row(pruned, supernet, times, network)]


def _equal_time_row(pruned: Made, supernet: Made, times: Mapping[Any, Any], network: str) -> Row:
    """Against the supernet's accuracy at that time, between the two widths around it."""
    widths = sorted(supernet.bundle.manifest.widths)
    at = [float(np.median(times["supernet", width])) for width in widths]
    mine = float(np.median(times["pruned", 1.0]))
    curve = np.stack([supernet.final(width) for width in widths], axis=1)
    order = np.argsort(at)  # which interpolation needs to rise
    at, curve = [at[i] for i in order], curve[:, order]
    drawn = resample(np.column_stack([curve, pruned.final()]))
    gains = np.array([row[-1] - np.interp(mine, at, row[:-1]) for row in drawn])
    gain = pruned.accuracy() - float(np.interp(mine, at, curve.mean(axis=0)))
    inside = at[0] <= mine <= at[-1]
    note = "between the two widths around that time" if inside else "the nearest width: none is as slow, or as fast"
    control = {"supernet_ms": at, "supernet_accuracy": curve.mean(axis=0).tolist(), "pruned_ms": mine}
    return Row("pruned over the supernet's point of equal time", network, 100 * gain, "points", None, None,
               interval(100 * gains), control, note)  # fmt: skip


def bits_rows(made: All, tell: Tell) -> list[Row]:
    """8 bits after training and aware of it, and one bit."""
    network, whole, aware, binary = "ResNet-14, 64 channels", made["plain"], made["plain-int8"], made["plain-binary"]
    rows = []
    for figure, one, goal in (
        ("accuracy lost by int8 after training", whole, None),
        ("accuracy lost by int8 that was trained for", aware, 0.2),
    ):
        points, within = lost([whole.final()], [one.final(precision="int8")])
        control = {"fp32": whole.accuracy(), "itself, in fp32": one.accuracy()}
        note = "" if one is whole else tuned_note(whole, one)
        rows.append(Row(figure, network, points, "points", goal, None, within, control, note))
    points, within = lost([whole.final()], [binary.final()])
    control = {"fp32": whole.accuracy(), "binary": binary.accuracy(), LONGER: made["plain-longer"].accuracy()}
    rows.append(Row("accuracy lost by binary weights", network, points, "points", 2.0, None, within, control,
                    tuned_note(whole, binary)))  # fmt: skip
    names = [f"{layer}.weight" for layer in binary.report["passes"][0]["found"]["layers"]]
    weights = {name: binary.bundle.weights[name] for name in names}
    scales = {name: scale for name, scale in (binary.bundle.coding or {}).items() if name in weights}
    fp32 = sum(array.size for array in weights.values()) * 4
    coded = len(encode(weights, scales))
    rows.append(Row("binary layers smaller by", network, fp32 / coded, "×", None, 25.0, None,
                    {"fp32_bytes": fp32, "coded_bytes": coded, "layers": len(names)}, "with scales"))  # fmt: skip
    return rows


def factors_rows(made: All, tell: Tell) -> list[Row]:
    """Two layers for one: what goes of MACs and accuracy."""
    network, whole, thin, apart = (
        "ResNet-14, 64 channels", made["plain"], made["plain-low_rank"], made["plain-separable"],
    )  # fmt: skip
    points, within = lost([whole.final()], [thin.final()])
    found = thin.report["passes"][0]["found"]
    ratios, longer = apart.report["passes"][0]["found"]["layers"], made["plain-longer"].accuracy()
    weights = _shapes(whole, ratios)
    off = max(abs(ratio / (1 / n + 1 / k) - 1) for ratio, (n, k) in zip(ratios.values(), weights, strict=True))
    apart_points, apart_within = lost([whole.final()], [apart.final()])
    return [
        Row("MACs left in low-rank layers", network, found["macs_left"], "×", 0.5),
        Row("accuracy lost by low rank", network, points, "points", 0.5, None, within,
            {"whole": whole.accuracy(), "low_rank": thin.accuracy(), LONGER: longer, "ranks": found["ranks"]},
            tuned_note(whole, thin)),
        Row("separable layers' weights, off 1/N + 1/k² by", network, 100 * off, "%", 1.0),
        Row("MACs left by separable layers, whole network", network, _final(apart).macs / _final(whole).macs, "×"),
        Row("accuracy lost by separable layers", network, apart_points, "points", None, None, apart_within,
            {"whole": whole.accuracy(), "separable": apart.accuracy(), LONGER: longer}, tuned_note(whole, apart)),
    ]  # fmt: skip


def _shapes(whole: Made, layers: Mapping[str, float]) -> list[tuple[int, int]]:
    """Output channels and places of the kernel, by layer."""
    shapes = [whole.bundle.weights[f"{layer}.weight"].shape for layer in layers]
    return [(shape[0], shape[2] * shape[3]) for shape in shapes]


def taught_rows(made: All, tell: Tell) -> list[Row]:
    """The narrowest width: learnt from larger networks, against in place alone, and against labels alone."""
    rows, narrow = [], min(made["cifar16"].bundle.manifest.widths)
    for way, ending, how, note, goals in DISTILLED:
        one = made[f"cifar16-{way}{ending}"]
        for (against, over), goal in zip(CONTROLS.items(), goals, strict=True):
            other = made[f"cifar16-{against}{ending}"]
            points, within = lost([one.final(narrow)], [other.final(narrow)])
            control = {way: one.accuracy(narrow), against: other.accuracy(narrow)}
            rows.append(Row(f"narrowest width, {how}, over {over}", "ResNet-14, 16 channels", points, "points", None,
                            goal, within, control, note))  # fmt: skip
    return rows


def _final(made: Made) -> Any:
    return made.bundle.point(1.0, made.bundle.manifest.depths)


def _times(bundles: Mapping[str, Made], tell: Tell) -> dict[tuple[str, float], NDArray[np.float64]]:
    """Milliseconds of every width's final exit in one graph, side by side: (rounds, calls) by name and width."""
    with ExitStack() as stack:
        tasks: dict[tuple[str, float], Callable[[], object]] = {}
        for name, made in bundles.items():
            has = made.bundle.manifest
            engine = stack.enter_context(closing(make_engine("onnx", made.bundle)))
            x = np.random.default_rng(0).standard_normal((1, *has.input.shape), np.float32)
            for width in has.widths:
                point = OperatingPoint(width, has.depths, "fp32")
                tasks[name, width] = partial(engine.run, point.whole_way, x)
        return interleaved(tasks, ROUNDS, CALLS, tell=partial(tell, "timing"))
