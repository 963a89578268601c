# SPDX-License-Identifier: Apache-2.0
"""What a job is asked: which model, which tensors go there, and what is read out of those that come back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from sigmahat_client.backend import Tensors
from sigmahat_client.decoding import decode, decode_risk, no_risk, output_names, risk_output_names, unanswered
from sigmahat_client.estimates import Estimates
from sigmahat_client.intake import (
    Job,
    Positions,
    chunk_tensors,
    chunks,
    encode,
    periods_of,
    read_portfolios,
    shared_tensors,
)
from sigmahat_client.risks import Risks


class Answered(Protocol):
    """What questions are answered with: as long as there are universes in it."""

    def __len__(self) -> int:
        """Universes."""

    def warn(self) -> None:
        """Give a warning, if something is odd."""


Result = TypeVar("Result", bound=Answered)


class Question(Generic[Result]):
    """What `call.Call` asks of a backend, chunk by chunk."""

    def __init__(self, job: Job, model: str, outputs: Sequence[str], *, classic: bool, **others: bool) -> None:
        self.job = job
        self.model = model
        self.outputs = outputs
        self.parameters = {name: True for name, wanted in {"classic": classic, **others}.items() if wanted}

    def shared_tensors(self) -> dict[str, Any]:
        """Tensors that every request carries."""
        return shared_tensors(self.job)

    def chunks(self) -> Iterator[slice]:
        """Cut the universes, in order, into requests."""
        return chunks(self.job)

    def chunk_tensors(self, chunk: slice) -> dict[str, Any]:
        """Tensors of one request's universes."""
        return chunk_tensors(self.job, chunk)

    def decode(self, chunk: slice, answer: Tensors) -> Result:
        """Turn the tensors that answer one request into the caller's words."""
        raise NotImplementedError

    def unanswered(self, chunk: slice) -> Result:
        """Stand in for universes to which no answer came."""
        raise NotImplementedError

    def joined(self, parts: Sequence[Result]) -> Result:
        """Put results one after the other."""
        raise NotImplementedError


class EstimateQuestion(Question[Estimates]):
    """What are the parameters of these universes, and their covariance matrices?"""

    def __init__(self, job: Job, *, covariance: bool, classic: bool) -> None:
        model = "covariance" if covariance else "shrinkage"
        super().__init__(job, model, output_names(job, covariance=covariance), classic=classic)

    def decode(self, chunk: slice, answer: Tensors) -> Estimates:
        """See `Question`."""
        return decode(self.job, chunk, answer)

    def unanswered(self, chunk: slice) -> Estimates:
        """See `Question`."""
        return unanswered(self.job, chunk, covariance="COVARIANCE" in self.outputs)

    def joined(self, parts: Sequence[Estimates]) -> Estimates:
        """See `Question`."""
        return Estimates.joined(parts)


class RiskQuestion(Question[Risks]):
    """How much risk is in these portfolios, in each of the universes?"""

    def __init__(
        self,
        job: Job,
        positions: Positions,
        *,
        contributions: bool,
        minimum_variance: bool,
        classic: bool,
        periods: float,
    ) -> None:
        outputs = risk_output_names(job, contributions=contributions, minimum_variance=minimum_variance)
        super().__init__(job, "risk", outputs, classic=classic, minimum_variance=minimum_variance)
        self._positions = positions
        self._periods = periods

    def shared_tensors(self) -> dict[str, Any]:
        """See `Question`."""
        return {**super().shared_tensors(), **self._positions.shared_tensors()}

    def chunks(self) -> Iterator[slice]:
        """See `Question`."""
        return chunks(self.job, n_portfolios=len(self._positions.names))

    def chunk_tensors(self, chunk: slice) -> dict[str, Any]:
        """See `Question`."""
        tensors = super().chunk_tensors(chunk)
        return {**tensors, **self._positions.chunk_tensors(chunk, tensors["UNIVERSES"].shape[1])}

    def decode(self, chunk: slice, answer: Tensors) -> Risks:
        """See `Question`."""
        # The process itself answers more than it was asked for.
        asked = {name: tensor for name, tensor in answer.items() if name in self.outputs}
        return decode_risk(self.job, self._positions, chunk, asked, self._periods)

    def unanswered(self, chunk: slice) -> Risks:
        """See `Question`."""
        return no_risk(self.job, self._positions, chunk, self.outputs, self._periods)

    def joined(self, parts: Sequence[Risks]) -> Risks:
        """See `Question`."""
        return Risks.joined(parts)


def estimate_question(
    returns: Any, universes: Any = None, *, covariance: bool = False, classic: bool = False, **arguments: Any
) -> EstimateQuestion:
    """Read the arguments of `ShrinkageClient.estimate`."""
    return EstimateQuestion(encode(returns, universes, **arguments), covariance=covariance, classic=classic)


def risk_question(
    returns: Any,
    universes: Any,
    portfolios: Any,
    *,
    horizon: float = 1,
    annualise: bool | float = False,
    contributions: bool = True,
    minimum_variance: bool = False,
    classic: bool = False,
    **arguments: Any,
) -> RiskQuestion:
    """Read the arguments of `ShrinkageClient.risk`."""
    job = encode(returns, universes, **arguments)
    return RiskQuestion(
        job,
        read_portfolios(portfolios, job),
        contributions=contributions,
        minimum_variance=minimum_variance,
        classic=classic,
        periods=periods_of(horizon, annualise, job.rows),
    )
