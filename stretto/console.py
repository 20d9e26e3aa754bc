"""What the command line shows: tables and progress bars; no decisions."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from .policies.situation import OperatingPoint
    from .runtime.answer import Answer
    from .runtime.bundle import Bundle
    from .runtime.manifest import InputSpec
    from .runtime.profile import Profile
    from .training.fit import Progress as TrainingProgress

_COVERED = {None: "", True: "; covered by the promise", False: "; not covered by the promise"}

# nothing shown is markup: a class may be called "[cat]", a file ":dog:"
OUT = Console(markup=False, emoji=False)


class WorkBar:
    """A bar for long work: told what is being done, how much of it is done, how much there is."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def tell(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)


class TrainingBar(WorkBar):
    """A bar for training, and one line an epoch that stays."""

    def progress(self, now: "TrainingProgress") -> None:
        left = f"{now.left_s // 60:.0f}:{now.left_s % 60:02.0f} left"
        self.tell("training", (now.epoch - 1) * now.batches + now.batch, now.epochs * now.batches)
        line = f"epoch {now.epoch}/{now.epochs}  loss {now.loss:.3f}  accuracy {now.accuracy:.2%}  {left}"
        self._bar.update(self._tasks["training"], description=line)
        if now.batch == now.batches:
            self._bar.console.print(line, highlight=False)


def points(console: Console, rows: list[dict[str, Any]], title: str) -> None:
    """Operating points as `eval` reports them."""
    timed, metered = (any(name in row for row in rows) for name in ("latency_ms", "energy_mj"))
    table = Table("width", "depth", "precision", "accuracy", "MACs", "parameters", title=title, title_justify="left")
    for name in [*["p50 ms", "p99 ms"] * timed, *["mJ"] * metered]:
        table.add_column(name)
    for row in rows:
        more = [f"{value:.3f}" for value in row.get("latency_ms", {}).values()]
        more += [f"{row['energy_mj']:.3f}"] if "energy_mj" in row else []
        table.add_row(
            f"{row['width']:g}", str(row["depth"]), row["precision"], f"{row['accuracy']:.2%}", amount(row["macs"]),
            amount(row["params"]), *more,
        )  # fmt: skip
    console.print(table)


def adaptive(console: Console, report: dict[str, Any]) -> None:
    """Adaptive execution below the points: the full network, then what stops early at each width and precision."""
    columns = ["accuracy", "otherwise", "MACs", "share of exits", "mean ms", "p50 ms"]
    title = "exits that may be sure enough, measured in turns with the full network"
    table = Table("width", "precision", "rule", *columns, title=title, title_justify="left")
    for row in report["adaptive"]:
        table.add_row(
            "any" if row["width"] is None else f"{row['width']:g}", row["precision"], _rule(row),
            f"{row['accuracy']:.2%} ± {row['accuracy_error']:.2%}", f"{row['disagreement']:.2%}", amount(row["macs"]),
            " ".join(f"{share:.0%}" for share in row["exits"].values()),
            f"{row['latency_ms']['mean']:.3f}", f"{row['latency_ms']['p50']:.3f}",
        )  # fmt: skip
    console.print(table)
    if report["promise"]:
        console.print(report["promise"], highlight=False)


def _rule(row: dict[str, Any]) -> str:
    if "rule" not in row:
        return "none: the full network"
    found = row["threshold"]
    at = found if isinstance(found, tuple) else (found,)
    return f"{row['rule']} {', '.join('never' if one is None else f'{one:g}' for one in at)}"


def calibration(console: Console, report: dict[str, Any]) -> None:
    """What was certified at each width and precision, and what that promises."""
    columns = ["threshold", "stop early", "MACs saved", f"{report['loss']} (mean)", "agree"]
    title = f"{report['out']}: {report['rule']}, certified on {report['samples']} samples of {report['data']}"
    table = Table("width", "precision", *columns, title=title, title_justify="left")
    for row in report["ways"]:
        found = "never" if row["threshold"] is None else f"{row['threshold']:g}"
        table.add_row(
            f"{row['width']:g}", row["precision"], found if row["certified"] else "nothing certified",
            f"{row['early']:.1%}", f"{row['macs_saved']:.1%}", f"{row['risk']:.2%}", f"{row['agreement']:.2%}",
        )  # fmt: skip
    console.print(table)
    for precision in report["left_out"]:
        console.print(
            f"{precision}: left out, as the engine doesn't run it, or it was made from this split: certify on another, "
            "or export it with --spare 0.8",
            highlight=False,
        )
    console.print(report["promise"], style="bold", highlight=False)


