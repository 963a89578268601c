# SPDX-License-Identifier: Apache-2.0
"""`ShrinkageClient`: thousands of universes in one call, sent as a few requests at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypedDict, Unpack

from sigmahat_client.backend import Backend
from sigmahat_client.decoding import decode, output_names, unanswered
from sigmahat_client.dispatch import Arrival, Wait, results
from sigmahat_client.endpoints import Tls
from sigmahat_client.errors import DeadlineExceeded, InvalidRequest, SigmahatError
from sigmahat_client.estimates import Estimates
from sigmahat_client.intake import Job, chunk_tensors, chunks, encode, shared_tensors
from sigmahat_client.telemetry import traced

Steps = Generator[Wait | Estimates, Arrival | None, None]


class Arguments(TypedDict, total=False):
    """Keyword arguments of every way to ask; `ShrinkageClient.estimate` describes them."""

    assets: Iterable[Hashable] | None
    windows: Any
    market: Any
    dates: Any
    blocks: Any
    covariance: bool
    classic: bool
    on_bad_asset: Literal["raise", "drop"]
    deadline_s: float | None
    progress: Callable[[int, int], object] | None


class Call(NamedTuple):
    """One job under way."""

    job: Job
    covariance: bool
    steps: Steps
    found: dict[int, Estimates]  # by the place of the first universe, as far as they are to be kept


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
    def local(
        cls, model_repository: str | Path = "model_repository", *, deadline_s: float = 60.0, in_flight: int = 4
    ) -> Self:
        """Make a client that computes in this process, with the server's kernels and members, and needs no server.

        Parameters
        ----------
        model_repository : path
            The folder that a server would serve; its ``member_*/1/model.onnx`` are read. Needs onnxruntime.
        deadline_s, in_flight
            As for a server; work that was begun before a deadline is finished, and its result dropped.

        Raises
        ------
        sigmahat_kernels.members.MemberError
            If the members are not there or do not fit these kernels.
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

    def _close(self) -> None:
        self._backend.close()

    def _call(
        self,
        arrived: Callable[[Arrival], object],
        returns: Any,
        universes: Any,
        *,
        keep: bool,
        covariance: bool = False,
        classic: bool = False,
        deadline_s: float | None = None,
        progress: Callable[[int, int], object] | None = None,
        **arguments: Any,
    ) -> Call:
        deadline_s = self._deadline_s if deadline_s is None else _seconds(deadline_s)
        deadline = time.monotonic() + deadline_s
        job = encode(returns, universes, **arguments)
        model = "covariance" if covariance else "shrinkage"
        found: dict[int, Estimates] = {}
        n_sent = n_done = 0

        def note(chunk: slice, estimates: Estimates) -> None:
            nonlocal n_done
            n_done += len(estimates)
            if keep:
                found[chunk.start] = estimates
            if progress is not None:
                progress(n_done, len(job.names))

        def steps() -> Steps:
            with traced(model, universes=len(job.names), widest=job.universes.shape[1]) as trace:
                request = self._backend.sender(
                    model,
                    shared_tensors(job),
                    outputs=output_names(job, covariance=covariance),
                    parameters={"classic": True} if classic else {},
                    headers=trace.headers,
                    deadline=deadline,
                )

                def send(chunk: slice) -> None:
                    nonlocal n_sent
                    n_sent += 1
                    request(
                        chunk_tensors(job, chunk),
                        lambda tensors: decode(job, chunk, tensors),
                        lambda result: arrived(Arrival(chunk, result)),
                    )

                try:
                    yield from results(
                        chunks(job),
                        send,
                        note,
                        in_flight=self._in_flight,
                        deadline=deadline,
                        retry_s=self._retry_s,
                        ask_others=self._backend.n_endpoints > 1,
                    )
                except DeadlineExceeded as error:
                    message = f"{n_done} of {len(job.names)} universes were answered within {deadline_s:g} s"
                    raise DeadlineExceeded("; ".join(filter(None, [message, str(error)]))) from error.__cause__
                finally:
                    trace.note(requests=n_sent, answered=n_done)

        return Call(job, covariance, steps(), found)


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
        full; 0 to be told at once.
    tls : Tls, optional
        Encrypt, with these certificates.
    shared_memory : bool
        Let a server on this machine hand over large matrices in shared memory; where that does not work, they come
        through gRPC.

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

    def close(self) -> None:
        """Close the connection, once requests that are under way are answered; does not wait for that."""
        self._close()

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
            Simple returns per period (0.01 is 1 %), oldest first; NaN, None or masked = missing. Frames of pandas or
            polars (lazy ones too), Arrow tables and anything else with an Arrow stream, xarray; what has no index may
            have one column of dates.
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

        Raises
        ------
        InvalidRequest
            If the arguments cannot be read, or are above the limits of `sigmahat_kernels.request`.
        ServerUnavailable, DeadlineExceeded, ServerError
            If there is no answer; what there is, is in the error's `estimates`. Requests that are under way are left to
            finish, and their answers dropped.
        """
        arrived: SimpleQueue[Arrival] = SimpleQueue()
        call = self._call(
            arrived.put,
            returns,
            universes,
            keep=True,
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
        with giving_what_there_is(call):
            for _ in _blocking(call.steps, arrived):
                pass
        return joined(call)

    def stream(self, returns: Any, universes: Any = None, **arguments: Unpack[Arguments]) -> Iterator[Estimates]:
        """Estimate as `estimate` does, but yield the estimates as they come: of a few hundred universes at a time.

        They come in the order of `universes`. Only as many wait in memory as `in_flight` requests ask for, so that a
        job may be larger than the memory; a caller who takes his time holds up the next requests.
        """
        arrived: SimpleQueue[Arrival] = SimpleQueue()
        return _blocking(self._call(arrived.put, returns, universes, keep=False, **arguments).steps, arrived)


def _blocking(steps: Steps, arrived: SimpleQueue[Arrival]) -> Iterator[Estimates]:
    step = next(steps, None)
    while step is not None:
        event = None
        if isinstance(step, Wait):
            with suppress(Empty):
                event = arrived.get(timeout=step.seconds)
        else:
            yield step
        step = resume(steps, event)


def resume(steps: Steps, event: Arrival | None) -> Wait | Estimates | None:
    try:
        return steps.send(event)
    except StopIteration:
        return None


@contextmanager
def giving_what_there_is(call: Call) -> Iterator[None]:
    try:
        yield
    except SigmahatError as error:
        error.estimates = joined(call)
        raise


def joined(call: Call) -> Estimates:
    """Join what was found, with `unanswered` in the gaps."""
    parts, begin, end = [], 0, len(call.job.names)
    for start in [*sorted(call.found), end]:
        if begin < start:
            parts.append(unanswered(call.job, slice(begin, start), covariance=call.covariance))
        if start < end:
            parts.append(call.found[start])
            begin = start + len(call.found[start])
    return Estimates.joined(parts)


def _seconds(deadline_s: float) -> float:
    if not 0 < deadline_s < math.inf:
        raise InvalidRequest(f"deadline_s must be a positive number of seconds, got {deadline_s}")
    return deadline_s
