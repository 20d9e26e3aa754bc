"""What the server counts, for Prometheus: base units, and labels that only take values of the bundles."""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ..answer import Answer
from ..session import Session

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8)


class Metrics:
    """Registers itself with `registry`, which may serve one of these. `sessions`: by the model's name."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: CollectorRegistry, sessions: Mapping[str, Session]):
        self._registry = registry
        registry.register(Shadowed(sessions))
        self.in_flight = Gauge(
            "stretto_requests_in_flight", "Infer requests that arrived and aren't replied to", ["model"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "stretto_request_seconds", "From an answered request's arrival to its reply", ["model"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._answers = Counter(
            "stretto_answers", "Samples answered, by the operating point that did and why it went no further",
            ["model", "width", "depth", "precision", "stopped_by"], registry=registry,
        )  # fmt: skip
        self._deadlines = Counter(
            "stretto_deadlines", "Answered requests that had a budget", ["model", "met"], registry=registry
        )
        self._failures = Counter(
            "stretto_failures", "Infer requests that got an error, by its reason", ["model", "reason"],
            registry=registry,
        )  # fmt: skip

    def answered(self, model: str, answers: Sequence[Answer], seconds: float, deadline_met: bool | None) -> None:
        """Counts one answered request; `deadline_met` is None where it had no budget."""
        self._seconds.labels(model).observe(seconds)
        if deadline_met is not None:
            self._deadlines.labels(model, str(deadline_met).lower()).inc()
        for answer in answers:
            point = answer.point
            self._answers.labels(model, point.width, point.depth, point.precision, answer.stopped_by).inc()

    def failed(self, model: str, reason: str) -> None:
        """Counts one infer request without an answer; `model` is empty where there is no such model."""
        self._failures.labels(model, reason).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class Shadowed(Collector):
    """What the sessions found by comparing some answers with the full network's, read when it is asked for."""

    def __init__(self, sessions: Mapping[str, Session]):
        self._sessions = sessions

    def describe(self) -> Iterable[Metric]:
        """The names, without a session being asked."""
        return self._families()

    def collect(self) -> Iterable[Metric]:
        """All three, of each model."""
        shadowed, agreed, drift = families = self._families()
        for model, session in self._sessions.items():
            stats = session.stats
            shadowed.add_metric([model], stats.shadowed)
            agreed.add_metric([model], stats.agreed)
            drift.add_metric([model], float(stats.drift is not None))
        return families

    @staticmethod
    def _families() -> tuple[CounterMetricFamily, CounterMetricFamily, GaugeMetricFamily]:
        return (
            CounterMetricFamily(
                "stretto_shadowed", "Samples whose answer was compared with the full network's", labels=["model"]
            ),
            CounterMetricFamily("stretto_agreed", "Of these, those where it was the same", labels=["model"]),
            GaugeMetricFamily(
                "stretto_drift", "1 once inputs aren't like those of the calibration any more", labels=["model"]
            ),
        )