def bundle(console: Console, opened: "Bundle", measured: "Profile | None" = None) -> None:
    """What is inside a bundle, and where a profile of it is given, what its points take in energy."""
    report = bundle_report(opened, measured)
    console.print(
        f"{opened.path.name}: {report['network']}, input {tuple(report['input']['shape'])}, {len(report['classes'])} "
        f"classes, {amount(report['bytes'])}B, of which weights {amount(report['weights_bytes'])}B"
        + (f", coded, {amount(report['decoded_bytes'])}B in memory" if report["coded"] else ""),
        highlight=False,
    )
    points(console, report["points"], "held-out accuracy")
    if measured is not None:
        console.print(f"energy by {measured.power.source}", highlight=False)


def bundle_report(opened: "Bundle", measured: "Profile | None" = None) -> dict[str, Any]:
    """A bundle's manifest without its bindings, and sizes; with a profile also its power, and energies by it."""
    manifest = opened.manifest
    sizes = {name: member.size for name, member in manifest.members.items()}
    return {
        "path": str(opened.path),
        "sha256": opened.sha256,
        "bytes": opened.path.stat().st_size,
        "weights_bytes": sum(size for name, size in sizes.items() if name.startswith("weights.")),
        "graphs_bytes": sum(size for name, size in sizes.items() if name.startswith("graphs")),
        "coded": opened.coding is not None,
        "decoded_bytes": sum(array.nbytes for array in opened.weights.values()),
        "network": manifest.network,
        "classes": list(manifest.classes),
        "input": asdict(manifest.input),
        "widths": list(manifest.widths),
        "depths": manifest.depths,
        "precisions": list(manifest.precisions),
        "points": [asdict(point) | _energy(point.point, measured) for point in manifest.points],
        "provenance": manifest.provenance,
    } | ({} if measured is None else {"power": asdict(measured.power)})


def router(console: Console, opened: "Bundle") -> dict[str, Any]:
    """What a bundle's router takes and how well it predicts, which is what it returns."""
    manifest = opened.manifest
    report = manifest.provenance["router"]
    share = report["macs"] / max(point.macs for point in manifest.points)
    console.print(
        f"{opened.path.name}: router of {amount(report['macs'])} MACs, {share:.1%} of the full network's, fitted on "
        f"{report['images']} images and corrected on {report['calibration']}; mean squared error "
        f"{report['error']:.4f}, {report['error_of_means']:.4f} if it knew each point's accuracy alone",
        highlight=False,
    )
    return {**report, "macs_share": share}


def _energy(point: "OperatingPoint", measured: "Profile | None") -> dict[str, float]:
    """Nothing where it isn't known: an engine may not run every precision."""
    if measured is None or (point.whole_way, measured.batches[0]) not in measured.times:
        return {}
    return {"energy_mj": measured.energy_mj(point)}


def profile(console: Console, opened: "Bundle", measured: "Profile") -> None:
    """Times from the start to every exit, and the energy of a sample."""
    columns = [
        f"{pacing.replace('_', ' ')} p{level * 100:g}" for pacing in ("back_to_back", "paced") for level in (0.5, 0.99)
    ]
    table = Table("width", "depth", "precision", "batch", *columns, "mJ", title="milliseconds", title_justify="left")
    for (step, batch), times in measured.times.items():
        if step.first == 0:
            at = [measured.levels.index(level) for level in (0.5, 0.99)]
            cells = [f"{times[pacing][i]:.3f}" for pacing in times for i in at]
            energy = f"{measured.energy_mj(step.point, batch):.3f}"
            table.add_row(f"{step.width:g}", str(step.depth), step.precision, str(batch), *cells, energy)
    console.print(table)
    console.print(f"energy by {measured.power.source}", highlight=False)


