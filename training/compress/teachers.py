"""Teachers: what other networks say of the images that one is trained on, asked once and kept.

Batches of an epoch, augmentation included, depend on the seed and the epoch alone, so what a teacher said of exactly
these pixels can be kept; a teacher that sees other crops than its pupil teaches less (Beyer et al., Knowledge
Distillation: A Good Teacher Is Patient and Consistent, CVPR 2022).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...policies.situation import Step
from ...runtime.bundle import Bundle
from ...runtime.engines import make_engine
from ...runtime.files import replacing
from ..augment import Batches
from ..bundle_data import normal_of
from ..losses import Lesson
from ..task import restore

Ask = Callable[[Tensor], Tensor]  # (batch, …) as the pupil takes it to (batch, classes) logits


@dataclass(frozen=True, slots=True)
class Teacher:
    """`ask` it; `key` of its file and of how it is run; `cache`: folder that keeps what it said."""

    path: Path
    key: str
    cache: Path
    ask: Ask


def open_teacher(path: Path, pupil: dict[str, Any], cache: Path, bf16: bool = False) -> Teacher:
    """A checkpoint's or a bundle's widest final exit, or any ONNX classifier of one input, which takes what the pupil
    takes.

    Args:
        pupil: what its checkpoint says of it: classes, shape, and how pixels become numbers.
        cache: folder for its scores.
        bf16: let a checkpoint's network run in it.

    Raises:
        ValueError: there is no such file, it is of another kind, or of other classes or another shape than the pupil.
    """
    if not path.is_file():
        raise ValueError(f"teacher {path}: no such file; give a checkpoint, a bundle, or an ONNX classifier")
    kinds = {".pt": _checkpoint, ".stretto": _bundle, ".onnx": _onnx}
    if path.suffix not in kinds:
        raise ValueError(f"teacher {path}: files of '{path.suffix}' aren't known; give one of {', '.join(kinds)}")
    key = f"{hashlib.sha256(path.read_bytes()).hexdigest()} {bf16 and path.suffix == '.pt'}"
    return Teacher(path, key, cache, kinds[path.suffix](path, pupil, bf16))


class Taught:
    """Batches with what teachers say of them: (x, y, lesson); each epoch's scores are kept as 16-bit floats.

    Scores of an epoch that was left in the middle are asked for again.
    """

    def __init__(
        self, batches: Batches, teachers: Sequence[Teacher], share: float, temperature: float, widest_only: bool = False
    ) -> None:
        self.without_lessons, self._teachers = batches, teachers
        self._share, self._temperature, self._widest_only = share, temperature, widest_only
        self._identity = _identity(batches)

    def set_epoch(self, epoch: int) -> None:
        self.without_lessons.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.without_lessons)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Lesson]]:
        kept = [_Kept(self._place(teacher)) for teacher in self._teachers]
        start = 0
        for x, y in self.without_lessons:
            pairs = zip(self._teachers, kept, strict=True)
            said = [of.get(start, len(y)) if of.whole else of.add(teacher.ask(x)) for teacher, of in pairs]
            start += len(y)
            yield x, y, Lesson(torch.stack(said), self._share, self._temperature, self._widest_only)
        for of in kept:
            of.write()

    def _place(self, teacher: Teacher) -> Path:
        key = f"{teacher.key} {self._identity} {self.without_lessons.epoch}"
        return teacher.cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


class _Kept:
    """One teacher's scores of one epoch: read where they are kept, else collected and then written."""

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, list[NDArray[np.float16]]()
        self._scores = _read(path)

    @property
    def whole(self) -> bool:
        return self._scores is not None

    def get(self, start: int, count: int) -> Tensor:
        if self._scores is None or start + count > len(self._scores):
            raise ValueError(f"{self._path}: holds scores of fewer images than are asked for; delete it")
        return torch.from_numpy(self._scores[start : start + count].astype(np.float32))

    def add(self, scores: Tensor) -> Tensor:
        self._found.append(scores.half().numpy())
        return scores.half().float()  # as it is when it is read

    def write(self) -> None:
        if self._scores is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as temporary, temporary.open("wb") as file:
                np.save(file, np.concatenate(self._found), allow_pickle=False)


