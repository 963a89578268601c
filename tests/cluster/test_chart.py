# SPDX-License-Identifier: Apache-2.0
"""The chart: what a switch changes, what must always hold, what Kubernetes, its operators and policies accept."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.conftest import CHART, ROOT, TOOLS, Render, helm_template, kinds, only, run, tool

from sigmahat_kernels.metrics import QUEUED_COST

VALUES = sorted(path.name for path in (CHART / "values").glob("*.yaml"))
CUSTOM = {"ScaledObject", "PrometheusRule", "ServiceMonitor"}
EVERYTHING = {
    "autoscaling__kind": "keda",
    "autoscaling__schedules": [{"timezone": "UTC", "start": "0 1 * * *", "end": "0 2 * * *", "replicas": 3}],
    "cache__storageClass": "shared",
    "engines__build": "jobs",
    "envoy__enabled": True,
    "gpu__products": ["NVIDIA-L4"],
    "monitoring": {"serviceMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "p"}},
    "tls": {"certificate": "certificates", "clientCa": True},
}

pytestmark = pytest.mark.skipif(not (TOOLS / "helm").exists(), reason="no helm here: make test-deploy")


def server(documents: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = only(documents, "Deployment", "rel-sigmahat")["spec"]["template"]["spec"]
    return pod


def container(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = server(documents)["containers"]
    return dict(found)


@pytest.mark.parametrize("values", VALUES)
def test_lint(values: str) -> None:
    run(tool("helm"), "lint", "--strict", CHART, "--values", CHART / "values" / values)


@pytest.mark.parametrize("version", ["1.30", "1.33", "1.37"])
@pytest.mark.parametrize("values", [*VALUES, "everything"])
def test_kubernetes_knows_every_field(render: Render, tmp_path: Path, values: str, version: str) -> None:
    documents = render(**EVERYTHING) if values == "everything" else render(values)
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(d for d in documents if d["kind"] not in CUSTOM))
    done = run(tool("kubernetes-validate"), "-k", version, "--strict", file)
    assert "WARN" not in done.stdout + done.stderr  # a kind without a schema is only warned of


def test_kubernetes_before_sleeping_hooks_is_refused() -> None:
    assert "incompatible with Kubernetes v1.29" in helm_template("--kube-version", "1.29.0").stderr


def check_custom(documents: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    python, program = TOOLS / "python", ROOT / "tests/cluster/check_custom_resources.py"
    given = json.dumps(documents)
    return subprocess.run([python, program], input=given, capture_output=True, text=True, check=False)


def test_operators_know_every_field(render: Render) -> None:
    documents = [d for d in render(**EVERYTHING) if d["kind"] in CUSTOM]
    assert {d["kind"] for d in documents} == CUSTOM
    done = check_custom(documents)
    assert done.returncode == 0, done.stderr
    documents[0]["spec"]["mispelt"] = 1
    assert "mispelt" in check_custom(documents).stderr


@pytest.mark.parametrize("values", [*VALUES, "everything"])
def test_policies(render: Render, tmp_path: Path, values: str) -> None:
    documents = render(**EVERYTHING) if values == "everything" else render(values)
    file = tmp_path / "all.yaml"
    lasting = [d for d in documents if "helm.sh/hook" not in d["metadata"].get("annotations", {})]
    for document in lasting:
        document["metadata"]["namespace"] = "risk"  # helm's --namespace is not in what it prints
    file.write_text(yaml.safe_dump_all(lasting))
    # Digests are the operator's to give, and an image with a version needs no new pull at every start.
    skipped = ["CKV_K8S_43", "CKV_K8S_15"]
    options = ["--framework", "kubernetes", "--skip-download", "--compact", "--quiet"]
    run(tool("checkov"), "--file", file, *options, "--skip-check", ",".join(skipped))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["mispelt=1"], "additional properties 'mispelt' not allowed"),
        (["gpu.cuont=1"], "additional properties 'cuont' not allowed"),
        (["device=tpu"], "value must be one of 'gpu', 'cpu'"),
        (["replicas=0"], "minimum: got 0, want 1"),
        (["image.tag=latest"], "/image/tag"),
        (["image.digest=sha256:1"], "does not match pattern"),
        (["gpu.resource=gpu"], "does not match pattern"),
        (["gpu.resource=nvidia.com/gpu.shared", "gpu.count=2"], "/gpu/count"),
        (["autoscaling.kind=both"], "/autoscaling/kind"),
        (["tls.clientCa=true"], "/tls/certificate"),
        (["device=cpu", "tls.certificate=s"], "/envoy/enabled"),
        (["device=cpu", "drain.exitTimeoutSeconds=59"], "/drain/exitTimeoutSeconds"),
        (["engines.build=jobs", "cache.storageClass=shared"], "/gpu/products"),
        (["engines.build=jobs", "gpu.products={NVIDIA-L4}"], "/cache/storageClass"),
        (
            [
                "engines.build=jobs",
                "gpu.products={NVIDIA-L4}",
                "cache.storageClass=a",
                "cache.accessMode=ReadWriteOnce",
            ],
            "/cache/accessMode",
        ),
        (
            ["autoscaling.kind=hpa", "autoscaling.minReplicas=9"],
            "autoscaling.minReplicas must be at most maxReplicas, got 9 and 8",
        ),
    ],
)
def test_wrong_values_are_refused_with_their_place(settings: list[str], words: str) -> None:
    done = helm_template(*(word for setting in settings for word in ("--set", setting)))
    assert done.returncode != 0
    assert words in done.stderr


# What must hold for every set of values.


@pytest.fixture(params=[*VALUES, "everything", ""])
def documents(request: pytest.FixtureRequest, render: Render) -> list[dict[str, Any]]:
    return render(**EVERYTHING) if request.param == "everything" else render(request.param)


def test_a_pod_ends_after_its_clients_have_left(documents: list[dict[str, Any]]) -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["drain"]
    pod = server(documents)
    pre_stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    age = defaults["connectionAgeSeconds"]
    assert pre_stop >= 1.1 * age + defaults["dnsMinimumSeconds"] + defaults["longestRequestSeconds"]
    assert pod["terminationGracePeriodSeconds"] >= pre_stop + defaults["exitTimeoutSeconds"] + 15
    arguments = pod["containers"][0]["args"]
    of_triton, of_serve = f"--grpc-max-connection-age={1000 * age}", f"--connection-age-s={age}"
    assert [a for a in arguments if "connection-age" in a and "grace" not in a] in ([of_triton], [of_serve])


def test_selectors_meet_pods_and_ports_have_names(documents: list[dict[str, Any]]) -> None:
    pods = [d["spec"]["template"] for d in documents if d["kind"] in ("Deployment", "Job")]
    pods += [d for d in documents if d["kind"] == "Pod"]

    def selected(labels: dict[str, str]) -> list[dict[str, Any]]:
        return [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]

    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "Service":
            (pod,) = selected(spec["selector"])
            names = {port["name"] for c in pod["spec"]["containers"] for port in c["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= names
        elif document["kind"] in ("Deployment", "PodDisruptionBudget"):
            assert len(selected(spec["selector"]["matchLabels"])) == 1
        elif document["kind"] == "NetworkPolicy":
            found = selected(spec["podSelector"]["matchLabels"])
            ports = {port["name"] for pod in found for c in pod["spec"]["containers"] for port in c.get("ports", [])}
            named = {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]}
            assert named <= ports
        elif document["kind"] == "ServiceMonitor":
            services = [d for d in documents if d["kind"] == "Service"]
            wanted = spec["selector"]["matchLabels"].items()
            (service,) = [s for s in services if wanted <= s["metadata"]["labels"].items()]
            assert {e["port"] for e in spec["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


def test_every_container_is_confined(documents: list[dict[str, Any]]) -> None:
    pods = [d["spec"]["template"]["spec"] for d in documents if d["kind"] in ("Deployment", "Job")]
    pods += [d["spec"] for d in documents if d["kind"] == "Pod"]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in pod["volumes"]}
        for c in pod["containers"] + pod.get("initContainers", []):
            assert c["securityContext"]["readOnlyRootFilesystem"] is True
            assert c["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert c["resources"]["requests"] == c["resources"]["limits"]
            assert {mount["name"] for mount in c["volumeMounts"]} <= volumes


def test_shared_memory_is_part_of_the_memory(documents: list[dict[str, Any]]) -> None:
    pod = server(documents)
    (shared,) = [v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == "shm"]
    memory = pod["containers"][0]["resources"]["limits"]["memory"]
    assert int(memory.removesuffix("Mi")) >= int(shared.removesuffix("Mi")) + 2048


def test_one_autoscaler_at_most_and_it_alone_counts_replicas(documents: list[dict[str, Any]]) -> None:
    scalers = kinds(documents) & {"HorizontalPodAutoscaler", "ScaledObject"}
    assert len(scalers) <= 1
    assert ("replicas" in only(documents, "Deployment", "rel-sigmahat")["spec"]) == (not scalers)


def test_golden_files_are_the_projects() -> None:
    for path in (CHART / "golden").glob("*.json"):
        assert path.read_text() == (ROOT / "docs" / "golden" / path.name).read_text()


def test_versions_are_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (version,) = re.findall(r'(?m)^version = "(.*)"', (ROOT / "pyproject.toml").read_text())
    assert chart["version"] == chart["appVersion"] == version


# What a switch changes.


def test_image(render: Render) -> None:
    assert container(render())["image"] == "registry.example.com/sigmahat:0.1.0-gpu"
    assert container(render(device="cpu"))["image"] == "registry.example.com/sigmahat:0.1.0-cpu"
    digest = "sha256:" + "a" * 64
    assert container(render(image__digest=digest, image__tag="1"))["image"] == f"registry.example.com/sigmahat@{digest}"
    pod = server(render(image__pullSecrets=["a"], image__pullPolicy="Always"))
    assert pod["imagePullSecrets"] == [{"name": "a"}]
    assert {c["imagePullPolicy"] for c in pod["containers"] + pod["initContainers"]} == {"Always"}


def test_device(render: Render) -> None:
    gpu, cpu = render(), render(device="cpu")
    assert container(gpu)["command"] == ["tritonserver"]
    assert "--model-config-name=gpu" in container(gpu)["args"]
    assert container(cpu)["command"] == ["sigmahat", "serve"]
    assert "initContainers" not in server(cpu)
    assert "nvidia.com/gpu" in container(gpu)["resources"]["limits"]
    assert container(cpu)["resources"]["limits"].keys() == {"cpu", "memory", "ephemeral-storage"}


@pytest.mark.parametrize(
    ("resource", "count"), [("nvidia.com/mig-1g.10gb", 1), ("nvidia.com/gpu.shared", 1), ("nvidia.com/gpu", 4)]
)
def test_gpu_slices_and_several_gpus(render: Render, resource: str, count: int) -> None:
    pod = server(render(gpu__resource=resource, gpu__count=count))
    for c in pod["containers"] + pod["initContainers"]:  # engines are built on what serves
        assert c["resources"]["limits"][resource] == str(count)
        assert "nvidia.com/gpu" in (resource, *c["resources"]["limits"]) or count == 1


def test_gpu_products(render: Render) -> None:
    assert "affinity" not in server(render())
    affinity = server(render(gpu__products=["NVIDIA-L4", "NVIDIA-H200"]))["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (expression,) = term["matchExpressions"]
    assert expression == {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4", "NVIDIA-H200"]}


def test_engines(render: Render) -> None:
    command = server(render(engines__precision="fp16"))["initContainers"][0]["command"][-1]
    assert command.endswith("--model-repository /models --cache /var/cache/sigmahat/engines --precision fp16")
    fused = render(engines__fused=True)
    assert server(fused)["initContainers"][0]["command"][-1].endswith(" --fused")
    assert {"--model-config-name=gpu_fused", "--load-model=shrinkage"} <= set(container(fused)["args"])
    assert "Job" not in kinds(render())


def test_engine_jobs_are_one_a_product_and_new_for_a_new_image(render: Render) -> None:
    settings = {
        "engines__build": "jobs",
        "cache__storageClass": "shared",
        "gpu__products": ["NVIDIA-H100-80GB-HBM3", "NVIDIA-H200"],
    }
    jobs = [d for d in render(**settings) if d["kind"] == "Job"]
    assert [job["metadata"]["annotations"]["sigmahat/gpu-product"] for job in jobs] == settings["gpu__products"]
    again = [d for d in render(**settings, image__tag="2") if d["kind"] == "Job"]
    assert not {job["metadata"]["name"] for job in jobs} & {job["metadata"]["name"] for job in again}


def test_cache(render: Render) -> None:
    def volume(documents: list[dict[str, Any]]) -> dict[str, Any]:
        (found,) = [v for v in server(documents)["volumes"] if v["name"] == "cache"]
        return dict(found)

    assert "emptyDir" in volume(render())
    made = render(cache__storageClass="fast", cache__sizeGiB=3)
    claim = only(made, "PersistentVolumeClaim")
    assert volume(made)["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"
    given = render(cache__existingClaim="mine", cache__storageClass="fast")
    assert volume(given)["persistentVolumeClaim"]["claimName"] == "mine"
    assert "PersistentVolumeClaim" not in kinds(given)


def test_shared_memory_formula(render: Render) -> None:
    def size(**settings: Any) -> str:
        (found,) = [v for v in server(render(**settings))["volumes"] if v["name"] == "shm"]
        return str(found["emptyDir"]["sizeLimit"])

    def instances(form: str) -> int:
        steps = [path.parents[1] / form for path in (ROOT / "model_repository").glob("*/1/model.py")]
        counts = [re.findall(r"instance_group.*count: (\d+)", step.read_text()) for step in steps if step.exists()]
        return sum(int(count) for (count,) in counts)

    on_gpu, on_cpu = instances("configs/gpu.pbtxt"), instances("config.pbtxt")
    assert size() == f"{500 * on_gpu}Mi"  # 2.5 x 200 MiB
    assert size(gpu__count=2) == f"{1000 * on_gpu}Mi"
    assert size(device="cpu", sharedMemory__largestRequestMiB=1000) == f"{2500 * on_cpu}Mi"
    assert size(sharedMemory__largestRequestMiB=10) == "1024Mi"
    assert size(sharedMemory__sizeMiB=77) == "77Mi"


def test_probes(render: Render) -> None:
    c = container(render(probes__progressSeconds=33, probes__startupSeconds=100))
    assert c["startupProbe"]["exec"]["command"] == ["sigmahat", "probe"]
    assert c["startupProbe"]["failureThreshold"] * c["startupProbe"]["periodSeconds"] == 100
    for kind in ("readinessProbe", "livenessProbe"):
        assert c[kind]["exec"]["command"] == ["sigmahat", "probe", "--or-progress-within-s=33"]
        assert c[kind]["timeoutSeconds"] > 2 * 5  # the inference and the metrics may each take 5 s


def test_autoscaling_looks_at_what_waits_where_it_waits(render: Render) -> None:
    for device, metric, target in (
        ("gpu", "nv_inference_pending_request_count", "8"),
        ("cpu", QUEUED_COST.name, "10000"),
    ):
        hpa = only(render(device=device, autoscaling__kind="hpa"), "HorizontalPodAutoscaler")["spec"]
        assert hpa["metrics"][0]["pods"]["metric"]["name"] == metric
        assert hpa["metrics"][0]["pods"]["target"]["averageValue"] == target


def test_autoscaling(render: Render) -> None:
    hpa = only(render(autoscaling__kind="hpa", autoscaling__metric="a_metric"), "HorizontalPodAutoscaler")["spec"]
    assert hpa["metrics"][0]["pods"]["metric"]["name"] == "a_metric"
    assert hpa["scaleTargetRef"]["name"] == "rel-sigmahat"
    keda = only(render(**EVERYTHING, autoscaling__metric="a_metric"), "ScaledObject")["spec"]
    prometheus, cron = keda["triggers"]
    assert 'a_metric{namespace="risk"' in prometheus["metadata"]["query"]
    assert prometheus["metadata"]["ignoreNullValues"] == "false"
    assert cron["metadata"]["desiredReplicas"] == "3"


def test_disruption_budget(render: Render) -> None:
    assert only(render(), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert "PodDisruptionBudget" not in kinds(render(disruptionBudget__enabled=False))
    assert len([d for d in render(**EVERYTHING) if d["kind"] == "PodDisruptionBudget"]) == 2


def test_network_policy(render: Render) -> None:
    policy = only(render(), "NetworkPolicy", "rel-sigmahat")["spec"]
    assert policy["egress"] == []
    callers = policy["ingress"][0]["from"]
    assert {"podSelector": {"matchLabels": {"sigmahat-client": "true"}}} in callers
    behind = only(render(envoy__enabled=True), "NetworkPolicy", "rel-sigmahat")["spec"]["ingress"][0]["from"]
    (peer,) = behind
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "envoy"
    assert "NetworkPolicy" not in kinds(render(networkPolicy__enabled=False))


def test_tls(render: Render) -> None:
    at_server = render(tls={"certificate": "s", "clientCa": True})
    assert {"--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true"} <= set(container(at_server)["args"])
    assert "--grpc-use-ssl-mutual=true" not in container(render(tls__certificate="s"))["args"]
    assert "s" in [v.get("secret", {}).get("secretName") for v in server(at_server)["volumes"]]
    at_envoy = render(envoy__enabled=True, tls__certificate="s")
    assert not any("ssl" in argument for argument in container(at_envoy)["args"])
    configuration = yaml.safe_load(only(at_envoy, "ConfigMap", "rel-sigmahat-envoy")["data"]["envoy.yaml"])
    listener = configuration["static_resources"]["listeners"][0]["filter_chains"][0]
    assert "require_client_certificate" not in listener["transport_socket"]["typed_config"]
    assert not any("ssl" in argument for argument in container(render())["args"])


def test_monitoring(render: Render) -> None:
    assert not kinds(render()) & CUSTOM
    on = render(monitoring={"serviceMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "p"}})
    for document in (
        only(on, "ServiceMonitor"),
        only(on, "PrometheusRule"),
        only(on, "ConfigMap", "rel-sigmahat-dashboard"),
    ):
        assert document["metadata"]["labels"]["release"] == "p"
    assert only(on, "PrometheusRule")["spec"] == yaml.safe_load((CHART / "monitoring" / "rules.yaml").read_text())


def test_scheduling(render: Render) -> None:
    pod = server(render(nodeSelector={"a": "b"}, tolerations=[], priorityClassName="high"))
    assert pod["nodeSelector"] == {"a": "b"}
    assert "tolerations" not in pod
    assert pod["priorityClassName"] == "high"
    template = only(render(podLabels={"a": "b"}, podAnnotations={"c": "d"}), "Deployment", "rel-sigmahat")["spec"]
    assert template["template"]["metadata"]["labels"]["a"] == "b"
    assert template["template"]["metadata"]["annotations"] == {"c": "d"}
    assert container(render(extraArguments=["--log-verbose=1"]))["args"][-1] == "--log-verbose=1"


def test_envoy(render: Render, tmp_path: Path) -> None:
    assert not [d for d in render() if d["metadata"]["name"].endswith("-envoy")]
    documents = render(**EVERYTHING)
    data = only(documents, "ConfigMap", "rel-sigmahat-envoy")["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text.replace("/etc/envoy", str(tmp_path)))
    run(tool("envoy"), "--mode", "validate", "--log-level", "error", "-c", tmp_path / "envoy.yaml")


@pytest.mark.parametrize(
    ("drain", "pre_stop"),
    [
        ({"connectionAgeSeconds": 100}, 110 + 5 + 6),
        ({"dnsMinimumSeconds": 9, "longestRequestSeconds": 31}, 33 + 9 + 31),
    ],
)
@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_drain(render: Render, device: str, drain: dict[str, int], pre_stop: int) -> None:
    pod = server(render(device=device, drain={**drain, "exitTimeoutSeconds": 70}))
    assert pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == pre_stop
    assert pod["terminationGracePeriodSeconds"] == pre_stop + 70 + 15


def test_notes_say_what_matters_for_these_values() -> None:
    def notes(*settings: str) -> str:
        options = [word for setting in settings for word in ("--set", setting)]
        command = [tool("helm"), "install", "rel", CHART, "--dry-run=client", "--namespace", "risk", *options]
        return run(*command).stdout.partition("NOTES:")[2]

    plain = notes()
    assert "rel-sigmahat.risk.svc:8001" in plain
    assert "helm -n risk test rel" in plain
    assert "image.digest" in plain
    assert "Engines are built anew" in plain
    assert "rollout restart" not in plain
    assert "rollout restart" in notes("tls.certificate=s")
    behind = notes("envoy.enabled=true", "tls.certificate=s", f"image.digest=sha256:{64 * 'a'}", "cache.storageClass=x")
    assert "(with TLS):  rel-sigmahat-envoy.risk.svc:8001" in behind
    assert not [words for words in ("image.digest", "Engines are built anew", "rollout restart") if words in behind]


DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
ANOTHER: dict[str, Any] = {
    "image.repository": "elsewhere.example/s",
    "image.tag": "7",
    "image.digest": f"sha256:{64 * 'b'}",
    "image.pullPolicy": "Always",
    "image.pullSecrets": ["a"],
    "device": "cpu",
    "gpu.resource": "nvidia.com/mig-1g.10gb",
    "gpu.products": ["NVIDIA-L40S"],
    "engines.build": "initContainer",
    "engines.precision": "fp16",
    "cache.existingClaim": "mine",
    "cache.storageClass": "other",
    "cache.accessMode": "ReadWriteOnce",
    "autoscaling.kind": "hpa",
    "autoscaling.metric": "a_metric",
    "autoscaling.prometheus": "http://elsewhere:9090",
    "autoscaling.schedules": [],
    "networkPolicy.clients": [{"podSelector": {}}],
    "networkPolicy.monitoring": [{"podSelector": {}}],
    "monitoring.labels": {"a": "b"},
    "tls.certificate": "other",
    "envoy.image": "envoy:1",
    "nodeSelector": {"a": "b"},
    "tolerations": [],
    "priorityClassName": "high",
    "podLabels": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "extraArguments": ["--log-verbose=1"],
}
"""A value that differs, where the other side of a switch, or one more, does not do."""

BESIDE: dict[str, dict[str, Any]] = {
    "replicas": {"autoscaling__kind": "none"},
    "cache.accessMode": {"engines__build": "initContainer"},
}
"""What a value needs beside it to be of any effect, or to be allowed."""


def leaves(values: dict[str, Any], begin: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        path = f"{begin}{name}"
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def test_every_value_changes_something(render: Render) -> None:
    everything: dict[str, Any] = {}
    for name, value in EVERYTHING.items():  # as leaves, so that one of them can be changed
        everything |= {f"{name}__{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    unchanged = render(**everything)
    idle = []
    for path, default in leaves(DEFAULTS):
        name = path.replace(".", "__")
        given = everything.get(name, default)
        other = not given if isinstance(given, bool) else ANOTHER.get(path, given)
        if isinstance(given, int) and other == given:
            other = given + 1
        assert other != given, f"no other value is known for {path}"
        beside = BESIDE.get(path, {})
        before = render(**{**everything, **beside}) if beside else unchanged
        if render(**{**everything, **beside, name: other}) == before:
            idle.append(path)
    assert idle == []


def test_golden_test_pod(render: Render) -> None:
    pod = only(render(), "Pod")
    assert pod["spec"]["containers"][0]["command"][2:] == ["rel-sigmahat.risk.svc:8001"]
    behind = only(render(**EVERYTHING), "Pod")
    assert behind["spec"]["containers"][0]["command"][2:] == ["rel-sigmahat-envoy.risk.svc:8001", "/tls"]
    assert {"golden_inference.py", "shrinkage.request.json"} <= only(render(), "ConfigMap")["data"].keys()