def answer(console: Console, given: "Answer", measured: "Profile") -> None:
    """One answer, and what it was planned with."""
    met = "in time" if given.deadline_met else "late"
    point = given.point
    console.print(f"{given.label}  ({given.confidence:.1%} sure)", style="bold", highlight=False)
    console.print(
        f"width {point.width:g}, depth {point.depth}, {point.precision}; {given.latency_ms:.2f} ms, {met}; stopped by "
        f"{given.stopped_by}; expected {given.expected_ms:.2f} ms and {given.expected_accuracy:.1%} accuracy; "
        f"times: {measured.source}; {given.energy_mj:.3g} mJ by {measured.power.source}{_COVERED[given.covered]}",
        highlight=False,
    )


def answer_report(given: "Answer", measured: "Profile") -> dict[str, Any]:
    """An answer as JSON-able data, with the power that its energy is worked out by."""
    told = {field.name: getattr(given, field.name) for field in fields(given) if field.name != "seen"}
    return told | {"scores": given.scores.tolist(), "power": asdict(measured.power)}


def trace_report(console: Console, report: dict[str, Any]) -> None:
    """What would become of a network."""
    widths = report["widths"]
    table = Table("channel group", "layers", "channels", *(f"at {w:g}" for w in widths), title_justify="left")
    for group in report["groups"]:
        kept = [str(group["kept"][i]) for i in range(len(widths))]
        table.add_row(group["name"], str(len(group["layers"])), str(group["channels"]), *kept)
    console.print(table)
    table = Table("width", "depth", "MACs", "parameters", title_justify="left")
    for point in report["points"]:
        table.add_row(f"{point['width']:g}", str(point["depth"]), amount(point["macs"]), amount(point["params"]))
    console.print(table)
    console.print(f"{report['narrowed_share']:.1%} of the MACs are in layers narrowed on both sides", highlight=False)
    places = ", ".join(f"{cut['name']} ({cut['share']:.0%})" for cut in report["cuts"])
    console.print(f"places to cut, with the share of the MACs done: {places}", highlight=False)
    console.print(f"stem ends at {report['stem']}; early exits at {', '.join(report['exits'])}", highlight=False)
    for kept in report["full"]:
        console.print(f"stays at full width: {kept['name']}: {kept['reason']}", highlight=False)
    for note in report["notes"]:
        console.print(f"note: {note}", highlight=False)


def read_input(path: Path, spec: "InputSpec") -> NDArray[np.float32]:
    """An image file, resized to the bundle's input and normalised, or a .npy that is the input already.

    An image's black to white is taken as 0 to 255 and mapped to the pixels that the bundle was trained on, 0 to
    1 / scale: for the digits, 0 to 16. A scale of 1 leaves them. Only a square input is resized to.

    Raises:
        ValueError: the file is neither or of another shape, or the bundle doesn't take images.
    """
    if path.suffix == ".npy":
        return _read_npy(path)
    from .training.images import decode_image

    if len(spec.shape) != 3 or spec.shape[0] not in (1, 3):
        raise ValueError(f"{path}: this bundle takes {spec.shape}, which is no image; give a .npy")
    data, size = path.read_bytes(), spec.shape[1] if spec.shape[1] == spec.shape[2] else None
    try:
        pixels: NDArray[Any] = decode_image(data, size)
    except ImportError:
        raise
    except Exception as error:  # Pillow raises a dozen types on damaged input; all mean the same here
        reason = "its format isn't known" if "BytesIO" in str(error) else str(error)
        raise ValueError(f"{path} can't be read as an image ({reason}); give an image or a .npy") from error
    if pixels.shape[1:] != spec.shape[1:]:
        raise ValueError(f"{path}: (H, W) is {pixels.shape[1:]}, this bundle takes {spec.shape[1:]}; resize it first")
    if spec.shape[0] == 1:
        pixels = pixels.mean(axis=0, keepdims=True)
    white = 255 if spec.scale == 1 else min(1 / spec.scale, 255)
    return spec.prepare(np.rint(pixels / 255 * white).astype(np.uint8))


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} can't be read as a .npy of numbers ({error}); write it with numpy.save") from error


def write_json(path: Path | None, report: Any) -> None:
    """Where one is asked for, with the folders that it needs."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")


def amount(number: float) -> str:
    """A large number with its unit: 26.7M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
