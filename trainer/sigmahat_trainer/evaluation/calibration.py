# SPDX-License-Identifier: Apache-2.0
"""Are the auxiliary answers right? Condition number, expected error, uncertainty, regime and confidences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.parameters import REGIMES, TARGETS, split_parameters
from sigmahat_kernels.pipeline import Outputs
from sigmahat_kernels.request import Request
from sigmahat_trainer.baselines.adapters import unpadded
from sigmahat_trainer.data.dataset import regime_label
from sigmahat_trainer.evaluation.portfolios import gmv_weights
from sigmahat_trainer.evaluation.results import (
    Calibration,
    ConditionCalibration,
    ConfidenceCalibration,
    ErrorCalibration,
    RegimeCalibration,
    UncertaintyCalibration,
)
from sigmahat_trainer.evaluation.scores import SMALLEST_VARIANCE, log10_condition
from sigmahat_trainer.evaluation.significance import newey_west_t

SMALLEST_PROBABILITY = 1e-6
ROWS_PER_BIN = 20
"""At least, in a picture or figure by decile."""


# ------------------------------------------------------------------------------------------------------ measurement


def head_rows(
    request: Request, answer: Outputs, covariances: Sequence[np.ndarray], forwards: Sequence[np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Of each universe, what the heads said and what came of it.

    Parameters
    ----------
    request : Request
    answer : Outputs
        Of `Pipeline.estimate`.
    covariances : sequence of arrays of shape (n_assets, n_assets)
        Its matrices without padding.
    forwards : sequence of arrays of shape (horizon, n_assets)
        Returns of the holding period.

    Yields
    ------
    dict
        `condition` and `condition_measured` (log10); `expected_error`, `aleatoric`, `epistemic` and the `error` that
        they speak of, ln(realised / forecast volatility); `regime_*` probabilities and the `regime` that came;
        `confidence_*` and `alone_*`, ln of the realised volatility of shrinking toward that target alone over that of
        the mixture. NaN where there was no estimate.
    """
    heads = split_parameters(answer.combined.parameters)
    alone = [unpadded(request, _alone(request, answer, k)) for k in range(len(TARGETS))]
    for row, (covariance, forward) in enumerate(zip(covariances, forwards, strict=True)):
        universe, (start, stop) = request.universes[row], request.windows[row]
        past = request.panel[start:stop, universe[: len(covariance)]]
        realised, forecast = _portfolio(covariance, forward)
        together = 0.5 * np.log(realised)
        yield {
            "condition": float(heads.condition[row, 0]),
            "condition_measured": log10_condition(covariance),
            "expected_error": float(heads.expected_error[row, 0]),
            "aleatoric": float(answer.combined.uncertainty[row, 0]),
            "epistemic": float(answer.combined.uncertainty[row, 1]),
            "error": together - 0.5 * np.log(forecast),
            "regime": regime_label(past, forward),
            **{f"regime_{name}": float(p) for name, p in zip(REGIMES, heads.regime[row], strict=True)},
            **{f"confidence_{name}": float(p) for name, p in zip(TARGETS, heads.target_confidence[row], strict=True)},
            **{
                f"alone_{name}": 0.5 * np.log(_portfolio(matrices[row], forward)[0]) - together
                for name, matrices in zip(TARGETS, alone, strict=True)
            },
        }


def _alone(request: Request, answer: Outputs, target: int) -> np.ndarray:
    """The estimate that shrinks toward one target only, at its head's own intensity."""
    heads = split_parameters(answer.combined.parameters)
    only = np.zeros_like(heads.target_weights)
    only[:, target] = 1.0
    return assemble(request, heads._replace(target_weights=only), answer.status)


def _portfolio(covariance: np.ndarray, forward: np.ndarray) -> tuple[float, float]:
    """(realised, forecast) variance of the minimum-variance portfolio."""
    try:
        weights = gmv_weights(covariance)
    except np.linalg.LinAlgError:
        return np.nan, np.nan
    return max(float(((forward @ weights) ** 2).mean()), SMALLEST_VARIANCE), float(weights @ covariance @ weights)


# ---------------------------------------------------------------------------------------------------------- figures


def calibrate(rows: pd.DataFrame) -> Calibration:
    """All figures of one pipeline's rows; a "constant" is the best constant in hindsight, so a hard one to beat."""
    rows = rows.dropna()
    return Calibration(
        n_universes=len(rows),
        condition=condition_error(rows),
        expected_error=expected_error(rows),
        uncertainty=uncertainty(rows),
        regime=regime(rows),
        confidence={name: confidence(rows, name) for name in TARGETS},
    )


def condition_error(rows: pd.DataFrame) -> ConditionCalibration:
    """Error of the log10 condition number: its root mean square and mean, and the spread of what was to be said."""
    error = rows["condition"] - rows["condition_measured"]
    return ConditionCalibration(
        root_mean_square_error=float(np.sqrt((error**2).mean())),
        mean_error=float(error.mean()),
        standard_deviation_of_truth=float(rows["condition_measured"].std(ddof=0)),
    )


