"""Millstream: declare features once, then stream, store, train on, serve and watch them.

A feature is a fold over events, read as of a moment. Stream, batch and backfill run the same fold; training and
serving read the same value at different moments.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millstream.definitions.aggregation import Count, First, Last, Max, Mean, Min, Std, Sum, TimeSince, Var
    from millstream.definitions.combined import Difference, Ratio, ZScore
    from millstream.definitions.decayed import DecayedCount, DecayedMean, DecayedSum
    from millstream.definitions.entity import Entity
    from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
    from millstream.definitions.feature_view import FeatureView
    from millstream.definitions.mapped import By, CountBy, SumBy
    from millstream.definitions.model import Label, LightGBM, Model, Retrain
    from millstream.definitions.on_demand import on_demand
    from millstream.definitions.over import Session
    from millstream.definitions.probes import Seen, SinceSeen
    from millstream.definitions.source import EventStream, Table
    from millstream.definitions.statistics import (
        Age,
        Correlation,
        Covariance,
        GeometricMean,
        Kurtosis,
        Rate,
        Share,
        Skewness,
    )
    from millstream.definitions.values import (
        DistinctCount,
        Entropy,
        FirstK,
        Histogram,
        Lag,
        LastDistinctK,
        LastK,
        MaxK,
        Median,
        MinK,
        Mode,
        Quantile,
        TopK,
    )
    from millstream.definitions.vectors import VectorMean, VectorSum
    from millstream.errors import MillstreamError
    from millstream.project import Project
    from millstream.project.compute import compute

__version__ = "0.1.0"

_HOMES = {
    "aggregation": (
        "ArgMax",
        "ArgMin",
        "Count",
        "First",
        "Last",
        "Max",
        "Mean",
        "Min",
        "Std",
        "Sum",
        "TimeSince",
        "Var",
    ),
    "combined": ("Difference", "Ratio", "ZScore"),
    "decayed": ("DecayedCount", "DecayedMean", "DecayedSum"),
    "entity": ("Entity",),
    "feature_group": ("BatchFeatureGroup", "StreamFeatureGroup"),
    "feature_view": ("FeatureView",),
    "model": ("Label", "LightGBM", "Model", "Retrain"),
    "on_demand": ("on_demand",),
    "over": ("Session",),
    "mapped": ("By", "CountBy", "SumBy"),
    "probes": ("Seen", "SinceSeen"),
    "source": ("EventStream", "Table"),
    "statistics": ("Age", "Correlation", "Covariance", "GeometricMean", "Kurtosis", "Rate", "Share", "Skewness"),
    "values": (
        "DistinctCount",
        "Entropy",
        "FirstK",
        "Histogram",
        "Lag",
        "LastDistinctK",
        "LastK",
        "MaxK",
        "Median",
        "MinK",
        "Mode",
        "Quantile",
        "TopK",
    ),
    "vectors": ("VectorMean", "VectorSum"),
}
_LAZY = {name: f"millstream.definitions.{home}" for home, names in _HOMES.items() for name in names}
_LAZY |= {
    "MillstreamError": "millstream.errors",
    "Project": "millstream.project",
    "compute": "millstream.project.compute",
}

__all__ = [
    "Age",
    "ArgMax",
    "ArgMin",
    "BatchFeatureGroup",
    "By",
    "Correlation",
    "Count",
    "CountBy",
    "Covariance",
    "DecayedCount",
    "DecayedMean",
    "DecayedSum",
    "Difference",
    "DistinctCount",
    "Entity",
    "Entropy",
    "EventStream",
    "FeatureView",
    "First",
    "FirstK",
    "GeometricMean",
    "Histogram",
    "Kurtosis",
    "Label",
    "Lag",
    "Last",
    "LastDistinctK",
    "LastK",
    "LightGBM",
    "Max",
    "MaxK",
    "Mean",
    "Median",
    "MillstreamError",
    "Min",
    "MinK",
    "Mode",
    "Model",
    "Project",
    "Quantile",
    "Rate",
    "Ratio",
    "Retrain",
    "Seen",
    "Session",
    "Share",
    "SinceSeen",
    "Skewness",
    "Std",
    "StreamFeatureGroup",
    "Sum",
    "SumBy",
    "Table",
    "TimeSince",
    "TopK",
    "Var",
    "VectorMean",
    "VectorSum",
    "ZScore",
    "compute",
    "on_demand",
]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # what Python itself asks for
        raise AttributeError(f"module 'millstream' has no attribute {name!r}")
    if name not in _LAZY:
        from millstream.errors import UnknownName

        raise UnknownName.of("millstream", name, __all__)
    found = getattr(import_module(_LAZY[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
