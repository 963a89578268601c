# SPDX-License-Identifier: Apache-2.0
"""What comes back: one row of parameters a universe, its covariance matrix if asked for, and what went wrong."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from sigmahat_client.columns import described
from sigmahat_client.errors import EstimateWarning, RefusedAsset, UniverseError, level_of_caller, some, warning_text
from sigmahat_client.matrices import plot_matrix, to_correlation
from sigmahat_client.tables import arrow_lists, arrow_table, index_of
from sigmahat_kernels.parameters import PUBLISHED
from sigmahat_kernels.status import Status

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, repr=False)
class Estimates:
    """Estimates of U universes, in the order in which they were asked for. A universe that failed is NaN throughout."""

    universes: tuple[Hashable, ...]
    """Names."""
    assets: tuple[tuple[Hashable, ...], ...]
    """Labels of each universe's assets, or column numbers of returns that had no labels."""
    labelled: bool
    """Whether `assets` are labels."""
    n_rows: npt.NDArray[np.int32]
    """(U,) rows of the window."""
    first_date: npt.NDArray[np.datetime64]
    """(U,) date of the window's first row, or its time where rows are intraday; NaT where returns had no dates."""
    last_date: npt.NDArray[np.datetime64]
    """(U,) the same of its last row: the estimate is for the period after it."""
    intensity: Floats
    """(U,) shrinkage intensity in [0, 1]."""
    target_weights: Floats
    """(U, targets) selection weights over `parameters.TARGETS`; sum 1."""
    target_intensity: Floats
    """(U, targets) intensity toward each target alone."""
    target_confidence: Floats
    """(U, targets) probability that the target alone does at least as well as the mixture."""
    block_names: tuple[Hashable, ...]
    block_intensity: Floats
    """(U, B) intensity of each block; NaN where the universe does not hold the block."""
    memory: Floats
    """(U,) weight of the exponentially weighted correlation."""
    factor_memory: Floats
    """(U,) weight of its three leading factors, in what the other two correlations make."""
    volatility: Floats
    """(U, 4) weights over `parameters.VOLATILITY_BASES`, then the pull to the cross-section."""
    intensity_tilt: Floats
    """(U, 12) how an asset's intensity leans on its `asset_statistics.ASSET_STATISTICS`."""
    volatility_tilt: Floats
    """(U, 12) how an asset's ln volatility leans on them."""
    level: Floats
    """(U, 2) in the order of `parameters.LEVELS`: added to all ln volatilities; common variance of all assets."""
    condition: Floats
    """(U,) log10 condition number of the estimate."""
    expected_error: Floats
    """(U,) expected log ratio of realised and forecast volatility of the minimum-variance portfolio."""
    uncertainty: Floats
    """(U, 2) aleatoric and epistemic standard deviation of the expected error."""
    regime: Floats
    """(U, 4) probabilities of `parameters.REGIMES`."""
    status: npt.NDArray[np.int32]
    """(U,) `status.Status` codes, 0 = good."""
    status_asset: tuple[Hashable | None, ...]
    """The asset that the status complains of, or None."""
    warnings: tuple[dict[str, tuple[Hashable, ...]], ...]
    """Of each universe the names of `status.WarningFlag` that are set, with the assets concerned: none of some, since
    they are of the universe as a whole."""
    refused: tuple[tuple[RefusedAsset, ...], ...]
    """All assets of each universe that cannot be estimated, `status_asset` first; empty where the status names none."""
    dropped: tuple[tuple[RefusedAsset, ...], ...]
    """Assets that `on_bad_asset="drop"` left out of each universe; `assets` are those that remain."""
    covariance: tuple[Floats, ...] | None
    """One (N, N) float32 matrix a universe, of its own size, in squared returns per period; None if not asked for."""

    @classmethod
    def joined(cls, parts: Sequence[Estimates]) -> Self:
        """Put estimates of the same panel and blocks one after the other."""
        joined: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            values = [getattr(part, name) for part in parts]
            if name in {"labelled", "block_names"} or values[0] is None:
                joined[name] = values[0]
            elif isinstance(values[0], tuple):
                joined[name] = tuple(chain.from_iterable(values))
            else:
                joined[name] = np.concatenate(values)
        return cls(**joined)

    def __getitem__(self, universes: slice) -> Self:
        """Return the estimates of some adjacent universes."""
        whole = {"labelled", "block_names"}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self,
            **{name: value[universes] for name, value in values.items() if name not in whole and value is not None},
        )

    def __len__(self) -> int:
        return len(self.universes)

    def __repr__(self) -> str:
        matrices = "no covariances" if self.covariance is None else "with covariances"
        return f"Estimates({len(self)} universes, {len(self.failures)} failed, {matrices})"

    @property
    def failures(self) -> list[UniverseError]:
        """One error for each universe that could not be estimated."""
        return [self._error(u) for u in np.flatnonzero(self.status != Status.GOOD).tolist()]

    @property
    def warning_lines(self) -> list[str]:
        """One line for each flag of `warnings`: the assets, or how many universes it is of, and what it says."""
        found: dict[str, tuple[list[Hashable], dict[Hashable, None]]] = {}
        for universe, odd in zip(self.universes, self.warnings, strict=True):
            for name, assets in odd.items():
                universes, concerned = found.setdefault(name, ([], {}))
                universes.append(universe)
                concerned.update(dict.fromkeys(assets))
        return [
            (some(list(assets)) if assets else f"{len(universes)} of {len(self)} universes") + f": {warning_text(name)}"
            for name, (universes, assets) in found.items()
        ]

    def warn(self) -> None:
        """Give one `EstimateWarning` that names the odd assets of all universes; none if there are none.

        What concerns universes as a whole is in `warnings` alone.
        """
        of_assets = [{name: assets for name, assets in odd.items() if assets} for odd in self.warnings]
        if any(of_assets):
            lines = replace(self, warnings=tuple(of_assets)).warning_lines
            warnings.warn(EstimateWarning("; ".join(lines)), stacklevel=level_of_caller())

    def raise_for_status(self) -> None:
        """Raise the first of `failures`, if there is one."""
        failures = self.failures
        if failures:
            if len(failures) > 1:
                failures[0].add_note(f"{len(failures)} of {len(self)} universes failed; see Estimates.failures")
            raise failures[0]

    def covariance_of(self, universe: Hashable) -> pd.DataFrame | Floats:
        """Return the covariance matrix of one universe.

        Returns
        -------
        DataFrame or array of shape (N, N)
            With labels, where the assets have any and pandas is installed.

        Raises
        ------
        UniverseError
            If the universe could not be estimated.
        KeyError
            If there is no universe of that name.
        ValueError
            If no covariances were asked for.
        """
        if self.covariance is None:
            raise ValueError("there are no covariances: ask for them with estimate(..., covariance=True)")
        if universe not in self.universes:
            raise KeyError(universe)
        u = self.universes.index(universe)
        if self.status[u] != Status.GOOD:
            raise self._error(u)
        try:
            import pandas as pd
        except ModuleNotFoundError:
            return self.covariance[u]
        labels = index_of(self.assets[u])
        return pd.DataFrame(self.covariance[u], index=labels, columns=labels) if self.labelled else self.covariance[u]

    def plot(self, universe: Hashable, *, correlation: bool = True, ax: Axes | None = None) -> Axes:
        """Draw the correlation matrix of one universe, or its covariance; needs matplotlib.

        Raises
        ------
        UniverseError, KeyError, ValueError
            As `covariance_of` does.
        """
        matrix = self.covariance_of(universe)
        kind = "correlation" if correlation else "covariance"
        return plot_matrix(to_correlation(matrix) if correlation else matrix, ax=ax, title=f"{universe}: {kind}")

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with one row a universe and one column a number; needs pandas."""
        import pandas as pd

        columns: dict[str, Any] = {"n_assets": np.array([len(assets) for assets in self.assets])}
        columns |= {name: getattr(self, name) for name in ("n_rows", "first_date", "last_date")}
        for name in (field.name for field in fields(self)):  # in the order in which they stand above
            if name == "block_intensity":
                columns |= _named([f"{name}_{block}" for block in self.block_names], self.block_intensity)
            elif name in PUBLISHED:
                columns |= _named(PUBLISHED[name].columns, getattr(self, name))
        columns["warnings"] = [
            "; ".join(f"{name}: {', '.join(map(str, assets))}" if assets else name for name, assets in odd.items())
            for odd in self.warnings
        ]
        columns["n_dropped"] = np.array([len(dropped) for dropped in self.dropped])
        columns["status"] = self.status
        columns["message"] = [
            "" if status == Status.GOOD else str(self._error(u)) for u, status in enumerate(self.status.tolist())
        ]
        return pd.DataFrame(columns, index=index_of(self.universes, name="universe"))

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table, to be written as Parquet for instance; needs pandas and pyarrow.

        It has the columns of `to_frame`, before these `universe` and `assets` (a list), and at the end `covariance`, if
        matrices were asked for: N x N numbers as a list, row by row, null where a universe failed. The metadata of each
        field say its `unit` and `meaning`.
        """
        import pyarrow as pa

        table = arrow_table(self.to_frame()).add_column(1, "assets", arrow_lists(self.assets))
        if self.covariance is not None:
            rows = [
                matrix.ravel() if status == Status.GOOD else None
                for matrix, status in zip(self.covariance, self.status.tolist(), strict=True)
            ]
            table = table.append_column("covariance", pa.array(rows, pa.list_(pa.float32())))
        return described(table)

    def _error(self, u: int) -> UniverseError:
        refused = self.refused[u] or self.dropped[u]
        return UniverseError(self.universes[u], int(self.status[u]), self.status_asset[u], refused)


def _named(names: Sequence[str], values: Floats) -> dict[str, Floats]:
    """The columns of values of shape (U, names), or of shape (U,) for one name."""
    return dict(zip(names, np.atleast_2d(values.T), strict=True))
