"""Size against accuracy of the compressed networks, from the report of `bench.compress` alone."""

from pathlib import Path
from typing import Any

SERIES = {  # of the LeNets: what jobs' names begin with, colour, and the name in the legend
    "prune": ("tab:orange", "o--", "pruning alone"),
    "cluster": ("tab:green", "s--", "shared values alone"),
    "distill": ("tab:purple", "^", "distillation alone"),
}


def draw(report: dict[str, Any], path: Path) -> None:
    """The LeNets' curves, and every supernet's widths before and after; nothing where there are neither."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    jobs = {job["name"]: job for job in report["jobs"]}
    nets = [name for name in ("lenet300", "lenet5") if f"{name}-0" in jobs]
    supernets = [name for name in ("cifar16", "cifar64", "clothes") if f"{name}-coded" in jobs]
    panels = len(nets) + bool(supernets)
    if not panels:
        return
    figure, axes = pyplot.subplots(1, panels, figsize=(5.2 * panels, 4.6), constrained_layout=True, squeeze=False)
    places = list(axes.flat)
    for place, name in zip(places, nets, strict=False):
        _lenet(place, name, jobs)
    if supernets:
        _supernets(places[-1], supernets, jobs)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _lenet(axes: Any, name: str, jobs: dict[str, Any]) -> None:
    dense = [job for key, job in jobs.items() if key.startswith(f"{name}-") and key.removeprefix(f"{name}-").isdigit()]
    whole = [job for key, job in jobs.items() if key.startswith(f"{name}-at-") or key == f"{name}-0-coded"]
    seeds = [job for key, job in jobs.items() if key.endswith("-coded") and key.startswith(f"{name}-")]
    axes.plot(*_places(dense), "k*", markersize=10, label="fp32 file (three seeds)")
    axes.plot(*_places(whole), "o-", color="tab:blue", label="whole recipe: prune, distill, share values, code")
    axes.plot(*_places(seeds), "D", markerfacecolor="none", color="tab:blue", markersize=9, label="the same, its seeds")
    for part, (color, style, label) in SERIES.items():
        tried = [job for key, job in jobs.items() if key.startswith(f"{name}-{part}")]
        if tried:
            axes.plot(*_places(tried), style, color=color, label=label)
    _frame(axes, name)


def _supernets(axes: Any, names: list[str], jobs: dict[str, Any]) -> None:
    for name, color in zip(names, ("tab:blue", "tab:red", "tab:green"), strict=False):
        for ending, style, what in (("", "o:", "fp32"), ("-coded", "D-", "coded")):
            job = jobs[f"{name}{ending}"]
            finals = _finals(job)
            axes.plot(list(finals), [100 * value for value in finals.values()], style, color=color,
                      label=f"{name}, {what}: {job['bytes'] / 1e3:,.0f} kB")  # fmt: skip
    axes.set_xlabel("width")
    axes.set_ylabel("accuracy of the final exit on the test, %")
    axes.set_title("supernets: all widths and exits in one file")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)


def _places(jobs: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Kilobytes and per cent, the smallest first."""
    pairs = sorted((job["bytes"] / 1e3, 100 * max(_finals(job).values())) for job in jobs)
    return [size for size, _ in pairs], [accuracy for _, accuracy in pairs]


def _finals(job: dict[str, Any]) -> dict[float, float]:
    """Accuracy of each width's final exit in fp32."""
    points = [(*key.split(), value) for key, value in job["accuracy"].items()]
    last = max(int(depth) for _, depth, _, _ in points)
    return {float(w): value for w, depth, kind, value in points if int(depth) == last and kind == "fp32"}


def _frame(axes: Any, name: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("file, kB")
    axes.set_ylabel("accuracy on the test, %")
    axes.set_title({"lenet300": "LeNet-300-100", "lenet5": "LeNet-5 (Caffe's)"}[name])
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25, which="both")
