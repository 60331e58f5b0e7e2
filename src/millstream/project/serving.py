"""Scoring in one process, and looking back at what was served."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from millstream.errors import Forked, MillstreamError, NotFound, ServeError
from millstream.project.parts import Parts

if TYPE_CHECKING:
    from millstream.monitor.explain import Explanation
    from millstream.monitor.parity import ParityReport
    from millstream.monitor.verify import VerifyReport
    from millstream.serve.capture import CaptureJournal, CaptureShipper
    from millstream.serve.scorer import Scorer

CHAMPION = "champion"
_logger = logging.getLogger("millstream.project")


def deploy(parts: Parts, model: str, version: int | None) -> int:
    """Make a version the champion, once it is seen to serve; returns it.

    Args:
        parts: the project.
        model: the name of the model.
        version: the version; the newest where None.

    Raises:
        NotFound: when there is no such model or version.
        ServeError: when the version cannot serve; the champion stays.
    """
    parts.registry.model(model)
    versions = [one.version for one in parts.model_versions.versions(model)]
    if version is None and not versions:
        raise NotFound(
            f"Model '{model}' has no version yet.",
            field="version",
            given=None,
            expected="a trained version",
            hint=f"run `millstream train {model}`.",
        )
    if isinstance(version, str) and not version.isdecimal():
        raise NotFound.named(f"version of model '{model}'", version, map(str, versions))
    chosen = versions[-1] if version is None else parts.model_versions.version(model, version).version
    why = _unfit(parts, model, chosen)
    if why is not None:
        raise ServeError(
            f"Model version '{model}@{chosen}' cannot serve, and the champion stays: {why}",
            f"deploy another version, or run `millstream train {model}`.",
        )
    parts.model_versions.alias(model, CHAMPION, chosen, reason="deployed by hand")
    return chosen


def rollback(parts: Parts, model: str) -> int:
    """Make the champion before this one, of those that can serve, the champion again; returns its version."""
    parts.registry.model(model)

    def unfit(version: int) -> str | None:
        why = _unfit(parts, model, version)
        if why is not None:
            _logger.warning("Model version '%s@%d' is passed over: %s", model, version, why)
        return why

    return parts.model_versions.rollback(model, CHAMPION, unfit=unfit).version


def _unfit(parts: Parts, model: str, version: int) -> str | None:
    """Why a version cannot serve by what is defined and kept now; None when it can."""
    try:
        scorer = parts.served.scorer(model, version)
        scorer.score([scorer.schema.example()])
    except MillstreamError as error:
        return error.message
    return None


def status(parts: Parts) -> dict[str, Any]:
    """What the status page shows, and the versions and aliases of the models."""
    from millstream.serve.catalogue import Catalogue
    from millstream.serve.status import Status

    registry = parts.registry
    models = {one.name: one for one in registry.models()}
    catalogue = Catalogue(models, {}, {}, {one.name: one for one in registry.streams()}, {}, b"")
    shown = Status(
        parts.settings.name,
        parts.settings.data,
        parts.clock,
        parts.log,
        parts.served.store,
        lambda: catalogue,
        registry.groups,
        registry.operations.unfinished,
        registry,
    )
    facts = {name: fact for name, fact in shown.facts().items() if name != "recent"}
    return {**facts, "models": [_model_facts(parts, name) for name in models]}


def _model_facts(parts: Parts, name: str) -> dict[str, Any]:
    versions = parts.model_versions.versions(name)
    aliases = parts.model_versions.aliases(name)
    champion, challenger = aliases.get(CHAMPION), aliases.get("challenger")
    facts = {"name": name, "versions": len(versions), "champion": champion, "challenger": challenger}
    if champion is None:
        return {**facts, "state": "waiting", "why": f"Model '{name}' has no deployed version yet."}
    try:
        parts.served.scorer(name)
    except MillstreamError as error:
        return {**facts, "state": "stopped", "why": error.message}
    return {**facts, "state": "serving", "why": None}


class Scoring:
    """Scores and captures in this process, and reads captures back.

    Args:
        parts: the project.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._scorers: dict[str, tuple[object, Scorer]] = {}
        self._journal: CaptureJournal | None = None
        self._shipper: CaptureShipper | None = None

    def score(self, model: str, rows: Any) -> pa.Table:
        """Score rows with the champion, and capture them."""
        from millstream.buffer.codec.frames import as_dicts

        scorer = self._scorer(model)
        scored = scorer.score(as_dicts(f"Model '{model}'", rows, MillstreamError))
        ids = [uuid.uuid4().hex for _ in scored]
        self._open().append(scorer.shape, [scorer.capture(*one) for one in zip(ids, scored, strict=True)])
        return pa.table(
            {
                "request_id": pa.array(ids, pa.string()),
                "score": pa.array([one.score for one in scored], pa.float64()),
                "version": pa.array([scorer.loaded.version] * len(scored), pa.int64()),
                "at": pa.array([one.at for one in scored], pa.int64()),
                "degraded": pa.array([one.degraded for one in scored], pa.bool_()),
            }
        )

    def ship(self) -> int:
        """Bring what was captured to the log; returns how many captures."""
        self._open()
        return self._shipper.step() if self._shipper else 0

    def verify(self, view: str | None, sample: int | None) -> VerifyReport:
        """Recompute the captures of a view, or of all that models read."""
        from millstream.monitor.verify import VerifyReport, check_sample, verify

        sample = check_sample("verify", sample)
        self.ship()
        registry, past = self._parts.registry, self._parts.histories.verification()
        models = [one for one in registry.models() if view in (None, one.view.name)]
        if view is not None and not models:
            registry.view(view)
        return sum((verify(self._captures(model.name, sample), past) for model in models), VerifyReport())

    def parity(self, model: str, sample: int | None) -> ParityReport:
        """Compare the captures of a model with training data."""
        from millstream.monitor.parity import parity
        from millstream.monitor.verify import check_sample

        sample = check_sample("parity", sample)
        self.ship()
        self._parts.registry.model(model)
        return parity(
            self._captures(model, sample), self._parts.histories.verification(), self._parts.histories.training
        )

    def explain(self, request_id: str, feature: str | None) -> Explanation:
        """What one captured request was answered from."""
        from millstream.history.captures import capture_of
        from millstream.monitor.explain import explain

        self.ship()
        for model in self._parts.registry.models():
            found = capture_of(self._parts.log, self._parts.offline, model.name, request_id)
            if found.num_rows:
                return explain(found, request_id, self._parts.histories.verification(), feature)
        raise NotFound(
            f"No request '{request_id}' was captured.",
            field="request_id",
            given=request_id,
            expected="the id of an answered request",
            hint="captures reach the log a second after the answer; `capture_sample` says which share is kept.",
        )

    def close(self) -> None:
        """Ship what was captured and close the journal; in a forked process it is still the parent's."""
        if self._journal is not None:
            with suppress(Forked):
                self.ship()
            self._journal.close()
            self._journal = self._shipper = None

    def _captures(self, model: str, newest: int | None) -> pa.Table:
        return self._parts.histories.captures(model, newest)

    def _scorer(self, model: str) -> Scorer:
        """The champion's scorer, made anew when the champion or the registry has changed."""
        parts = self._parts
        state = (parts.registry.revision(), parts.model_versions.aliases(model).get(CHAMPION))
        known = self._scorers.get(model)
        if known is None or known[0] != state:
            known = self._scorers[model] = (state, parts.served.scorer(model))
        return known[1]

    def _open(self) -> CaptureJournal:
        if self._journal is None:
            from millstream.serve.capture import CaptureJournal, CaptureShipper

            folder = self._parts.settings.data / "journal"
            self._journal = CaptureJournal(folder, sample=self._parts.settings.capture_sample)
            self._shipper = CaptureShipper(self._journal, self._parts.log)
        return self._journal
