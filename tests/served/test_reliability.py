# SPDX-License-Identifier: Apache-2.0
"""Faults of the real service, at a small size; benchmarks/reliability/run.py does the same at full size.

One service for all of them, in this order: it is killed, overrun and changed, and must be well again each time.
"""

from __future__ import annotations

import inspect
import json
import signal
from collections.abc import Iterator

import pytest

pytest.importorskip("hypothesis", reason="needs sigmahat[dev]")
pytest.importorskip("onnx", reason="needs sigmahat[dev]")
pytest.importorskip("tritonclient.grpc", reason="needs sigmahat[dev]")

from benchmarks.reliability.load import Load, reference, right, same, tensors
from benchmarks.reliability.run import ON_THEIR_OWN, on_one_service
from benchmarks.reliability.scenarios import (
    callers,
    endpoints,
    kills,
    malformed,
    memory,
    regions,
    releases,
    stress,
    stuck,
)
from benchmarks.reliability.service import Service, served, wait_for

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

NOTHING_OF = ("hung", "stack_traces", "wrong_neighbours", "unanswered_neighbours", "server_deaths")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with served() as service:
        yield service


def test_every_scenario_that_is_run_at_full_size_is_a_function() -> None:
    scenarios = [*on_one_service(n_malformed=1, n_soak=1), *ON_THEIR_OWN]
    assert len({scenario.name for scenario in scenarios}) == len(scenarios) > 10
    for scenario in scenarios:
        inspect.signature(scenario.load()).bind(*[None] * (scenario not in ON_THEIR_OWN), **scenario.sizes)


def test_malformed_requests_crash_nothing_and_spoil_no_neighbour(service: Service) -> None:
    figures = malformed.bad_requests(service, 250)
    assert figures["requests"] == 250
    assert figures["neighbours"] >= 10
    assert {figures[name] for name in NOTHING_OF} == {0}
    assert set(figures["codes"]) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE"}
    assert figures["codes"]["OK"] > 20  # some of them are good
    assert figures["codes"]["INVALID_ARGUMENT"] > 50


def test_a_required_tensor_that_another_hides_is_missed(service: Service) -> None:
    request = malformed.message(tensors(2, 10, 0))
    request.inputs[1].CopyFrom(request.inputs[0])
    request.raw_input_contents[1] = request.raw_input_contents[0]
    raw = malformed.Raw(service.url)
    assert raw.send(request) is None
    raw.close()
    assert dict(raw.codes) == {"INVALID_ARGUMENT": 1}


def test_a_shape_that_overflows_is_survived(service: Service) -> None:
    assert malformed.shape_overflow(service)["server_deaths"] == 1


def test_killed_callers_do_not_take_the_server_down(service: Service) -> None:
    assert callers.killed_callers(service, 4)["server_deaths"] == 0
    figures = callers.abandoned(service, 150)
    assert figures["deadline_exceeded"] == 150
    assert figures["server_deaths"] == 0


def test_more_requests_than_the_queue_holds_are_refused_at_once(service: Service) -> None:
    figures = callers.overflow(service, 200)
    assert figures["refused"] > 0
    assert figures["answered"] > 64  # the queue's length
    assert figures["other"] == 0
    assert figures["refused_after_s"] < figures["answered_after_s"]
    assert figures["well_afterwards"]


def test_shared_memory_is_checked_before_it_is_touched(service: Service) -> None:
    figures = regions.shared_memory(service)
    assert figures["good"] == ["answered", "answered"]
    assert figures["same"]
    assert set(figures["bad"].values()) <= {"INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL"}
    assert figures["server_deaths"] == 0


def test_a_job_over_two_endpoints_ends_though_one_never_answers(service: Service) -> None:
    with endpoints.black_hole() as hole:
        assert endpoints.job_over([hole, service.url], 500)["lost"] == 0


@pytest.mark.parametrize("victim", ["estimate", "triton"])
def test_nothing_is_lost_when_a_process_is_killed_under_load(service: Service, victim: str) -> None:
    figures = kills.kill(service, victim, after_s=0.5)
    assert figures["with_retries"]["lost"] == 0
    assert figures["with_retries"]["answered"] > 0
    assert figures["without_retries"]["lost"] > 0  # it was really gone
    assert figures["with_retries"]["wrong"] == figures["without_retries"]["wrong"] == 0


