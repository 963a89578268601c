# SPDX-License-Identifier: Apache-2.0
"""Eigenvalues of the correlations, the edge of what chance alone would give, and condition numbers."""

from __future__ import annotations

from typing import NamedTuple

import altair as alt
import numpy as np

from sigmahat_deploy.report.charts import WIDTH, Spec, colour, plain, rows, shape, significant
from sigmahat_deploy.report.compared import OURS, SAMPLE, sample_covariance, to_correlation
from sigmahat_deploy.report.study import Floats, Universe


class Spectra(NamedTuple):
    """Numbers of the section. Eigenvalues are those of correlation matrices, descending; their mean is one."""

    sample: Floats  # (N,), zero but for rounding beyond n_rows - 1
    ours: Floats  # (N,)
    edge: float
    condition_sample: float  # of the covariances, inf if singular
    condition_ours: float

    @property
    def n_above(self) -> int:
        """How many of the sample's eigenvalues chance alone would not give."""
        return int((self.sample > self.edge).sum())


def spectra(universe: Universe) -> Spectra:
    """Decompose both matrices of a universe."""
    sample = sample_covariance(universe.cleaned)
    n_effective = len(universe.returns) - 1
    return Spectra(
        sample=_descending(to_correlation(sample)),
        ours=_descending(to_correlation(universe.covariance)),
        edge=marchenko_pastur_edge(len(sample), n_effective),
        condition_sample=condition(sample, n_effective),
        condition_ours=condition(universe.covariance),
    )


def marchenko_pastur_edge(n_assets: int, n_effective: int) -> float:
    """The largest eigenvalue of a sample correlation matrix of independent assets, in the limit.

    (1 + sqrt(n_assets / n_effective))^2: Marchenko, Pastur (1967), Mathematics of the USSR-Sbornik 1(4).

    >>> marchenko_pastur_edge(63, 252)
    2.25
    """
    return float((1 + np.sqrt(n_assets / n_effective)) ** 2)


def condition(covariance: Floats, n_effective: int | None = None) -> float:
    """Largest over smallest eigenvalue; inf if the matrix is singular, as a sample of too few rows is."""
    eigenvalues = np.linalg.eigvalsh(covariance)
    singular = n_effective is not None and len(covariance) > n_effective
    if singular or eigenvalues[0] <= len(covariance) * np.finfo(np.float64).eps * eigenvalues[-1]:
        return float("inf")
    return float(eigenvalues[-1] / eigenvalues[0])


def chart(found: Spectra) -> Spec:
    """Both spectra by rank on a logarithmic scale; the zeros of a singular sample are left out."""
    smallest = len(found.sample) * np.finfo(np.float64).eps * found.sample[0]
    values = [
        {"rank": rank, "estimator": name, "eigenvalue": significant(value)}
        for name, spectrum in ((OURS, found.ours), (SAMPLE, found.sample))
        for rank, value in enumerate(spectrum.tolist(), 1)
        if value > smallest
    ]
    kinds = [OURS, SAMPLE]
    decades = [float(f"1e{power}") for power in range(-16, 4)]
    size = 45 if len(found.ours) <= 60 else 16
    points = (
        alt.Chart(rows(values))
        .mark_point(filled=True, size=size, opacity=0.85)
        .encode(
            x=alt.X(
                "rank:Q",
                title="rank",
                scale=alt.Scale(nice=False, padding=8),
                axis=alt.Axis(format="d", tickCount=min(len(found.ours), 20)),
            ),
            y=alt.Y(
                "eigenvalue:Q",
                title="eigenvalue of the correlation",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(values=decades),
            ),
            color=colour(kinds),
            shape=shape(kinds),
            tooltip=["estimator:N", "rank:Q", alt.Tooltip("eigenvalue:Q", format=".3g")],
        )
    )
    edge = rows([{"edge": significant(found.edge), "label": f"Marchenko-Pastur edge {found.edge:.2f}"}])
    rule = alt.Chart(edge).mark_rule(strokeDash=[5, 3], color="currentColor", opacity=0.7).encode(y="edge:Q")
    words = (
        alt.Chart(edge)
        .mark_text(align="right", dy=-6, color="currentColor", fontSize=11)
        .encode(x=alt.value(WIDTH - 60), y="edge:Q", text="label:N")
    )
    return plain((points + rule + words).properties(width=WIDTH - 60, height=280))


def _descending(correlation: Floats) -> Floats:
    return np.linalg.eigvalsh(correlation)[::-1]
