# SPDX-License-Identifier: Apache-2.0
"""One OpenTelemetry span a call, whose context goes to the server, which continues the trace. Needs opentelemetry-api;
without it, and without a tracer that the application has set up, nothing happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

Attribute = str | int | bool


class Trace:
    """The span of a call under way."""

    def __init__(self, span: object, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._span = span

    def note(self, **attributes: Attribute) -> None:
        """Add attributes to the span."""
        if self._span is not None:
            self._span.set_attributes(_named(attributes))  # type: ignore[attr-defined]


@contextmanager
def traced(name: str, **attributes: Attribute) -> Iterator[Trace]:
    """Put the block into a span, which never becomes the current one: a generator may leave the block for a while."""
    try:
        from opentelemetry import propagate, trace
    except ModuleNotFoundError:
        yield Trace(None, {})
        return
    span = trace.get_tracer("sigmahat_client").start_span(
        name, kind=trace.SpanKind.CLIENT, attributes=_named(attributes)
    )
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(span))
    try:
        yield Trace(span, headers)
    except Exception as error:
        span.record_exception(error)
        span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        span.end()


def _named(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {f"sigmahat.{name}": value for name, value in attributes.items()}
