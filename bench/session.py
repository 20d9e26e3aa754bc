"""The session against raw ONNX Runtime: time, memory, size, deadlines met.

python -m stretto.bench.session --json bench/results/session.json

Random weights: none of the figures depends on them.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..policies.deadline import Deadline
from ..policies.fixed import Fixed
from ..policies.profile_model import ProfileModel
from ..policies.situation import Budget, Evidence, OperatingPoint, Policy
from ..runtime.bundle import Bundle
from ..runtime.engines import make_engine
from ..runtime.measure import measure_profile
from ..runtime.menu import Menu
from ..runtime.outline import Outline
from ..runtime.profile import Profile, profile_path
from ..runtime.runner import Runner
from ..runtime.session import load
from ..runtime.stand import Moment
from . import fresh
from .budgets import budget_rows
from .bundles import Files, build_apart, full_graph_session
from .pools import PAUSE_S, pool_rows
from .report import Row, block_ratios, interleaved, machine, print_rows, spread, write_json

MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Effort:
    """How often things are measured.

    `rounds`, `calls`: blocks of each task and calls in a block; `pool_rounds`: of the thread-pool settings;
    `profile_rounds`: of `stretto profile`; `requests`: under each budget; `processes`: fresh ones for each figure.
    """

    rounds: int = 40
    calls: int = 7
    pool_rounds: int = 12
    profile_rounds: int = 12
    requests: int = 300
    processes: int = 7


QUICK = Effort(rounds=2, calls=1, pool_rounds=1, profile_rounds=1, requests=4, processes=1)


def run(
    json: Path | None = None,
    *,
    effort: Effort = Effort(),
    networks: Sequence[Files] | None = None,
    folder: Path | None = None,
    install: Path | None = None,
) -> dict[str, Any]:
    """Measures everything, prints a table and writes `json`.

    Args:
        networks: files to measure instead of the bench's own networks.
        folder: where those are built and kept; a temporary one otherwise.
        install: a checkout to install into a new environment, downloading what it requires, to see what that weighs.
    """
    console = Console()
    facts = machine()
    with tempfile.TemporaryDirectory() as temporary, console.status("building") as status, _without_warnings():
        files = networks or build_apart(folder or Path(temporary))
        rows = [*import_rows(effort), *install_rows(install)]
        for network in files:
            for part in measure(network, Path(temporary), effort, lambda text: status.update(text)):
                rows += part
    print_rows(console, rows, "bench session")
    report = {"bench": "session", "machine": facts, "rows": [row.to_json() for row in rows]}
    if json is not None:
        write_json(json, report)
    return report


def measure(files: Files, cache: Path, effort: Effort, tell: Callable[[str], object]) -> Iterator[list[Row]]:
    """Every figure of one network; `cache`: a folder to keep its profile in."""
    bundle = Bundle.open(files.bundle)
    tell(f"{files.name}: size, load time, memory")
    yield [size_row(files)]
    yield load_rows(files, cache / "empty", effort, "warm-up")
    yield memory_rows(files, cache / "empty", effort)
    tell(f"{files.name}: profile")
    profile = _profile(bundle, effort)
    profile.save(cache / "stretto" / "profiles" / profile_path(bundle, profile.engine, profile.threads).name)
    yield load_rows(files, cache, effort, "measured")
    tell(f"{files.name}: decisions")
    yield decision_rows(bundle, profile, files.name, effort)
    for threads in (1, 2):
        tell(f"{files.name}: answers, {threads} threads")
        yield answer_rows(files, profile, threads, effort)
    tell(f"{files.name}: thread pools")
    yield pool_rows(bundle, files.name, effort.pool_rounds, effort.calls)
    tell(f"{files.name}: budgets")
    yield budget_rows(files, profile, effort.requests)


def answer_rows(files: Files, profile: Profile, threads: int, effort: Effort) -> list[Row]:
    """`Session.infer` at the largest point, and exit by exit, over the same network called raw; raw over raw beside."""
    last = _largest(profile)
    raw, again = (full_graph_session(files.plain, threads) for _ in range(2))
    source = raw.get_inputs()[0]
    x = np.random.default_rng(0).standard_normal(source.shape, np.float32)
    with load(files.bundle, threads=threads, policy=last, profile=profile, checks=False) as session:
        tasks: dict[str, Callable[[], object]] = {
            "raw": lambda: raw.run(None, {source.name: x}),
            "raw again": lambda: again.run(None, {source.name: x}),
            "infer": lambda: session.infer(x[0]),
            "refine": lambda: list(session.refine(x[0])),
        }
        times = interleaved(tasks, effort.rounds, effort.calls, PAUSE_S if threads > 1 else 0.0)
    ratios = {name: block_ratios(times[name], times["raw"]) for name in tasks}
    control = {
        "raw over raw": spread(ratios["raw again"]),
        "infer over raw, µs more": float(np.median(np.median(times["infer"] - times["raw"], axis=1))) * 1e3,
        "raw, ms": float(np.median(times["raw"])),
        "over the fastest raw run": float(times["infer"].min() / times["raw"].min()),
    }
    label = f"{threads} thread{'s' * (threads > 1)}"
    return [
        _ratio_row(f"infer over raw, {label}", files.name, ratios["infer"], control, 1.05),
        _ratio_row(f"every exit in turn over raw, {label}", files.name, ratios["refine"], control, None),
    ]


def _ratio_row(figure: str, network: str, ratios: Any, control: dict[str, Any], at_most: float | None) -> Row:
    return Row(figure, network, float(np.median(ratios)), "×", at_most, spread=spread(ratios), control=control)


def decision_rows(bundle: Bundle, profile: Profile, network: str, effort: Effort) -> list[Row]:
    """Microseconds of `Runner.ask`: the situation, what the time model says, the policy, looking at its choice."""
    outline = Outline(bundle.manifest)
    menu = outline.menus(profile.idle_times(outline.steps)(1), profile.levels.index(0.5)).start
    first = menu.after[menu.steps[0]]
    seen = (first.read(np.zeros((1, len(bundle.manifest.classes)), np.float32))[0],)
    places: dict[str, tuple[Menu, tuple[Evidence, ...]]] = {
        f"at the start, {len(menu.steps)} points": (menu, ()),
        "after an exit": (first.menu, seen),
    }
    point = OperatingPoint(first.point.width, bundle.manifest.depths, first.point.precision)
    policies: dict[str, Policy] = {"fixed": Fixed(point), "deadline": Deadline()}
    slack_ms = float(np.median(menu.idle_ms[:, -1]))  # half of the points fit
    repeats = 100
    engine = make_engine("onnx", bundle)  # runs nothing here
    runners = {name: Runner(engine, policy, ProfileModel(profile.levels)) for name, policy in policies.items()}
    tasks = {
        (policy, place): partial(_ask_often, *places[place], runners[policy], slack_ms, repeats)
        for policy in policies
        for place in places
    }
    times = interleaved(tasks, effort.rounds)
    return [
        Row(
            f"decision, {policy}, {place}", network, float(np.median(each)) / repeats * 1e3, "µs", 20,
            spread=spread(each / repeats * 1e3),
        )
        for (policy, place), each in times.items()
    ]  # fmt: skip


def _ask_often(menu: Menu, evidence: tuple[Evidence, ...], runner: Runner, slack_ms: float, repeats: int) -> None:
    budget, stand = Budget(slack_ms), runner.begin(np.zeros(1, np.float32), menu, Moment(0.0, 0.0))
    for _ in range(repeats):
        runner.ask(stand, slack_ms / 1e3, budget, (evidence,))


def size_row(files: Files) -> Row:
    """The bundle against the plain network's ONNX file with the same heads."""
    bundle, plain = files.bundle.stat().st_size, files.with_heads.stat().st_size
    control = {"bundle, bytes": bundle, "ONNX file, bytes": plain}
    return Row("bundle over ONNX file with the same heads", files.name, bundle / plain, "×", 1.1, control=control)