def expected_error(rows: pd.DataFrame) -> ErrorCalibration:
    """Rank correlation of expected with realised error, and how far the deciles of the former lie from the latter."""
    bins = reliability(rows["expected_error"].to_numpy(), rows["error"].to_numpy())
    error = rows["error"] - rows["expected_error"]
    return ErrorCalibration(
        spearman=spearman(rows["expected_error"].to_numpy(), rows["error"].to_numpy()),
        r_squared=1 - float((error**2).mean() / rows["error"].var(ddof=0)),
        decile_gap=float(np.abs(bins["expected"] - bins["realised"]).mean()),
        mean_error=float(error.mean()),
    )


def uncertainty(rows: pd.DataFrame) -> UncertaintyCalibration:
    """Coverage of Gaussian intervals and negative log likelihood, with aleatoric and epistemic variance added."""
    deviation = np.sqrt(rows["aleatoric"] ** 2 + rows["epistemic"] ** 2)
    z = ((rows["error"] - rows["expected_error"]) / deviation).to_numpy()
    log_likelihood = norm.logpdf(z) - np.log(deviation)
    constant = norm.logpdf(rows["error"], rows["error"].mean(), rows["error"].std(ddof=0))

    def coverage(probability: float) -> float:
        return float((np.abs(z) < norm.ppf(0.5 + probability / 2)).mean())

    return UncertaintyCalibration(
        coverage_50=coverage(0.5),
        coverage_90=coverage(0.9),
        negative_log_likelihood=-float(log_likelihood.mean()),
        negative_log_likelihood_of_constant=-float(constant.mean()),
        t=_t_by_date(rows, constant - log_likelihood),
    )


def regime(rows: pd.DataFrame) -> RegimeCalibration:
    """Log score and Brier score of the regime probabilities, against the base rates of these very rows."""
    probabilities = rows[[f"regime_{name}" for name in REGIMES]].to_numpy()
    came = np.eye(len(REGIMES))[rows["regime"].to_numpy(int)]
    base = np.broadcast_to(came.mean(axis=0), came.shape)

    def log_score(p: np.ndarray) -> np.ndarray:
        return -np.log(np.maximum((p * came).sum(axis=1), SMALLEST_PROBABILITY))

    return RegimeCalibration(
        log_score=float(log_score(probabilities).mean()),
        log_score_of_base_rates=float(log_score(base).mean()),
        brier=float(((probabilities - came) ** 2).sum(axis=1).mean()),
        brier_of_base_rates=float(((base - came) ** 2).sum(axis=1).mean()),
        t=_t_by_date(rows, log_score(probabilities) - log_score(base)),
    )


def confidence(rows: pd.DataFrame, target: str) -> ConfidenceCalibration:
    """Log score of a confidence against its base rate, and what dropping its lowest decile does to the loss.

    The loss is ln(realised volatility of this target alone / of the mixture); the difference should be negative.
    """
    p, loss = rows[f"confidence_{target}"].to_numpy(), rows[f"alone_{target}"].to_numpy()
    good = loss <= 0

    def log_score(probability: Any) -> float:
        kept = np.clip(np.where(good, probability, 1 - probability), SMALLEST_PROBABILITY, None)
        return -float(np.log(kept).mean())

    kept = rankdata(p, method="ordinal") > len(p) // 10
    return ConfidenceCalibration(
        log_score=log_score(p),
        log_score_of_base_rate=log_score(good.mean()),
        loss=float(loss.mean()),
        loss_without_lowest_decile=float(loss[kept].mean()),
    )


def reliability(expected: np.ndarray, realised: np.ndarray, n_bins: int = 10) -> pd.DataFrame:
    """Means of what was expected and what came, by quantile of the former; fewer bins where rows are few."""
    n_bins = max(1, min(n_bins, len(expected) // ROWS_PER_BIN))
    order = np.argsort(expected, kind="stable")
    pieces = np.array_split(order, n_bins)
    return pd.DataFrame(
        {
            "expected": [expected[piece].mean() for piece in pieces],
            "realised": [realised[piece].mean() for piece in pieces],
            "standard_error": [realised[piece].std() / np.sqrt(len(piece)) for piece in pieces],
        }
    )


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation; 0 if either is constant."""
    ranks = rankdata(first), rankdata(second)
    return float(np.corrcoef(ranks)[0, 1]) if min(r.std() for r in ranks) > 0 else 0.0


def _t_by_date(rows: pd.DataFrame, differences: Any) -> float:
    """HAC t of the mean difference, one unit a step: universes and panels of one time share their surprises."""
    return newey_west_t(pd.Series(np.asarray(differences)).groupby(rows["step"].to_numpy()).mean().to_numpy())
