"""A bundle gets a router: a small head on the stem that predicts, for every operating point, whether it is right.

The network stays as it is. The head learns from training images, of which there are many, and which the network answers
better than others; so what it says is corrected, point by point, on calibration images, which the network never saw.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn import functional as F

from ..policies.scores import FloatArray, probabilities
from ..runtime.bundle import Bundle, write_bundle
from ..runtime.engines import make_engine
from ..runtime.manifest import Fragment, Manifest, TensorSpec
from .bundle_data import data_of, normal_of
from .errors import ExportError
from .fold import Bound
from .log_odds import fit_log_odds
from .onnx_graph import Job, compile_parts, tensors_of
from .optimizers import make_optimizer, one_cycle
from .precisions import Loader, Tell, arrays, check_engines, check_folder, check_reading, every_logits, told
from .router_head import RouterHead, make_head
from .task import EVALUATION_BATCH, batches

NAME = "stem/router"
TOLERANCE = 1e-3  # of log-odds, between torch and the compiled graph


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """How a router is fitted.

    Args:
        images: of the training split at most, drawn by `seed`, since every point answers each of them.
        epochs, batch, lr, weight_decay: of AdamW.
        classes: weight of a second loss in training, that of telling the classes from each other.
    """

    images: int = 20_000
    epochs: int = 10
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-2
    classes: float = 0.5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a head learns from.

    `cells`: (samples, …) as `RouterHead.pooled` gives them; `right`: (samples, points), 0 or 1; `labels`: (samples,).
    """

    cells: torch.Tensor
    right: torch.Tensor
    labels: torch.Tensor


def with_router(
    bundle: Bundle,
    train: Loader,
    path: str | Path,
    *,
    calibration: Loader,
    options: RouterOptions = RouterOptions(),
    provenance: dict[str, Any] | None = None,
    progress: Tell | None = None,
) -> Bundle:
    """Write a bundle again with a router, in place of one that it has. `path` may be the bundle's own.

    Args:
        train: (x, y) batches, the same each time, as many as can be had: what the network was trained on will do.
        calibration: (x, y) batches that the network never saw, of which the router's probabilities are made true.
        provenance: what the manifest is to say of the router beside its MACs and what it was fitted on.
        progress: told what is being done, how much of it is done, and how much there is.

    Raises:
        ValueError: the data don't fit the bundle, can be gone through only once or shuffle, it has no fp32, or the
            folder of `path` isn't there.
        ExportError: the network is so small that no router takes little enough of its MACs.
    """
    tell, path = progress or (lambda what, done, total: None), Path(path)
    check_folder(path)
    check_engines(bundle)
    for name, loader in (("train", train), ("calibration", calibration)):
        check_reading(name, loader, 2)
    bare, points = without_router(bundle), bundle.manifest.points
    torch.manual_seed(options.seed)
    head, macs = make_head(_stem(bare.manifest).output.shape, len(points), max(point.macs for point in points))
    blank = _draft(bare, head)
    lesson, exam = (
        _lesson(blank, head, loader, what, tell) for what, loader in (("learning", train), ("calibrating", calibration))
    )
    fit_head(head, lesson, options, tell)
    about = {"macs": macs, "images": len(lesson.labels), "calibration": len(exam.labels), **correct_head(head, exam)}
    draft = _draft(bare, head, {**about, **(provenance or {})})
    _compare(draft, head, next(iter(arrays(calibration)))[0])
    write_bundle(path, draft.manifest, draft.graphs, draft.weights, draft.coding)
    return Bundle.open(path)


def add_router(
    bundle: Bundle,
    out: str | Path,
    data_path: str,
    *,
    options: RouterOptions = RouterOptions(),
    tell: Tell | None = None,
) -> Bundle:
    """`with_router` on data from a name, split as the bundle's training split them; not on what its export spared.

    Raises:
        ValueError: as `with_router`, the bundle's provenance lacks what is needed, or the data are of other classes or
            shapes.
        ExportError: as `with_router`.
    """
    data, normal = data_of(bundle, data_path, "give with_router", tell), normal_of(bundle.manifest.input)
    whole = data.split("train")
    drawn = np.random.default_rng(options.seed).permutation(len(whole))[: options.images]
    some = replace(data, splits={**data.splits, "train": whole.take(np.sort(drawn))})
    spared = some.sparing(bundle.manifest.provenance.get("spared", 0.0))
    train = batches(some, "train", EVALUATION_BATCH, normal)
    calibration = batches(spared, "calibration", EVALUATION_BATCH, normal)
    about = {"data": data.name}
    return with_router(bundle, train, out, calibration=calibration, options=options, provenance=about, progress=tell)


def without_router(bundle: Bundle) -> Bundle:
    """The bundle as it was before it got a router; the same where it has none."""
    fragments = tuple(one for one in bundle.manifest.fragments if one.part != "router")
    members = {one.member for one in fragments}
    used = tensors_of(binding for one in fragments for binding in one.bindings.values())
    about = {name: value for name, value in bundle.manifest.provenance.items() if name != "router"}
    return Bundle(
        bundle.path,
        replace(bundle.manifest, fragments=fragments, provenance=about, members={}),
        "",
        {name: graph for name, graph in bundle.graphs.items() if name in members},
        {name: array for name, array in bundle.weights.items() if name in used},
        bundle.coding,
    )