def load_rows(files: Files, cache: Path, effort: Effort, source: str) -> list[Row]:
    """Seconds to load; `source`: where the profile that it finds, or makes, must be from."""
    told = [fresh.loaded(files.bundle, cache) for _ in range(effort.processes)]
    if wrong := [one["profile"] for one in told if one["profile"] != source]:
        raise RuntimeError(f"loads planned with profiles {wrong} instead of {source}")
    seconds = [one["load_s"] for one in told]
    note = "a new process that has NumPy and ONNX Runtime; stretto's import, every stage of every width, a run of each"
    return [
        Row(f"load, profile {source}", files.name, float(np.median(seconds)), "s", 1, spread=spread(seconds), note=note)
    ]


def memory_rows(files: Files, cache: Path, effort: Effort) -> list[Row]:
    """Resident memory with all loaded and run some times, over one session of the full network, run ten times.

    Of the whole process, and past the imports of NumPy and ONNX Runtime; `cache`: a folder without profiles.
    """
    ours = [fresh.loaded(files.bundle, cache) for _ in range(effort.processes)]
    raw = [fresh.loaded_raw(files.plain) for _ in range(effort.processes)]
    total, raw_total = (np.array([one["bytes"] for one in told]) for told in (ours, raw))
    own, raw_own = (np.array([_past_imports(one) for one in told]) for told in (ours, raw))
    rows = []
    for figure, mine, theirs in (("resident", total, raw_total), ("resident past the imports", own, raw_own)):
        control = {"MB": float(np.median(mine) / MEGABYTE), "raw, MB": float(np.median(theirs) / MEGABYTE)}
        rows.append(_ratio_row(f"memory, {figure}", files.name, mine / theirs, control, 2.5))
    for variant in fresh.VARIANTS:
        told = fresh.loaded(files.bundle, cache, variant)
        rows.append(Row(f"memory past the imports, {variant}", files.name, _past_imports(told) / MEGABYTE, "MB"))
    return rows