def test_callers_learn_at_once_that_the_process_with_their_requests_is_gone(service: Service) -> None:
    figures = kills.kill_in_the_middle(service, "estimate")
    assert figures["outcomes"].pop("UNAVAILABLE") > 0
    assert figures["outcomes"].keys() <= {"answered"}
    assert figures["told_after_s"] < 10
    assert figures["recovery_s"] < 30


def test_a_job_survives_the_death_of_the_server(service: Service) -> None:
    figures = kills.kill_during_job(service, 2_400)
    assert figures["killed_after"] < 2_400
    assert (figures["lost"], figures["wrong"]) == (0, 0)


def test_a_release_that_cannot_be_served_leaves_the_old_one(service: Service) -> None:
    before, deaths = reference(service.url), len(service.events("died"))
    member = service.repository / "member_2" / "1" / "model.onnx"
    content = member.read_bytes()
    member.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    service.process.send_signal(signal.SIGHUP)
    (event,) = wait_for(lambda: service.events("swap_failed"))
    assert "member_2/1/model.onnx is not the file that" in event["reason"]
    member.write_bytes(content)
    program = service.repository / "estimate" / "1" / "model.py"
    source = program.read_text()
    wrong = source.replace(
        "published_outputs(answers,", "published_outputs(answers._replace(status=answers.status + 1),"
    )
    assert wrong != source
    load = Load(service.url, 0.0, right(before))
    with load.running():
        program.write_text("raise RuntimeError('not written yet')\n")
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(service.events("swap_failed")) == 2)
        program.write_text(wrong)
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(service.events("swap_failed")) == 3)
        program.write_text(source)
    assert "shrinkage-r2 should answer the probe with STATUS [0, 0]" in service.events("swap_failed")[-1]["reason"]
    figures = load.figures()
    assert figures["answered"] > 0
    assert (figures["lost"], figures["wrong"]) == (0, 0)
    assert len(service.events("died")) == deaths
    assert all(same(a, b) for a, b in zip(reference(service.url), before, strict=True))


def test_a_new_release_replaces_the_old_one_without_a_gap_or_a_mixture(service: Service) -> None:
    deaths = len(service.events("died"))
    figures = releases.hot_swap(service)
    assert figures["told_apart"]
    assert (figures["lost"], figures["mixed"], figures["old_after_new"]) == (0, 0, 0)
    assert min(figures["of_each_release"]) > 0
    assert len(service.events("died")) == deaths


def test_nothing_is_lost_when_everything_happens_at_once(service: Service) -> None:
    figures = stress.everything(service, n_rounds=1, first=3)
    assert figures["errors"] == {}
    assert figures["answered"] > 0
    assert figures["wrong"] == 0
    assert figures["well_afterwards"]


def test_sigterm_answers_what_was_accepted(service: Service) -> None:
    figures = releases.drain(service)
    assert figures["under_way"] >= 3
    assert figures["lost"] == 0
    assert "has no available versions" in figures["late_request"]
    assert figures["exit_code"] == 0
    assert figures["left_in_shared_memory"] == 0
    log = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert [record["event"] for record in log[-2:]] == ["draining", "stopped"]


def test_a_release_that_finds_no_room_on_the_disk_leaves_the_old_one() -> None:
    if not memory.can_mount():
        pytest.skip("needs the right to mount a small folder of its own")
    figures = stuck.full_disk()
    assert "No space left on device" in figures["reason"]
    assert (figures["lost"], figures["wrong"], figures["server_deaths"]) == (0, 0, 0)


def test_a_full_shared_memory_refuses_what_does_not_fit_and_goes_on() -> None:
    if not memory.can_mount():
        pytest.skip("needs the right to mount a small /dev/shm of its own")
    figures = memory.full_shared_memory()
    assert (figures["small"], figures["small_again"], figures["server_deaths"]) == ("answered", "answered", 0)
    assert "Failed to increase the shared memory pool size" in figures["large"]