def _read(path: Path) -> NDArray[np.float16] | None:
    if not path.exists():
        return None
    try:
        found: NDArray[np.float16] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: kept scores of a teacher can't be read ({error}); delete it") from error
    return found


def _identity(batches: Batches) -> str:
    """What an epoch's pixels depend on, but for its number."""
    split = hashlib.sha256(batches.split.x.tobytes()).hexdigest()
    how = (batches.batch_size, batches.scale, batches.mean, batches.std, batches.augment, batches.shuffle)
    return f"{split} {how} {batches.drop_last} {batches.seed}"


def _checkpoint(path: Path, pupil: dict[str, Any], bf16: bool) -> Ask:
    net, content = restore(path)
    about = content["about"]
    _check(path, pupil, about["classes"], tuple(about["shape"]))
    convert = _converter(pupil["data"], about["data"])

    def ask(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return net(convert(x))[-1].float()

    return ask


def _bundle(path: Path, pupil: dict[str, Any], bf16: bool) -> Ask:
    bundle = Bundle.open(path)
    has = bundle.manifest
    _check(path, pupil, list(has.classes), has.input.shape)
    convert, engine = _converter(pupil["data"], normal_of(has.input)), make_engine("onnx", bundle)
    step = Step(0, has.depths, has.widths[-1], "fp32")
    return lambda x: torch.from_numpy(engine.run(step, convert(x).numpy())[0])


def _onnx(path: Path, pupil: dict[str, Any], bf16: bool) -> Ask:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own kinds, which have no common base but this
        raise ValueError(f"teacher {path}: ONNX Runtime can't load it: {error}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or isinstance(inputs[0].shape[0], int):
        raise ValueError(
            f"teacher {path}: takes {[(i.name, i.shape) for i in inputs]}, expected one input with a free batch axis; "
            "export it with dynamic_shapes"
        )
    name, shape = inputs[0].name, tuple(inputs[0].shape[1:])
    if len(shape) == len(pupil["shape"]):  # sizes that are free take the pupil's
        shape = tuple(n if isinstance(n, int) else ours for n, ours in zip(shape, pupil["shape"], strict=True))

    def ask(x: Tensor) -> Tensor:
        try:
            scores = torch.from_numpy(session.run(None, {name: np.ascontiguousarray(x.numpy())})[0])
        except Exception as error:  # ONNX Runtime's own kinds again
            raise ValueError(f"teacher {path}: fails on {tuple(x.shape)}: {error}") from error
        if scores.shape != (len(x), len(pupil["classes"])):
            raise ValueError(f"teacher {path}: answers {tuple(scores.shape)}, expected ({len(x)}, classes) logits")
        return scores

    _check(path, pupil, pupil["classes"], shape)
    return ask


def _converter(pupil: dict[str, Any], teacher: dict[str, Any]) -> Ask:
    """From numbers as the pupil takes them to those that the teacher takes."""
    if all(list(np.ravel(pupil[name])) == list(np.ravel(teacher[name])) for name in ("scale", "mean", "std")):
        return lambda x: x
    column = {
        who: [torch.tensor(of[name]).view(-1, 1, 1) for name in ("mean", "std")]
        for who, of in (("pupil", pupil), ("teacher", teacher))
    }
    (mean, std), (their_mean, their_std) = column["pupil"], column["teacher"]
    factor = teacher["scale"] / pupil["scale"]
    return lambda x: ((x * std + mean) * factor - their_mean) / their_std


def _check(path: Path, pupil: dict[str, Any], classes: list[str], shape: tuple[int, ...]) -> None:
    for what, theirs, ours in (("classes", classes, pupil["classes"]), ("input shape", shape, tuple(pupil["shape"]))):
        if theirs != ours:
            raise ValueError(f"teacher {path}: its {what} are {theirs}, the pupil's {ours}; give one of the same")
