"""What tests of the shadow share: a bundle with a certificate, and an engine whose answers the input says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from stretto.policies.load import Load
from stretto.policies.situation import Evidence, OperatingPoint
from stretto.runtime.bundle import Bundle, write_bundle
from stretto.runtime.manifest import Certified, CertifiedWay

from .toy import Toy, toy_bundle

DEPTHS, SAMPLES = 3, 2000
FULL = OperatingPoint(1.0, DEPTHS)
IDLE = Load(others=0.0, cores=2.0, machine_cores=2.0)
BUSY = Load(others=2.0, cores=2.0, machine_cores=2.0)
WAYS = tuple(CertifiedWay(width, "fp32", 0.9, 0.01, early=0.7, agreement=0.99) for width in (0.5, 1.0))


def certified(ways: tuple[CertifiedWay, ...] = WAYS, samples: int = SAMPLES) -> Certified:
    return Certified("probability", "disagreement", "ltt", 0.02, 0.05, samples, ways, "It is promised.")


def written(toy: Toy, path: Path, found: Certified | None, **changed: np.ndarray) -> Bundle:
    """The toy's bundle with a certificate, and some of its weights changed."""
    write_bundle(path, replace(toy.manifest, certified=found), toy.graphs, toy.weights | changed)
    return Bundle.open(path)


def certified_bundle(folder: Path, found: Certified | None = None) -> Bundle:
    return written(toy_bundle(folder / "plain.stretto", depths=DEPTHS), folder / "toy.stretto", found or certified())


def pixels(early: int = 1, full: int = 1, sure: bool = True) -> np.ndarray:
    """(3, 8, 8) that `Told` answers like this."""
    x = np.zeros((3, 8, 8), np.float32)
    x[0, 0, :3] = early, full, sure
    return x


def seen(point: OperatingPoint, top: int = 1) -> Evidence:
    return Evidence(point, np.eye(4, dtype=np.float32)[top], 1.0, top, 0.95, 0.9)


class Told:
    """An engine that answers what the pixels say: `early`, surely or not before the final exit, `full` at the full one.

    `before`: called before each run, with the step.
    """

    name, threads, in_caller = "onnx", 1, True

    def __init__(self):
        self.runs, self.before = [], lambda step: None

    def load(self, step):
        """Nothing to load."""

    def run(self, step, x, cut=None):
        self.before(step)
        self.runs.append((step, x.copy()))
        early, full, sure = x[:, 0, 0, :3].T
        labels = (full if step.point == FULL else early).astype(int)
        scales = np.where(sure.astype(bool) | (step.depth == DEPTHS), 20, 0.1)
        return np.eye(4, dtype=np.float32)[labels] * scales[:, None].astype(np.float32), x

    def close(self):
        """Nothing to free."""
