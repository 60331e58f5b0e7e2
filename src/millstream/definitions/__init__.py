"""What is wanted: entities, sources, feature groups, views and models, as frozen data that is checked when built."""

from millstream.definitions.aggregation import (
    Aggregation,
    ArgMax,
    ArgMin,
    Count,
    First,
    Last,
    Max,
    Mean,
    Min,
    Std,
    Sum,
    TimeSince,
    Var,
)
from millstream.definitions.combined import Difference, Ratio, ZScore
from millstream.definitions.decayed import DecayedCount, DecayedMean, DecayedSum
from millstream.definitions.entity import Entity
from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
from millstream.definitions.feature_view import FeatureView, GroupRead, ViewColumn
from millstream.definitions.mapped import By, CountBy, SumBy
from millstream.definitions.model import Label, LightGBM, Model, Retrain
from millstream.definitions.on_demand import OnDemandFeature
from millstream.definitions.over import Session
from millstream.definitions.probes import Seen, SinceSeen
from millstream.definitions.reference import FeatureRef
from millstream.definitions.source import EventStream, Source, Table
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
from millstream.definitions.windows import WindowedFeature

__all__ = [
    "Age",
    "Aggregation",
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
    "FeatureRef",
    "FeatureView",
    "First",
    "FirstK",
    "GeometricMean",
    "GroupRead",
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
    "Min",
    "MinK",
    "Mode",
    "Model",
    "OnDemandFeature",
    "Quantile",
    "Rate",
    "Ratio",
    "Retrain",
    "Seen",
    "Session",
    "Share",
    "SinceSeen",
    "Skewness",
    "Source",
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
    "ViewColumn",
    "WindowedFeature",
    "ZScore",
]
