# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a running service, done to a real `sigmahat serve`; each scenario counts what callers saw.

`reliability.py` runs all of them at full size; tests/served/test_reliability.py a smaller size of the same functions.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import tritonclient.grpc as triton
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest

from sigmahat_client import Estimates, InvalidRequest, ShrinkageClient, SigmahatError
from sigmahat_kernels.manifest import write_manifest

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
EXTRACT = ROOT / "benchmarks" / "data" / "us_sp500_2016_2019.npz"

Figures = dict[str, Any]


# ----------------------------------------------------------------------------------------------------- the service


@dataclass
class Service:
    """A running `sigmahat serve`."""

    process: subprocess.Popen[bytes]
    url: str
    repository: Path
    log: Path
    ready_file: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """The records of one kind that it has written."""
        lines = self.log.read_text().splitlines()
        return [event for event in map(json.loads, (x for x in lines if x.startswith("{"))) if event["event"] == name]

    def processes(self) -> dict[str, int]:
        """Process ids by what they are: "triton", or the folder of a Python model; Triton leads their group."""
        running = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
                command = (stat.parent / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if state not in "ZX":
                    running.append((int(stat.parent.name), int(parent), int(group), command))
        triton = [p for p, parent, _, c in running if parent == self.process.pid and c[0].endswith("/tritonserver")]
        found = {}
        for pid, _, group, command in running:
            model = next((Path(word) for word in command if word.endswith("/model.py")), None)
            if model is not None and triton and group == triton[0]:
                found[model.parts[-3]] = pid
        return found | dict(zip(["triton"], triton, strict=False))

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of Triton and of all Python models, and its files in /dev/shm."""
        resident = {}
        for name, pid in self.processes().items():
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            resident[name] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        files = list(Path("/dev/shm").glob(f"sigmahat_{self.process.pid}_*"))
        return {
            "server": resident["triton"],
            "models": sum(mb for name, mb in resident.items() if name != "triton"),
            "shared_memory": sum(file.stat().st_blocks * 512 for file in files) / 1e6,
        }


@contextmanager
def served(*options: str, prefix: Sequence[str] = ()) -> Iterator[Service]:
    """Run `sigmahat serve` on a copy of the model repository; `prefix` may put another command in front."""
    with tempfile.TemporaryDirectory(prefix="sigmahat-faults-") as folder:
        repository, ready_file, log = Path(folder, "models"), Path(folder, "ready.json"), Path(folder, "log")
        shutil.copytree(REPOSITORY, repository)
        command = [*prefix, sys.executable, "-c", "from sigmahat_deploy.cli import main; main()", "serve"]
        command += ["--grpc-port=0", "--http-port=0", "--metrics-port=0", "--max-restarts=100"]
        command += [f"--model-repository={repository}", f"--ready-file={ready_file}", *options]
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            wait_for(lambda: ready_file.exists() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield Service(process, json.loads(ready_file.read_text())["grpc_url"], repository, log, ready_file)
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=90)
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Return the first value of `condition` that is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain")
        time.sleep(0.01)
    return value


# ---------------------------------------------------------------------------------------------------- what is sent


def panel() -> np.ndarray:
    """Simple returns of 200 US stocks, (504, 200) float32."""
    with np.load(EXTRACT, allow_pickle=False) as file:
        return np.ascontiguousarray(file["ret"][:504], np.float32)


def universes(n: int, size: int, seed: int) -> np.ndarray:
    """Lists of distinct columns of `panel`, (n, size) int32."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(200, size, replace=False) for _ in range(n)]).astype(np.int32)


def tensors(n: int, size: int, seed: int) -> dict[str, np.ndarray]:
    """One request, as the server reads it."""
    return {"PANEL": panel()[:252], "UNIVERSES": universes(n, size, seed)}


def inputs(arrays: dict[str, np.ndarray]) -> list[triton.InferInput]:
    """For tritonclient."""
    kinds = {"f": "FP32", "i": "INT32"}
    found = [triton.InferInput(name, list(array.shape), kinds[array.dtype.kind]) for name, array in arrays.items()]
    for tensor, array in zip(found, arrays.values(), strict=True):
        tensor.set_data_from_numpy(array)
    return found


def probe(url: str, timeout_s: float = 5.0) -> str:
    """Ask for one universe; return what was wrong."""
    try:
        with triton.InferenceServerClient(url) as client:
            answer = client.infer("shrinkage", inputs(tensors(1, 20, 0)), client_timeout=timeout_s)
        return "" if answer.as_numpy("STATUS").tolist() == [0] else "a bad status"
    except triton.InferenceServerException as error:
        return str(error)


# ------------------------------------------------------------------------------------------------------- the load


@dataclass
class Load:
    """Callers that ask again and again, each its own questions, and hold the answers against the right ones."""

    url: str
    retry_s: float
    expected: Callable[[Estimates, int], str]  # what is wrong with the answer to question k, or which release it is of
    n_callers: int = 2
    size: int = 30
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    order: dict[int, list[str]] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Ask while the block runs; every question that was begun is finished."""
        stop = threading.Event()
        callers = [threading.Thread(target=self._call, args=(k, stop)) for k in range(self.n_callers)]
        for caller in callers:
            caller.start()
        try:
            yield self
        finally:
            stop.set()
            for caller in callers:
                caller.join()

    def _call(self, caller: int, stop: threading.Event) -> None:
        returns = panel()[:252]
        seen = self.order.setdefault(caller, [])
        with ShrinkageClient(self.url, retry_s=self.retry_s, deadline_s=60.0, shared_memory=False) as client:
            k = caller
            while not stop.is_set():
                begin = time.monotonic()
                question = k % N_QUESTIONS
                try:
                    answer = client.estimate(returns, universes(4, self.size, question), covariance=True)
                except SigmahatError as error:
                    self.failures.append(f"{type(error).__name__}: {error}"[:200])
                    time.sleep(0.02)
                else:
                    said = self.expected(answer, question)
                    self.answers[said] += 1
                    seen.append(said)
                    self.seconds.append(time.monotonic() - begin)
                k += 1

    def figures(self) -> Figures:
        """Counts, and the longest wait for an answer."""
        return {
            "answered": self.answers["right"],
            "wrong": sum(self.answers.values()) - self.answers["right"],
            "lost": len(self.failures),
            "longest_s": round(max(self.seconds, default=0.0), 2),
        }


N_QUESTIONS = 6


def reference(url: str, size: int = 30) -> list[Estimates]:
    """The answers to all questions, undisturbed."""
    returns = panel()[:252]
    with ShrinkageClient(url, shared_memory=False) as client:
        return [client.estimate(returns, universes(4, size, k), covariance=True) for k in range(N_QUESTIONS)]


def in_process(repository: Path, size: int = 30) -> list[Estimates]:
    """The answers to all questions by a repository's own members, without a server."""
    returns = panel()[:252]
    with ShrinkageClient.local(repository) as client:
        return [client.estimate(returns, universes(4, size, k), covariance=True) for k in range(N_QUESTIONS)]


def right(answers: list[Estimates]) -> Callable[[Estimates, int], str]:
    """Hold answers against undisturbed ones."""
    return lambda answer, question: "right" if same(answer, answers[question]) else "wrong"


def same(a: Estimates, b: Estimates, atol: float = 0.01) -> bool:
    """Whether two answers agree as far as int8 does when Triton joins requests to batches of another size."""
    if a.failures or b.failures or a.covariance is None or b.covariance is None:
        return False
    close = np.allclose(a.intensity, b.intensity, atol=atol) and np.allclose(
        a.target_weights, b.target_weights, atol=0.03
    )
    scale = max(np.abs(matrix).max() for matrix in b.covariance)
    return close and all(
        np.allclose(x / scale, y / scale, atol=0.03) for x, y in zip(a.covariance, b.covariance, strict=True)
    )


# ------------------------------------------------------------------------------------------------------ scenarios


def kill(service: Service, victim: str, before_s: float = 1.0, after_s: float = 2.0) -> Figures:
    """SIGKILL "triton" or a Python model's process under load, with callers that retry and callers that do not."""
    answers = right(reference(service.url))
    patient, hasty = Load(service.url, 30.0, answers), Load(service.url, 0.0, answers)
    with patient.running(), hasty.running():
        time.sleep(before_s)
        processes = service.processes()
        pid = next(pid for name, pid in processes.items() if name.partition("-r")[0] == victim)
        os.kill(pid, signal.SIGKILL)
        begin = time.monotonic()
        wait_for(lambda: service.processes().get("triton") not in (None, processes["triton"]))
        wait_for(lambda: not probe(service.url, 1.0))
        recovery_s = time.monotonic() - begin
        time.sleep(after_s)
    return {
        "recovery_s": round(recovery_s, 2),
        "with_retries": patient.figures(),
        "without_retries": hasty.figures(),
    }


def kill_during_job(service: Service, n_universes: int = 4_000) -> Figures:
    """SIGKILL Triton in the middle of one long job with matrices; the job's result must be the undisturbed one."""
    returns, asked = panel()[:252], universes(n_universes, 100, 0)
    with ShrinkageClient(service.url, deadline_s=300.0) as client:
        undisturbed = client.estimate(returns, asked, covariance=True)
        killed = []

        def progress(done: int, total: int) -> None:
            if not killed:
                killed.append(done)
                os.kill(service.processes()["triton"], signal.SIGKILL)

        begin = time.monotonic()
        answer = client.estimate(returns, asked, covariance=True, progress=progress)
    return {
        "universes": n_universes,
        "killed_after": killed[0],
        "lost": len(answer.failures),
        "wrong": 0 if same(answer, undisturbed) else n_universes,
        "seconds": round(time.monotonic() - begin, 2),
    }


@contextmanager
def black_hole() -> Iterator[str]:
    """host:port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def relay(url: str, delay_s: float = 0.0) -> Iterator[tuple[str, threading.Event]]:
    """host:port that passes bytes on to `url`, each piece `delay_s` later; once the event is set, nothing more."""
    frozen, closed = threading.Event(), threading.Event()
    host, _, port = url.rpartition(":")

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if delay_s:
                    time.sleep(delay_s)
                while frozen.is_set() and not closed.is_set():
                    time.sleep(0.1)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((host, int(port)))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", frozen
        closed.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def job_over(
    urls: Sequence[str], n_universes: int = 1_000, progress: Callable[[int, int], object] | None = None
) -> Figures:
    """One job over several endpoints."""
    begin = time.monotonic()
    with ShrinkageClient(urls, deadline_s=120.0, retry_s=60.0) as client:
        answer = client.estimate(panel()[:252], universes(n_universes, 180, 0), covariance=True, progress=progress)
    return {"universes": n_universes, "lost": len(answer.failures), "seconds": round(time.monotonic() - begin, 2)}


def endpoints(service: Service, n_universes: int = 1_000) -> Figures:
    """A job over two endpoints, of which one is black-holed, slow, or falls silent in the middle."""
    figures = {"alone": job_over([service.url], n_universes)}
    with black_hole() as hole:
        figures["one_black_holed"] = job_over([hole, service.url], n_universes)
    with relay(service.url, delay_s=0.02) as (slow, _):
        figures["one_slow"] = job_over([slow, service.url], n_universes)
    with relay(service.url) as (near, frozen):

        def progress(done: int, total: int) -> None:
            frozen.set()

        figures["one_falls_silent"] = job_over([near, service.url], n_universes, progress)
    return figures


def write_other_release(repository: Path, seed: int) -> None:
    """Change every member a little, each differently, so that the answers of two releases, and any mix, differ."""
    rng = np.random.default_rng(seed)
    members = sorted(repository.glob("member_*/1/model.onnx"))
    for path in members:
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim == 1 and tensor.name.endswith("output.bias"):
                moved = (values + rng.uniform(0.5, 1.0) * rng.choice([-1.0, 1.0], values.shape)).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
        onnx.save(model, path)
    write_manifest(repository, sorted(repository.glob("member_*/1/*.onnx")))


def hot_swap(service: Service, n_swaps: int = 1) -> Figures:
    """Replace the release under load, without client retries; each answer must be of one release, never back again."""
    known = [in_process(service.repository)]
    first = len(service.events("swapped"))

    def which(answer: Estimates, question: int) -> str:
        found = [str(k) for k, answers in enumerate(known) if same(answer, answers[question])]
        return found[0] if len(found) == 1 else "unknown" if not found else "several"

    answers: list[tuple[Estimates, int]] = []
    lock = threading.Lock()

    def keep(answer: Estimates, question: int) -> str:
        with lock:
            answers.append((answer, question))  # the new release's own answers are known only later
            return str(len(answers) - 1)

    load = Load(service.url, 0.0, keep, n_callers=3)
    seconds = []
    with load.running():
        for k in range(n_swaps):
            time.sleep(1.0)
            write_other_release(service.repository, seed=first + k)
            known.append(in_process(service.repository))
            service.process.send_signal(signal.SIGHUP)
            wait_for(lambda k=k: len(service.events("swapped")) == first + k + 1)
            seconds.append(service.events("swapped")[-1]["seconds"])
            time.sleep(1.0)
    kinds = [which(answer, question) for answer, question in answers]
    backwards = 0
    for indices in load.order.values():
        seen = [int(kinds[int(k)]) for k in indices if kinds[int(k)].isdigit()]
        backwards += sum(after < before for before, after in pairwise(seen))
    counts = Counter(kinds)
    return {
        "swaps": n_swaps,
        "answered": len(kinds),
        "lost": len(load.failures),
        "mixed": counts["unknown"],
        "told_apart": counts["several"] == 0,
        "old_after_new": backwards,
        "of_each_release": [counts[str(k)] for k in range(n_swaps + 1)],
        "swap_s": seconds,
        "longest_s": round(max(load.seconds), 2),
    }


def drain(service: Service) -> Figures:
    """SIGTERM while long requests are under way: they are answered, new ones refused, and the server ends with 0."""
    asked = inputs({"PANEL": panel()[:252], "UNIVERSES": universes(300, 150, 0)})
    outcomes: list[str] = []
    with triton.InferenceServerClient(service.url) as client:

        def note(result: Any, error: Any) -> None:
            outcomes.append("answered" if error is None else str(error))

        for _ in range(6):
            client.async_infer("covariance", asked, note)
        time.sleep(0.7)
        answered_before = len(outcomes)
        begin = time.monotonic()
        service.process.terminate()
        time.sleep(0.3)
        late = probe(service.url)
        wait_for(lambda: len(outcomes) == 6, 90)
        code = service.process.wait(timeout=90)
    return {
        "under_way": 6 - answered_before,
        "lost": sum(outcome != "answered" for outcome in outcomes),
        "outcomes": dict(Counter(outcomes)),
        "late_request": late,
        "exit_code": code,
        "seconds": round(time.monotonic() - begin, 2),
        "left_in_shared_memory": len(list(Path("/dev/shm").glob(f"sigmahat_{service.process.pid}_*"))),
    }


def overflow(service: Service, n_requests: int = 400) -> Figures:
    """Many requests at once: those beyond the queue are refused at once, the others answered, and then all is well."""
    asked = inputs(tensors(20, 100, 0))
    done: list[tuple[float, str]] = []
    with triton.InferenceServerClient(service.url) as client:
        for _ in range(n_requests):
            begin = time.monotonic()
            client.async_infer(
                "shrinkage",
                asked,
                lambda result, error, begin=begin: done.append((time.monotonic() - begin, str(error or ""))),
            )
        wait_for(lambda: len(done) == n_requests, 180)
    refused = [seconds for seconds, error in done if "maximum queue size" in error]
    answered = [seconds for seconds, error in done if not error]
    return {
        "requests": n_requests,
        "answered": len(answered),
        "refused": len(refused),
        "other": n_requests - len(answered) - len(refused),
        "refused_after_s": round(float(np.median(refused)), 3) if refused else None,
        "answered_after_s": round(max(answered), 2),
        "well_afterwards": wait_for(lambda: not probe(service.url), 30) is not None and not probe(service.url),
    }


CALLER = """
import sys
sys.path.insert(0, sys.argv[1])
import faults, tritonclient.grpc as triton
client = triton.InferenceServerClient(sys.argv[2])
asked = faults.inputs(faults.tensors(100, 60, 0))
client.infer("shrinkage", asked)
print("asking", flush=True)
while True:
    client.infer("covariance", asked)
"""


def killed_callers(service: Service, n_callers: int = 30) -> Figures:
    """SIGKILL clients while they wait for an answer; count how often that took the server down."""
    before = len(service.events("died"))
    rng = np.random.default_rng(0)
    for _ in range(n_callers):
        with subprocess.Popen(
            [sys.executable, "-c", CALLER, str(Path(__file__).parent), service.url], stdout=subprocess.PIPE
        ) as caller:
            assert caller.stdout is not None
            caller.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.3))
            caller.kill()
    wait_for(lambda: not probe(service.url))
    return {"killed": n_callers, "server_deaths": len(service.events("died")) - before}


def abandoned(service: Service, n_requests: int = 400) -> Figures:
    """Requests with a deadline that passes while they are computed, which gRPC then cancels."""
    before = len(service.events("died"))
    asked = inputs(tensors(20, 60, 0))
    rng = np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    with triton.InferenceServerClient(service.url) as client:
        for timeout_s in rng.uniform(0.002, 0.05, n_requests):
            try:
                client.infer("covariance", asked, client_timeout=timeout_s)
                outcomes["answered"] += 1
            except triton.InferenceServerException as error:
                outcomes[str(error.status()).removeprefix("StatusCode.").lower()] += 1
    wait_for(lambda: not probe(service.url))
    return {"requests": n_requests, **outcomes, "server_deaths": len(service.events("died")) - before}


_OWN_SHARED_MEMORY = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh")


def can_mount() -> bool:
    """Whether this user may give a process a /dev/shm of its own."""
    with suppress(FileNotFoundError):
        return subprocess.run([*_OWN_SHARED_MEMORY, "true"], stderr=subprocess.DEVNULL).returncode == 0
    return False


def full_shared_memory() -> Figures:
    """A server whose /dev/shm holds 64 MB: what does not fit is refused, and the rest goes on."""
    outcomes = []
    with served(prefix=_OWN_SHARED_MEMORY) as service:
        large = np.tile(panel(), (1, 240))  # 97 MB
        for returns in (panel()[:252], large, panel()[:252]):
            asked = inputs({"PANEL": np.ascontiguousarray(returns), "UNIVERSES": universes(2, 30, 0)})
            with triton.InferenceServerClient(service.url) as client:
                try:
                    client.infer("shrinkage", asked, client_timeout=30)
                    outcomes.append("answered")
                except triton.InferenceServerException as error:
                    outcomes.append(str(error)[:160])
        deaths = len(service.events("died"))
    return {"small": outcomes[0], "large": outcomes[1], "small_again": outcomes[2], "server_deaths": deaths}


def soak(service: Service, n_requests: int = 20_000, n_callers: int = 4) -> Figures:
    """Requests of all kinds and sizes, good and bad; memory when a tenth is done, and at the end."""
    returns = panel()
    counts: Counter[str] = Counter()
    memory: list[dict[str, float]] = []
    todo = iter(range(n_requests))
    lock = threading.Lock()

    def call(caller: int) -> None:
        rng = np.random.default_rng(caller)
        with ShrinkageClient(service.url, deadline_s=120.0) as client:
            while True:
                with lock:
                    k = next(todo, None)
                if k is None:
                    return
                if k in (n_requests // 10, n_requests // 2):
                    memory.append(service.memory_mb())
                n, size, rows = int(rng.integers(1, 9)), int(rng.integers(1, 120)), int(rng.integers(5, 504))
                asked = universes(n, size, k)
                if rng.random() < 0.1:
                    asked[0, 0] = 9_999
                try:
                    answer = client.estimate(returns[:rows], asked, covariance=bool(rng.random() < 0.3))
                    counts["bad_universes"] += len(answer.failures)
                    counts["answered"] += 1
                except InvalidRequest:
                    counts["refused"] += 1
                except SigmahatError:
                    counts["lost"] += 1

    begin = time.monotonic()
    callers = [threading.Thread(target=call, args=(k,)) for k in range(n_callers)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    memory.append(service.memory_mb())
    growth = {name: round(memory[-1][name] - memory[0][name], 1) for name in memory[0]}
    return {
        "requests": n_requests,
        "lost": counts["lost"],
        **{name: counts[name] for name in ("answered", "refused", "bad_universes")},
        "mb_after_a_tenth": {name: round(mb, 1) for name, mb in memory[0].items()},
        "mb_grown_since": growth,
        "seconds": round(time.monotonic() - begin, 1),
    }


# ------------------------------------------------------------------------------------------------- malformed input


class Raw:
    """The bare gRPC stub, through which anything can be sent."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.insecure_channel(url, options=[("grpc.max_receive_message_length", -1)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.codes: Counter[str] = Counter()

    def send(self, request: ModelInferRequest, timeout_s: float = 30.0) -> service_pb2.ModelInferResponse | None:
        """Send and count the code; None where the server refused."""
        try:
            answer = self._stub.ModelInfer(request, timeout=timeout_s)
        except grpc.RpcError as error:
            self.codes[error.code().name] += 1
            if "Traceback" in (error.details() or ""):
                self.codes["stack trace"] += 1
            return None
        self.codes["OK"] += 1
        return answer

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def message(arrays: dict[str, np.ndarray], model: str = "shrinkage") -> ModelInferRequest:
    """A request in protobuf."""
    request = ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        kind = {"f4": "FP32", "i4": "INT32"}[array.dtype.str[1:]]
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


@st.composite
def malformed(draw: st.DrawFn) -> ModelInferRequest:
    """A small request with up to four things wrong: tensors, names, types, shapes, bytes, values, parameters."""
    n_rows, n_columns, n, size = (draw(st.integers(0, most)) for most in (60, 12, 4, 6))
    floats = st.sampled_from([0.01, -0.02, 0.0, np.nan, np.inf, -np.inf, 1e38, 1e-45, 99.0])
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    returns = (0.01 * rng.standard_normal((n_rows, n_columns))).astype(np.float32)
    for _ in range(draw(st.integers(0, 3)) if returns.size else 0):
        returns.flat[draw(st.integers(0, returns.size - 1))] = draw(floats)
    whole = st.one_of(st.integers(-2, 14), st.sampled_from([-(2**31), 2**31 - 1]))

    def numbers(*shape: int) -> np.ndarray:
        many = int(np.prod(shape))
        return np.array(draw(st.lists(whole, min_size=many, max_size=many)), np.int32).reshape(shape)

    arrays = {"PANEL": returns, "UNIVERSES": numbers(n, size)}
    optional = {
        "WINDOWS": lambda: numbers(n, 2),
        "DATES": lambda: np.arange(n_rows, dtype=np.int32),
        "BLOCKS": lambda: numbers(n, size),
        "MARKET": lambda: np.ones((n_rows, draw(st.integers(0, 5))), np.float32),
    }
    for name in draw(st.sets(st.sampled_from(sorted(optional)))):
        arrays[name] = optional[name]()
    request = message(arrays, draw(st.sampled_from(["shrinkage", "covariance", "shrinkage", "features-r1", "", "x\n"])))
    for _ in range(draw(st.integers(0, 4))):
        _spoil(draw, request)
    return request


def _spoil(draw: st.DrawFn, request: ModelInferRequest) -> None:
    kinds = ["version", "id", "output", "parameter", "extra"] + ["drop", "name", "type", "shape", "bytes", "typed"] * 2
    kind = draw(st.sampled_from(kinds))
    if kind == "version":
        request.model_version = draw(st.sampled_from(["1", "2", "99", "-1", "x", "18446744073709551616"]))
    elif kind == "id":
        request.id = draw(st.text(max_size=20))
    elif kind == "output":
        name = draw(st.sampled_from(["INTENSITY", "COVARIANCE", "PARAMETERS_INTERNAL", "", "nothing"]))
        output = request.outputs.add(name=name)
        if draw(st.booleans()):
            output.parameters["shared_memory_region"].string_param = "nowhere"
            output.parameters["shared_memory_byte_size"].int64_param = draw(st.integers(-1, 2**40))
    elif kind == "parameter":
        name = draw(st.sampled_from(["classic", "timeout", "priority", "sequence_id", "sequence_start", "x"]))
        parameter = request.parameters[name]
        match draw(st.integers(0, 3)):
            case 0:
                parameter.bool_param = draw(st.booleans())
            case 1:
                parameter.int64_param = draw(st.integers(-1, 2**40))
            case 2:
                parameter.string_param = draw(st.text(max_size=8))
            case 3:
                parameter.double_param = draw(st.floats())
    elif kind == "extra":
        request.raw_input_contents.append(draw(st.binary(max_size=16)))
    elif len(request.inputs):
        k = draw(st.integers(0, len(request.inputs) - 1))
        tensor = request.inputs[k]
        if kind == "drop":
            del request.inputs[k]
            if draw(st.booleans()) and k < len(request.raw_input_contents):
                del request.raw_input_contents[k]
        elif kind == "name":
            tensor.name = draw(st.sampled_from(["PANEL", "UNIVERSES", "WINDOWS", "", "\0", "x" * 999]))
        elif kind == "type":
            tensor.datatype = draw(st.sampled_from(["FP32", "INT32", "INT64", "FP64", "BYTES", "BOOL", "", "x"]))
        elif kind == "shape":
            # Odd, so that no product of them is 0 modulo 2^64: see shape_overflow.
            dimension = st.one_of(st.integers(-2, 70), st.sampled_from([1_000_003, 2**62 + 1, -(2**63)]))
            tensor.shape[:] = draw(st.lists(dimension, max_size=4))
        elif kind == "bytes" and k < len(request.raw_input_contents):
            old = request.raw_input_contents[k]
            request.raw_input_contents[k] = draw(st.sampled_from([old[:-1], old[:-4], old + b"\0" * 4, b"", old * 2]))
        elif kind == "typed":
            tensor.contents.fp32_contents.extend([0.01] * draw(st.integers(0, 30)))


def shape_overflow(service: Service) -> Figures:
    """A shape of 0 bytes modulo 2^64: Triton 2.51 lets it pass, and a Python model's process dies of it.

    No model can prevent that; the service must be well again by itself.
    """
    deaths = len(service.events("died"))
    request = message(tensors(1, 20, 0))
    request.inputs[0].shape[:] = [2**62, 1]
    request.raw_input_contents[0] = b""
    raw = Raw(service.url)
    raw.send(request)
    raw.close()
    wait_for(lambda: len(service.events("died")) > deaths)
    begin = time.monotonic()
    wait_for(lambda: not probe(service.url, 1.0))
    return {"server_deaths": len(service.events("died")) - deaths, "recovery_s": round(time.monotonic() - begin, 2)}


def bad_requests(service: Service, n_requests: int) -> Figures:
    """Generated requests straight to the gRPC port; a good neighbour must get its answer, bit by bit, all along."""
    raw, deaths = Raw(service.url), len(service.events("died"))
    asked = message(tensors(3, 20, 1))

    def ask() -> dict[str, bytes]:
        answer = raw.send(asked)
        return dict(zip((t.name for t in answer.outputs), answer.raw_output_contents, strict=True)) if answer else {}

    first = ask()
    assert first
    sent, neighbours = Counter[str](), Counter[str]()

    def judge(answer: dict[str, bytes]) -> str:
        return "unanswered" if not answer else "right" if answer == first else "wrong"

    @settings(
        max_examples=n_requests,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(malformed())
    def send(request: ModelInferRequest) -> None:
        raw.send(request)
        sent["requests"] += 1
        if sent["requests"] % 20 == 0:
            neighbours[judge(ask())] += 1

    send()
    raw.close()
    return {
        **sent,
        "codes": dict(raw.codes),
        "hung": raw.codes["DEADLINE_EXCEEDED"],
        "stack_traces": raw.codes["stack trace"],
        "neighbours": neighbours.total(),
        "wrong_neighbours": neighbours["wrong"],
        "unanswered_neighbours": neighbours["unanswered"],
        "server_deaths": len(service.events("died")) - deaths,
        "death_reasons": [event["reason"] for event in service.events("died")[deaths:]],
    }
