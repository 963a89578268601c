# SPDX-License-Identifier: Apache-2.0
"""`ShrinkageClient`: thousands of universes in one call, sent as a few requests at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import closing
from types import TracebackType
from typing import Any, Self

from sigmahat_client.decoding import Collector
from sigmahat_client.encoding import chunk_tensors, chunks, encode, shared_tensors
from sigmahat_client.errors import DeadlineExceeded, InvalidRequest
from sigmahat_client.estimates import Estimates


class ShrinkageClient:
    """A connection to the service; threads may share it.

    Parameters
    ----------
    url : str
        host:port of the server's gRPC.
    deadline_s : float
        Seconds that one call of `estimate` may take, all its requests together.
    in_flight : int
        How many requests of one call may wait for their answers at a time.

    Examples
    --------
    ::

        with ShrinkageClient("127.0.0.1:8001") as client:
            estimates = client.estimate(returns, {"tech": ["AAPL", "MSFT", "NVDA"]}, covariance=True)
        estimates.covariance_of("tech")  # for the period after the last row of returns
    """

    def __init__(self, url: str = "127.0.0.1:8001", *, deadline_s: float = 60.0, in_flight: int = 4) -> None:
        from sigmahat_client.transport import Connection  # here, so that the package imports fast

        if "://" in url or ":" not in url:
            raise InvalidRequest(f"url must be host:port, such as 127.0.0.1:8001, got {url!r}")
        if in_flight < 1:
            raise InvalidRequest(f"in_flight must be 1 or more, got {in_flight}")
        self._deadline_s = _seconds(deadline_s)
        self._in_flight = in_flight
        self._connection = Connection(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, once requests that are under way are answered; does not wait for that."""
        self._connection.close()

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
        deadline_s: float | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Estimates:
        """Estimate shrinkage parameters, and covariance matrices if asked for, of many universes of one panel.

        Parameters
        ----------
        returns : DataFrame or floating point array of shape (rows, assets)
            Simple returns per period (0.01 is 1 %), oldest first, NaN = missing.
        universes : mapping of names to lists, list of lists, or integer array (n_universes, n_assets), optional
            Lists hold labels, or column numbers where `returns` has no labels. The array holds column numbers, each row
            padded at its end with -1. Default: one universe, "all", with every column.
        assets : sequence of labels, optional
            Names the columns of an array; default for a DataFrame: its columns.
        windows : mapping of names to (start, stop), or integer array of shape (n_universes, 2), optional
            Rows [start, stop) of each universe. Default, also for a universe that the mapping leaves out: all rows.
        market : DataFrame or floating point array of shape (rows, indicators), optional
            Indicators as `sigmahat_kernels.request.MARKET_COLUMNS` lists them; NaN = missing.
        dates : sequence of dates, or of days since 1970-01-01, of length rows, optional
            Strictly increasing. Default: the index of a DataFrame, where that is a DatetimeIndex.
        blocks : mapping of assets to block names, or integer array of shape (n_universes, widest universe), optional
            Asks for an intensity of each block (sector ...).
        covariance : bool
            Ask for the matrices too.
        classic : bool
            Matrices by textbook linear shrinkage of the plain sample covariance; the parameters stay the same.
        deadline_s : float, optional
            Default: the client's.
        progress : callable, optional
            Called with the number of universes answered so far and of all, after each answer.

        Returns
        -------
        Estimates
            In the order of `universes`. A universe that cannot be estimated (an unknown asset, a short history ...) has
            a status and NaN there; `Estimates.failures` says why.

        Raises
        ------
        InvalidRequest
            If the arguments cannot be read, or are above the limits of `sigmahat_kernels.request`.
        ServerUnavailable, DeadlineExceeded, ServerError
            If there is no answer. Requests that are under way are left to finish, and their answers dropped.
        """
        deadline_s = self._deadline_s if deadline_s is None else _seconds(deadline_s)
        deadline = time.monotonic() + deadline_s
        job = encode(returns, universes, assets=assets, windows=windows, market=market, dates=dates, blocks=blocks)
        collector = Collector(job, covariance=covariance)
        answers = self._connection.answers(
            "covariance" if covariance else "shrinkage",
            shared_tensors(job),
            ((chunk, chunk_tensors(job, chunk)) for chunk in chunks(job)),
            outputs=collector.outputs,
            parameters={"classic": True} if classic else {},
            in_flight=self._in_flight,
            deadline=deadline,
        )
        try:
            with closing(answers):
                for chunk, answer in answers:
                    collector.store(chunk, answer)
                    if progress is not None:
                        progress(collector.n_done, len(job.names))
        except DeadlineExceeded:
            message = f"{collector.n_done} of {len(job.names)} universes were answered within {deadline_s:g} s"
            raise DeadlineExceeded(message) from None
        return collector.estimates()


def _seconds(deadline_s: float) -> float:
    if not 0 < deadline_s < math.inf:
        raise InvalidRequest(f"deadline_s must be a positive number of seconds, got {deadline_s}")
    return deadline_s
