# SPDX-License-Identifier: Apache-2.0
"""`ShrinkageClient`: thousands of universes in one call, sent as a few requests at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

from sigmahat_client.backend import Backend
from sigmahat_client.call import Call, Limits, Post, Steps, resume
from sigmahat_client.dispatch import Arrival, Wait
from sigmahat_client.endpoints import Tls
from sigmahat_client.errors import InvalidRequest
from sigmahat_client.estimates import Estimates
from sigmahat_client.questions import Question, Result, estimate_question, risk_question
from sigmahat_client.risks import Risks


class _CommonArguments(TypedDict, total=False):
    assets: Iterable[Hashable] | None
    windows: Any
    market: Any
    dates: Any
    blocks: Any
    classic: bool
    on_bad_asset: Literal["raise", "drop"]
    deadline_s: float | None
    progress: Callable[[int, int], object] | None


class Arguments(_CommonArguments, total=False):
    """Keyword arguments of every way to ask for estimates; `ShrinkageClient.estimate` describes them."""

    covariance: bool


class RiskArguments(_CommonArguments, total=False):
    """Keyword arguments of every way to ask for risk; `ShrinkageClient.risk` describes them."""

    horizon: float
    annualise: bool | float
    contributions: bool
    minimum_variance: bool


class BaseClient:
    """What both clients share: settings, and one call as a generator that neither blocks nor awaits."""

    def __init__(
        self,
        url: str | Sequence[str] = "127.0.0.1:8001",
        *,
        deadline_s: float = 60.0,
        in_flight: int = 4,
        retry_s: float = 30.0,
        tls: Tls | None = None,
        shared_memory: bool = True,
    ) -> None:
        from sigmahat_client.transport import Connection  # here, so that the package imports fast

        self._set(deadline_s, in_flight, retry_s)
        self._backend: Backend = Connection(url, tls, retries=retry_s > 0, shared_memory=shared_memory)

    @classmethod
    def local(cls, model_repository: str | Path | None = None, *, deadline_s: float = 60.0, in_flight: int = 4) -> Self:
        """Make a client that computes in this process, with the server's kernels and members, and needs no server.

        Parameters
        ----------
        model_repository : path, optional
            The folder that a server would serve; its ``member_*/1/model.onnx`` are read. Default: the members that come
            with this package. Needs onnxruntime: ``pip install 'sigmahat[local]'``.
        deadline_s, in_flight
            As for a server; work that was begun before a deadline is finished, and its result dropped.

        Raises
        ------
        ModuleNotFoundError
            If onnxruntime is not installed; says what to type.
        sigmahat_kernels.members.MemberError
            If the members are not there or do not fit these kernels.

        Examples
        --------
        ::

            with ShrinkageClient.local() as client:
                estimates = client.estimate(returns, covariance=True)
        """
        from sigmahat_client.local import InProcess

        client = cls.__new__(cls)
        client._set(deadline_s, in_flight, retry_s=0.0)
        client._backend = InProcess(model_repository)
        return client

    def _set(self, deadline_s: float, in_flight: int, retry_s: float) -> None:
        if in_flight < 1:
            raise InvalidRequest(f"in_flight must be 1 or more, got {in_flight}")
        if not 0 <= retry_s < math.inf:
            raise InvalidRequest(f"retry_s must be a number of seconds, 0 or more, got {retry_s}")
        self._deadline_s = _seconds(deadline_s)
        self._in_flight = in_flight
        self._retry_s = retry_s

    def close(self) -> None:
        """Close the connection, once requests that are under way are answered; does not wait for that."""
        self._backend.close()

    def _call(
        self,
        post: Post[Result],
        make: Callable[..., Question[Result]],
        *given: Any,
        keep: bool,
        deadline_s: float | None = None,
        progress: Callable[[int, int], object] | None = None,
        **arguments: Any,
    ) -> Call[Result]:
        """Begin a call with the question that `make` makes of the other arguments."""
        deadline_s = self._deadline_s if deadline_s is None else _seconds(deadline_s)
        limits = Limits(self._in_flight, self._retry_s, deadline_s, time.monotonic() + deadline_s)
        return Call(self._backend, make(*given, **arguments), limits, post, keep=keep, progress=progress)


class ShrinkageClient(BaseClient):
    """A connection to the service; threads may share it.

    Parameters
    ----------
    url : str or sequence of str
        host:port of the server's gRPC. Requests go in turn to all addresses of the name. Several servers may be named:
        the one with the fewest unanswered requests is asked, and another if it does not answer.
    deadline_s : float
        Seconds that one call may take, all its requests together.
    in_flight : int
        How many requests of one call may wait for their answers at a time.
    retry_s : float
        Seconds for which a request is tried again, with growing pauses, while a server starts, stops, restarts or is
        full; 0 to be told at once. Where nothing listens when it is first asked, that is said at once.
    tls : Tls, optional
        Encrypt, with these certificates.
    shared_memory : bool
        Let a server on this machine hand over large matrices in shared memory. It wants a key for that, which it leaves
        in a file for its own user (``$XDG_RUNTIME_DIR``, or the temporary folder); where that is not to be had, or does
        not work, they come through gRPC.

    Examples
    --------
    ::

        with ShrinkageClient("127.0.0.1:8001") as client:
            estimates = client.estimate(returns, {"tech": ["AAPL", "MSFT", "NVDA"]}, covariance=True)
        estimates.covariance_of("tech")  # for the period after the last row of returns
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def is_live(self, timeout_s: float = 1.0) -> bool:
        """Whether a server answers within so many seconds that it is there, however busy it is."""
        return self._backend.is_live(timeout_s)

    def estimate(
        self,
        returns: Any,
        universes: Any = None,
        *,
        assets: Iterable[Hashable] | None = None,
        windows: Any = None,
        market: Any = None,
        dates: Any = None,
        blocks: Any = None,
        covariance: bool = False,
        classic: bool = False,
        on_bad_asset: Literal["raise", "drop"] = "raise",
        deadline_s: float | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Estimates:
        """Estimate shrinkage parameters, and covariance matrices if asked for, of many universes of one panel.

        Parameters
        ----------
        returns : DataFrame, Arrow table, DataArray or floating point array of shape (rows, assets)
            Simple returns of days (0.01 is 1 %), oldest first; NaN, None or masked = missing. Frames of pandas or
            polars (lazy ones too), Arrow tables and anything else with an Arrow stream, xarray; what has no index may
            have one column of dates.
        universes : mapping of names to lists, list of lists, or integer array (n_universes, n_assets), optional
            Lists hold labels, or column numbers where `returns` has no labels. The array holds column numbers, each row
            padded at its end with -1. Default: one universe, "all", with every column.
        assets : sequence of labels, optional
            Names the columns of an array; default for a DataFrame: its columns.
        windows : mapping of names to (start, stop), or integer array of shape (n_universes, 2), optional
            Rows [start, stop) of each universe; a bound is a row number, or a date, which stands for the first row that
            is not before it. Default, also for a universe that the mapping leaves out: all rows, which is the best
            choice up to some four years of daily returns (1,000 rows): old ones count little.
        market : DataFrame or floating point array of shape (rows, indicators), optional
            Indicators as `sigmahat_kernels.request.MARKET_COLUMNS` lists them; NaN = missing.
        dates : sequence of dates, or of days since 1970-01-01, of length rows, optional
            Strictly increasing. Default: those that `returns` has, as `intake.rows` reads them.
        blocks : mapping of assets to block names, or integer array of shape (n_universes, widest universe), optional
            Asks for an intensity of each block (sector ...).
        covariance : bool
            Ask for the matrices too.
        classic : bool
            Matrices by textbook linear shrinkage of the plain sample covariance; the parameters stay the same.
        on_bad_asset : {"raise", "drop"}
            What becomes of a universe with assets that are not in the panel or whose returns cannot be used: refuse it,
            or estimate it without them, with a warning (`AssetsDropped`) and a note in `Estimates.dropped`.
        deadline_s : float, optional
            Default: the client's.
        progress : callable, optional
            Called with the number of universes answered so far and of all, after each answer.

        Returns
        -------
        Estimates
            In the order of `universes`. A universe that cannot be estimated (an unknown asset, a short history ...) has
            a status and NaN there; `Estimates.failures` says why.

        Warns
        -----
        EstimateWarning
            If something is odd about assets that were estimated: once a call, by name.

        Raises
        ------
        InvalidRequest
            If the arguments cannot be read, or are above the limits of `sigmahat_kernels.request`.
        NoServer, ServerUnavailable, DeadlineExceeded, ServerError
            If there is no answer; what there is, is in the error's `estimates`. Requests that are under way are left to
            finish, and their answers dropped.
        """
        return self._result(
            estimate_question,
            returns,
            universes,
            assets=assets,
            windows=windows,
            market=market,
            dates=dates,
            blocks=blocks,
            covariance=covariance,
            classic=classic,
            on_bad_asset=on_bad_asset,
            deadline_s=deadline_s,
            progress=progress,
        )

    def stream(self, returns: Any, universes: Any = None, **arguments: Unpack[Arguments]) -> Iterator[Estimates]:
        """Estimate as `estimate` does, but yield the estimates as they come: of a few hundred universes at a time.

        They come in the order of `universes`. Only as many wait in memory as `in_flight` requests ask for, so that a
        job may be larger than the memory; a caller who takes his time holds up the next requests.
        """
        return self._parts(estimate_question, returns, universes, **arguments)

    def risk(
        self,
        returns: Any,
        universes: Any,
        portfolios: Any,
        *,
        horizon: float = 1,
        annualise: bool | float = False,
        contributions: bool = True,
        minimum_variance: bool = False,
        **arguments: Unpack[_CommonArguments],
    ) -> Risks:
        """Measure portfolios in many universes of one panel, by the matrices of `estimate`, which are not sent.

        Parameters
        ----------
        returns, universes
            As `estimate` takes them; universes may be None: one of all columns.
        portfolios : DataFrame, mapping, Series or array
            Weights or positions in any unit, long or short. A DataFrame with a row a portfolio and a column an asset, a
            mapping of names to {asset: weight}, one {asset: weight}, or an array (portfolios, columns of returns): of
            these each universe takes the positions in its own assets. Or a mapping of universes to such frames or
            mappings, or an array (n_universes, portfolios, widest universe): each universe's own.
        horizon : float
            Periods of the returns over which risk is told: volatility grows with their root.
        annualise : bool or float
            Tell it as of a year instead, of so many periods; True: as many as the dates say.
        contributions : bool
            Ask for what each asset contributes, from which come marginals, betas, effective bets, correlations,
            tracking errors and stresses too; without, volatilities and diversification alone are sent.
        minimum_variance : bool
            Ask for each universe's portfolios of least variance, with short positions and without.
        **arguments
            As `estimate` takes them.

        Returns
        -------
        Risks
            In the order of `universes`. A universe that cannot be estimated, or a portfolio that cannot be measured in
            one (a weight that is not finite, nothing held there), has a status and NaN; `Risks.failures` says why.

        Warns
        -----
        EstimateWarning
            As `estimate`.

        Raises
        ------
        InvalidRequest
            If the arguments cannot be read, or a portfolio holds an asset that is not in `returns`, or not in the
            universe that it is given for.
        NoServer, ServerUnavailable, DeadlineExceeded, ServerError
            As `estimate`.

        Examples
        --------
        ::

            risks = client.risk(returns, None, {"book": {"AAPL": 0.6, "MSFT": 0.4}}, annualise=252)
            risks.contributions_of("all")  # adds up to risks.volatility
        """
        return self._result(
            risk_question,
            returns,
            universes,
            portfolios,
            horizon=horizon,
            annualise=annualise,
            contributions=contributions,
            minimum_variance=minimum_variance,
            **arguments,
        )

    def stream_risk(
        self, returns: Any, universes: Any, portfolios: Any, **arguments: Unpack[RiskArguments]
    ) -> Iterator[Risks]:
        """Measure as `risk` does, but yield the risks as they come; see `stream`."""
        return self._parts(risk_question, returns, universes, portfolios, **arguments)

    def _result(self, make: Callable[..., Question[Result]], *given: Any, **arguments: Any) -> Result:
        arrivals: SimpleQueue[Arrival[Result]] = SimpleQueue()
        call = self._call(arrivals.put, make, *given, keep=True, **arguments)
        with call.giving_what_there_is():
            for _ in _blocking(call.steps(), arrivals):
                pass
        result = call.result()
        result.warn()
        return result

    def _parts(self, make: Callable[..., Question[Result]], *given: Any, **arguments: Any) -> Iterator[Result]:
        arrivals: SimpleQueue[Arrival[Result]] = SimpleQueue()
        return _blocking(self._call(arrivals.put, make, *given, keep=False, **arguments).steps(), arrivals)

    def rolling(
        self,
        returns: Any,
        universes: Any = None,
        *,
        window: int = 252,
        every: str | int = "ME",
        **arguments: Unpack[Arguments],
    ) -> Iterator[tuple[Any, Estimates]]:
        """Estimate every universe over windows that move along the panel: one job, date by date as answers come.

        Parameters
        ----------
        returns, universes
            As `estimate` takes them.
        window : int
            Rows of each window; only whole ones are estimated.
        every : str or int
            A period of pandas (``"ME"``, ``"W-FRI"``, ``"QE"``): windows end with the last row of each, also of one
            that is not over. Or a number of rows between ends, counted back from the last row. Needs pandas.
        **arguments
            As `stream` takes them, windows aside; matrices are asked for unless ``covariance=False``.

        Yields
        ------
        date : pandas.Timestamp
            Of the last row of the windows; its number where returns have no dates.
        estimates : Estimates
            Of all universes at that date; one that fails there has a status, and the others their answers.

        Raises
        ------
        InvalidRequest
            At once, if no window fits or the arguments cannot be read; otherwise as `estimate`.

        Examples
        --------
        ::

            for date, estimates in client.rolling(returns, universes, window=252, every="ME"):
                weights[date] = minimum_variance(estimates.covariance_of("tech"))
        """
        from sigmahat_client.rolling import ByDate, plan

        planned = plan(returns, universes, window, every, dict(arguments))
        parts = self.stream(returns, planned.universes, windows=planned.windows, **planned.arguments)
        by_date = ByDate(planned)
        return (found for part in parts for found in by_date.add(part))


def _blocking(steps: Steps[Result], arrivals: SimpleQueue[Arrival[Result]]) -> Iterator[Result]:
    step = next(steps, None)
    while step is not None:
        arrival = None
        if isinstance(step, Wait):
            with suppress(Empty):
                arrival = arrivals.get(timeout=step.seconds)
        else:
            yield step
        step = resume(steps, arrival)


def _seconds(deadline_s: float) -> float:
    if not 0 < deadline_s < math.inf:
        raise InvalidRequest(f"deadline_s must be a positive number of seconds, got {deadline_s}")
    return deadline_s