def fit_head(head: RouterHead, lesson: Lesson, options: RouterOptions, tell: Tell) -> None:
    """Makes it say of these samples which points are right."""
    generator, count = torch.Generator().manual_seed(options.seed), len(lesson.labels)
    head.standardise(lesson.cells)
    nn.init.zeros_(head.last.weight)
    head.last.bias.data = torch.logit(lesson.right.mean(0).clamp(0.02, 0.98))
    classify = nn.Linear(head.last.in_features, int(lesson.labels.max()) + 1)
    both = nn.ModuleList([head, classify])
    optimizer = make_optimizer("adamw", both, options.lr, 0.9, options.weight_decay)
    total = options.epochs * -(-count // options.batch)
    head.train()
    for step, at in enumerate(_orders(count, options, generator)):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * one_cycle(step / total)
        summary = head.summary(lesson.cells[at].float())
        loss = F.binary_cross_entropy_with_logits(head.last(summary), lesson.right[at])
        loss = loss + options.classes * F.cross_entropy(classify(summary), lesson.labels[at])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        tell("fitting", step + 1, total)
    head.eval()


def correct_head(head: RouterHead, exam: Lesson) -> dict[str, float]:
    """Makes its probabilities true of these samples; returns the mean squared error of its probabilities, and that of
    the points' mean accuracies in their place."""
    odds, right = _odds(head, exam.cells), exam.right.numpy()
    fits = np.array([fit_log_odds(odds[:, point], right[:, point]) for point in range(right.shape[1])])
    head.correct(fits[:, 0], fits[:, 1])
    chance = probabilities(_odds(head, exam.cells))
    return {"error": float(((chance - right) ** 2).mean()), "error_of_means": float(right.var(axis=0).mean())}


def _orders(count: int, options: RouterOptions, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Positions of each batch of each epoch; batch norms have nothing to learn from a last one of one sample."""
    for _ in range(options.epochs):
        yield from (at for at in torch.randperm(count, generator=generator).split(options.batch) if len(at) > 1)


def _lesson(draft: Bundle, head: RouterHead, loader: Loader, what: str, tell: Tell) -> Lesson:
    """What the bundle's points answer to these samples, and the cells of the stem's features."""
    logits, labels = every_logits(draft, loader, partial(told, what, tell=tell))
    right = np.stack([logits[point].argmax(1) == labels for point in draft.routed], axis=1)
    engine, step = make_engine("onnx", draft), draft.manifest.router_step()
    cells, again = list[torch.Tensor](), list[NDArray[np.int64]]()
    try:
        for x, y in told(f"{what} stem", loader, tell):
            again.append(np.asarray(y))
            cells.append(head.pooled(_tensor(engine.run(step, x)[1])).half())
    finally:
        engine.close()
    if not np.array_equal(np.concatenate(again), labels):
        raise ValueError(
            f"{what}: the batches came in another order the second time; give a loader that doesn't shuffle"
        )
    return Lesson(torch.cat(cells), torch.from_numpy(right.astype(np.float32)), torch.from_numpy(labels))


@torch.no_grad()
def _odds(head: RouterHead, cells: torch.Tensor) -> FloatArray:
    """(samples, points)"""
    return torch.cat([head.judge(some.float()) for some in cells.split(EVALUATION_BATCH)]).numpy()


def _draft(bare: Bundle, head: RouterHead, about: dict[str, Any] | None = None) -> Bundle:
    """The bundle with this head as its router; `about`: what the provenance says of it."""
    has, stem, odds = bare.manifest, _stem(bare.manifest).output, TensorSpec("odds", (len(bare.manifest.points),))
    traced = fx.symbolic_trace(head.eval())
    job = Job(Bound(traced, {}, {}), torch.randn(2, *stem.shape), stem.name, odds.name, NAME)
    (graph,) = compile_parts([job])
    if (written := (graph.ir_version, graph.opset)) != (has.ir_version, has.opset):
        raise ExportError(
            f"{bare.path}: has ONNX's IR version {has.ir_version} and opset {has.opset}, this torch writes {written}; "
            f"export the bundle again, or install torch {has.provenance.get('torch')}"
        )
    member = f"graphs/{NAME}.onnx"
    router = Fragment(0, None, "fp32", "router", member, stem, odds, graph.bindings)
    manifest = replace(
        has,
        fragments=(*has.fragments, router),
        provenance=has.provenance | ({} if about is None else {"router": about}),
    )
    graphs, weights = {**bare.graphs, member: graph.raw}, {**bare.weights, **graph.own}
    return Bundle(bare.path, manifest, "", graphs, weights, bare.coding)


def _stem(manifest: Manifest) -> Fragment:
    """The body of stage 0 in fp32.

    Raises:
        ValueError: there is none.
    """
    for one in manifest.fragments:
        if (one.stage, one.part, one.precision) == (0, "body", "fp32"):
            return one
    raise ValueError(f"a router is fitted to fp32, which isn't among the precisions {manifest.precisions}")


def _compare(draft: Bundle, head: RouterHead, x: FloatArray) -> None:
    """The compiled graph says what the torch module says."""
    engine = make_engine("onnx", draft)
    try:
        found, features = engine.run(draft.manifest.router_step(), x)
    finally:
        engine.close()
    expected = _odds(head, head.pooled(_tensor(features)))
    if not (error := float(np.abs(found - expected).max())) <= TOLERANCE:  # nor where it isn't a number
        raise ExportError(
            f"{NAME}: the compiled graph differs from the torch module by {error:.1e}, at most {TOLERANCE}"
        )


def _tensor(features: FloatArray | None) -> torch.Tensor:
    if features is None:
        raise ExportError(f"{NAME}: the engine gave no features of the stem")
    return torch.from_numpy(features)