def _past_imports(told: dict[str, Any]) -> int:
    return int(told["bytes"] - told["bare_bytes"])


def import_rows(effort: Effort) -> list[Row]:
    """Seconds to import, in fresh processes, and whether torch came along."""
    told = [fresh.imported() for _ in range(effort.processes)]
    torch = sum(one["torch"] or one["torch_with_runtime"] for one in told)
    seconds, with_runtime = ([one[name] for one in told] for name in ("import_s", "runtime_s"))
    return [
        Row("import stretto", "", float(np.median(seconds)), "s", 0.3, spread=spread(seconds)),
        Row("import stretto and its runtime", "", float(np.median(with_runtime)), "s", spread=spread(with_runtime)),
        Row("imports that bring torch", "", torch, "", 0),
    ]


def install_rows(checkout: Path | None) -> list[Row]:
    """What the core's requirements weigh where they are installed here, and what a new install really weighs."""
    sizes = fresh.core_bytes()
    megabytes = {name: round(size / MEGABYTE, 1) for name, size in sizes.items()}
    rows = [Row("core requirements on disk", "", sum(sizes.values()) / MEGABYTE, "MB", 200, control=megabytes)]
    if checkout is not None:
        size = fresh.really_installed_bytes(checkout) / MEGABYTE
        rows.append(Row("pip install of the core", "", size, "MB", 200))
    return rows


def _profile(bundle: Bundle, effort: Effort) -> Profile:
    engine = make_engine("onnx", bundle)
    try:
        return measure_profile(engine, bundle, rounds=effort.profile_rounds)
    finally:
        engine.close()


def _largest(profile: Profile) -> OperatingPoint:
    step = max((step for step, _ in profile.times if step.first == 0), key=lambda step: (step.width, step.depth))
    return step.point


@contextmanager
def _without_warnings() -> Iterator[None]:
    """That a bundle was never profiled here is meant, so it isn't said each time."""
    log = logging.getLogger("stretto")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--quick", action="store_true", help="as little as possible, to see that it runs")
    parser.add_argument("--networks", type=Path, dest="folder", help="a folder to keep the built networks in")
    parser.add_argument("--install", type=Path, help="a checkout to install into a new environment and weigh")
    given = parser.parse_args()
    run(given.json, effort=QUICK if given.quick else Effort(), folder=given.folder, install=given.install)


if __name__ == "__main__":
    main()
