# SPDX-License-Identifier: Apache-2.0
"""What comes back of `risk`: portfolios' volatility, what makes it up, and what would change it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from sigmahat_client.columns import described
from sigmahat_client.errors import PortfolioError, UniverseError
from sigmahat_client.estimates import Estimates
from sigmahat_client.tables import arrow_table, index_of
from sigmahat_kernels.parameters import REGIMES
from sigmahat_kernels.status import PortfolioStatus, Status

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Floats = npt.NDArray[np.float64]

MINIMUM_VARIANCE_RULES = ("long_short", "long_only")
"""Order of `Risks.minimum_variance`."""

REGIME_RATIOS = (0.55, 0.85, 1.2, 2.2)
"""A month's market volatility over that of the 252 days before, in each of `parameters.REGIMES`: root mean squares of
the 1,330 months up to 2012 of seven panels."""


class Stress(NamedTuple):
    """Expected moves of everything, given the moves of some portfolios."""

    assets: Any
    """Series, or array (N,): expected return of each asset."""
    portfolios: Any
    """Series, or array (P,): expected move of each portfolio, in the unit of its weights."""


@dataclass(frozen=True, eq=False, repr=False)
class Risks:
    """Risk of P portfolios in U universes, in the order in which they were asked for; NaN where there is none.

    All numbers are over `periods` periods of the returns: variances grow with them, volatilities with their root.
    Units: a portfolio's volatility is in the unit of its weights. Formulas and errors: docs/risk.md.
    """

    estimates: Estimates
    """Of the universes: status, warnings, expected error, regime, parameters."""
    portfolios: tuple[Hashable, ...]
    """Names."""
    periods: float
    weights: tuple[Floats, ...]
    """Of each universe (P, N): what was sent, which is in single precision."""
    portfolio_status: npt.NDArray[np.int32]
    """(U, P) `status.PortfolioStatus` codes, 0 = good."""
    portfolio_asset: tuple[tuple[Hashable | None, ...], ...]
    """Of each universe (P,): the asset that the status complains of, or None."""
    variance: Floats
    """(U, P) w'Sw."""
    diagonal: tuple[Floats, ...]
    """Of each universe (N,): variances of the assets."""
    marginal: tuple[Floats, ...] | None
    """Of each universe (P, N): Sw; None with ``contributions=False``."""
    minimum_variance_weights: tuple[Floats, ...] | None
    """Of each universe (2, N), sum 1, in the order of `MINIMUM_VARIANCE_RULES`; None if not asked for."""
    minimum_variance: Floats | None
    """(U, 2) their variances."""

    @classmethod
    def joined(cls, parts: Sequence[Risks]) -> Self:
        """Put risks of the same panel and portfolios one after the other."""
        first = parts[0]

        def chained(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else tuple(chain.from_iterable(values))

        least = [part.minimum_variance for part in parts if part.minimum_variance is not None]
        return cls(
            estimates=Estimates.joined([part.estimates for part in parts]),
            portfolios=first.portfolios,
            periods=first.periods,
            weights=chained("weights"),
            portfolio_status=np.concatenate([part.portfolio_status for part in parts]),
            portfolio_asset=chained("portfolio_asset"),
            variance=np.concatenate([part.variance for part in parts]),
            diagonal=chained("diagonal"),
            marginal=chained("marginal"),
            minimum_variance_weights=chained("minimum_variance_weights"),
            minimum_variance=np.concatenate(least) if least else None,
        )

    def __len__(self) -> int:
        return len(self.estimates)

    def __repr__(self) -> str:
        return f"Risks({len(self)} universes, {len(self.portfolios)} portfolios, {len(self.failures)} failures)"

    @property
    def volatility(self) -> Floats:
        """(U, P) sqrt(w'Sw)."""
        found: Floats = np.sqrt(self.variance)
        return found

    @property
    def diversification_ratio(self) -> Floats:
        """(U, P) ``sum_i |w_i| s_i / s``: 1 if nothing diversifies, sqrt(N) of N equal independent assets."""
        each = [np.abs(w) @ np.sqrt(d) for w, d in zip(self.weights, self.diagonal, strict=True)]
        found: Floats = np.stack(each) / self.volatility
        return found

    @property
    def effective_bets(self) -> Floats:
        """(U, P) ``1 / sum_i q_i^2`` of the shares ``q_i = |c_i| / sum_j |c_j|`` of the contributions c: 1 to N."""
        found = []
        for w, m in zip(self.weights, self._marginal(), strict=True):
            size = np.abs(w * m)
            found.append(size.sum(axis=1) ** 2 / _positive((size**2).sum(axis=1)))
        return np.stack(found)

    def asset_volatility_of(self, universe: Hashable) -> pd.Series[Any] | Floats:
        """Volatility of each asset of one universe, sqrt(S_ii), as a Series or array (N,); see `contributions_of`."""
        u = self._place(universe)
        return self._series(np.sqrt(self.diagonal[u]), self.estimates.assets[u], self.estimates.labelled)

    def weights_of(self, universe: Hashable) -> pd.DataFrame | Floats:
        """Weights of one universe, assets in rows and portfolios in columns."""
        u = self._place(universe)
        return self._table(u, self.weights[u])

    def contributions_of(self, universe: Hashable) -> pd.DataFrame | Floats:
        """What each asset contributes to the volatility of each portfolio, w_i (Sw)_i / s; they add up to it.

        Returns
        -------
        DataFrame or array of shape (N, P)
            With labels, where the assets have any and pandas is installed.

        Raises
        ------
        UniverseError
            If the universe could not be estimated.
        KeyError
            If there is no universe of that name.
        ValueError
            If they were not asked for.
        """
        u = self._place(universe)
        return self._table(u, self.weights[u] * self._marginal()[u] / self.volatility[u][:, None])

    def marginal_of(self, universe: Hashable) -> pd.DataFrame | Floats:
        """By how much volatility grows with one more unit of each asset, (Sw)_i / s; see `contributions_of`."""
        u = self._place(universe)
        return self._table(u, self._marginal()[u] / self.volatility[u][:, None])

    def beta_of(self, universe: Hashable) -> pd.DataFrame | Floats:
        """Expected move of each asset for a move of the portfolio by 1, (Sw)_i / w'Sw; see `contributions_of`."""
        u = self._place(universe)
        return self._table(u, self._marginal()[u] / self.variance[u][:, None])

    def portfolio_covariance_of(self, universe: Hashable) -> pd.DataFrame | Floats:
        """Covariances of the portfolios with each other in one universe, w_a'Sw_b, (P, P); see `contributions_of`."""
        u = self._place(universe)
        found = self.weights[u] @ self._marginal()[u].T
        return self._labelled(found, self.portfolios, self.portfolios)

    def minimum_variance_of(self, universe: Hashable) -> pd.DataFrame | Floats:
        """Weights of the universe's two portfolios of least variance; see `contributions_of`."""
        if self.minimum_variance_weights is None:
            raise ValueError("there are no such portfolios: ask for them with risk(..., minimum_variance=True)")
        u = self._place(universe)
        return self._table(u, self.minimum_variance_weights[u], MINIMUM_VARIANCE_RULES)

    def correlation(self, portfolio: Hashable, other: Hashable) -> Floats:
        """(U,) correlation of two portfolios, w_a'Sw_b / (s_a s_b)."""
        a, b = self._portfolio(portfolio), self._portfolio(other)
        together = np.array([w[b] @ m[a] for w, m in zip(self.weights, self._marginal(), strict=True)])
        found: Floats = together / (self.volatility[:, a] * self.volatility[:, b])
        return found

    def tracking_error(self, portfolio: Hashable, other: Hashable) -> Floats:
        """(U,) volatility of the difference of two portfolios, sqrt((w_a - w_b)'S(w_a - w_b))."""
        a, b = self._portfolio(portfolio), self._portfolio(other)
        squares = [(w[a] - w[b]) @ (m[a] - m[b]) for w, m in zip(self.weights, self._marginal(), strict=True)]
        found: Floats = np.sqrt(np.maximum(squares, 0.0))  # of portfolios that are the same, rounding may leave less
        return found

    def stress(self, universe: Hashable, moves: Mapping[Hashable, float]) -> Stress:
        """Expected moves of all assets and portfolios of a universe, given those of some portfolios.

        With the given portfolios in the columns of W and their moves x: S W (W'SW)^-1 x. A move of a single asset is
        one of a portfolio that holds one unit of it.

        Parameters
        ----------
        moves : mapping of portfolios to numbers
            Each in the unit of the portfolio's weights: -0.05 of weights that sum to 1 is a loss of 5 %.

        Raises
        ------
        PortfolioError
            If such a portfolio could not be measured.
        KeyError
            If there is no universe or portfolio of that name.
        ValueError
            If one of the portfolios is made of the others, so that their moves cannot be chosen freely.
        """
        u = self._place(universe)
        given = [self._portfolio(name) for name in moves]
        for p in given:
            if self.portfolio_status[u, p] != PortfolioStatus.GOOD:
                raise self._error(u, p)
        weights, marginal = self.weights[u], self._marginal()[u]
        covariance = weights[given] @ marginal[given].T
        if (
            given
            and np.linalg.cond(covariance / np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()))) > 1e10
        ):
            raise ValueError(f"the moves of {list(moves)} cannot be chosen freely: one is made of the others")
        shift = marginal[given].T @ np.linalg.solve(covariance, np.array(list(moves.values()), float))
        good = self.portfolio_status[u] == PortfolioStatus.GOOD
        return Stress(
            self._series(shift, self.estimates.assets[u], self.estimates.labelled),
            self._series(np.where(good, np.nan_to_num(weights) @ shift, np.nan), self.portfolios),
        )

    def volatility_by_regime(self, ratios: Sequence[float] = REGIME_RATIOS) -> Floats:
        """(U, P, regimes) volatility if the next month is one of `parameters.REGIMES`.

        All volatilities are multiplied by k_r / sqrt(sum_r p_r k_r^2), with the universe's probabilities p and the
        ratios k of market volatility that the regimes stand for: the mean of their variances is the forecast's.
        Correlations stay.
        """
        if len(ratios) != len(REGIMES):
            raise ValueError(f"ratios must be one of each regime {REGIMES}, got {len(ratios)}")
        squared = np.square(np.asarray(ratios, float))
        factor = np.sqrt(squared / (self.estimates.regime.astype(np.float64) @ squared)[:, None])
        found: Floats = self.volatility[:, :, None] * factor[:, None, :]
        return found

    @property
    def failures(self) -> list[UniverseError | PortfolioError]:
        """One error for each universe that could not be estimated, then each portfolio that could not be measured."""
        others = (PortfolioStatus.GOOD, PortfolioStatus.UNIVERSE_REFUSED)
        places = np.argwhere(~np.isin(self.portfolio_status, others)).tolist()
        return [*self.estimates.failures, *(self._error(u, p) for u, p in places)]

    def raise_for_status(self) -> None:
        """Raise the first of `failures`, if there is one."""
        failures = self.failures
        if failures:
            if len(failures) > 1:
                failures[0].add_note(f"{len(failures)} universes and portfolios failed; see Risks.failures")
            raise failures[0]

    def warn(self) -> None:
        """See `Estimates.warn`."""
        self.estimates.warn()

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with one row a universe and portfolio; needs pandas."""
        import pandas as pd

        n_universes, n_portfolios = self.variance.shape
        whole = self.estimates
        numbers: dict[str, Any] = {
            "n_assets": np.repeat([len(assets) for assets in whole.assets], n_portfolios),
            "gross": _flat([np.abs(w).sum(axis=1) for w in self.weights]),
            "net": _flat([w.sum(axis=1) for w in self.weights]),
            "volatility": self.volatility.ravel(),
            "diversification_ratio": self.diversification_ratio.ravel(),
        }
        if self.marginal is not None:
            numbers["effective_bets"] = self.effective_bets.ravel()
        by_regime = self.volatility_by_regime().reshape(-1, len(REGIMES))
        numbers |= {f"volatility_{regime}": by_regime[:, r] for r, regime in enumerate(REGIMES)}
        numbers["expected_error"] = np.repeat(whole.expected_error, n_portfolios)
        numbers["status"] = np.repeat(whole.status, n_portfolios)
        numbers["portfolio_status"] = self.portfolio_status.ravel()
        errors = {error.universe: str(error) for error in whole.failures}
        numbers["message"] = [
            errors.get(universe)
            or ("" if self.portfolio_status[u, p] == PortfolioStatus.GOOD else str(self._error(u, p)))
            for u, universe in enumerate(whole.universes)
            for p in range(n_portfolios)
        ]
        names = [
            index_of([universe for universe in whole.universes for _ in range(n_portfolios)], name="universe"),
            index_of(list(self.portfolios) * n_universes, name="portfolio"),
        ]
        return pd.DataFrame(numbers, index=pd.MultiIndex.from_arrays(names))

    def to_arrow(self) -> pa.Table:
        """Return `to_frame` as an Arrow table; needs pandas and pyarrow.

        Its first columns are `universe` and `portfolio`. The metadata of each field say its `unit` and `meaning`.
        """
        return described(arrow_table(self.to_frame()))

    def contributions_frame(self) -> pd.DataFrame:
        """Return a DataFrame with one row a universe, portfolio and asset that is held; needs pandas.

        Columns: weight, contribution, marginal, beta.
        """
        import pandas as pd

        rows: list[tuple[Any, ...]] = []
        for u, (universe, assets) in enumerate(zip(self.estimates.universes, self.estimates.assets, strict=True)):
            marginal, weights = self._marginal()[u], self.weights[u]
            for p, portfolio in enumerate(self.portfolios):
                if self.portfolio_status[u, p] != PortfolioStatus.GOOD:
                    continue
                slope = marginal[p] / self.volatility[u, p]
                beta = marginal[p] / self.variance[u, p]
                rows += [
                    (universe, portfolio, assets[i], weights[p, i], weights[p, i] * slope[i], slope[i], beta[i])
                    for i in np.flatnonzero(weights[p]).tolist()
                ]
        names = ["universe", "portfolio", "asset"]
        columns = [*names, "weight", "contribution", "marginal", "beta"]
        return pd.DataFrame(rows, columns=columns).set_index(names)

    def contributions_arrow(self) -> pa.Table:
        """Return `contributions_frame` as an Arrow table, as `to_arrow` does."""
        return described(arrow_table(self.contributions_frame()))

    def _marginal(self) -> tuple[Floats, ...]:
        if self.marginal is None:
            raise ValueError("that needs what assets contribute: ask for it with risk(..., contributions=True)")
        return self.marginal

    def _place(self, universe: Hashable) -> int:
        if universe not in self.estimates.universes:
            raise KeyError(universe)
        u = self.estimates.universes.index(universe)
        if self.estimates.status[u] != Status.GOOD:
            raise next(error for error in self.estimates.failures if error.universe == universe)
        return u

    def _portfolio(self, name: Hashable) -> int:
        if name not in self.portfolios:
            raise KeyError(name)
        return self.portfolios.index(name)

    def _error(self, u: int, p: int) -> PortfolioError:
        universe, status = self.estimates.universes[u], int(self.portfolio_status[u, p])
        return PortfolioError(universe, self.portfolios[p], status, self.portfolio_asset[u][p])

    def _table(self, u: int, values: Floats, columns: Sequence[Hashable] | None = None) -> pd.DataFrame | Floats:
        """Values (P, N) of one universe as a table with assets in rows."""
        return self._labelled(values.T, self.estimates.assets[u], columns or self.portfolios)

    def _labelled(self, values: Floats, rows: Sequence[Hashable], columns: Sequence[Hashable]) -> pd.DataFrame | Floats:
        if not self.estimates.labelled:
            return values
        try:
            import pandas as pd
        except ModuleNotFoundError:
            return values
        return pd.DataFrame(values, index=index_of(rows), columns=index_of(columns))

    def _series(self, values: Floats, names: Sequence[Hashable], labelled: bool = True) -> pd.Series[Any] | Floats:
        try:
            import pandas as pd
        except ModuleNotFoundError:
            return values
        return pd.Series(values, index=index_of(names)) if labelled else values


def _flat(rows: Sequence[Floats]) -> Floats:
    return np.concatenate(rows) if rows else np.empty(0)


def _positive(values: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    return np.where(values > 0, values, np.nan)
