"""What the overlays render to: valid for Kubernetes 1.34, restricted, and consistent in itself."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from shardwright_benchmark_worker.errors import OptionError, StoreError
from shardwright_server.server import SERVICES
from shardwright_server.settings import Settings

KUBERNETES_VERSION = "1.34"
REPOSITORY = Path(__file__).parents[2]
Manifest = dict[str, Any]


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in manifests if m["kind"] == kind}


def pod_templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    found = {}
    for m in manifests:
        name = f"{m['kind']}/{m['metadata']['name']}"
        if m["kind"] in ("Deployment", "Job"):
            found[name] = m["spec"]["template"]
        elif m["kind"] == "CronJob":
            found[name] = m["spec"]["jobTemplate"]["spec"]["template"]
    return found


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for name, template in pod_templates(manifests).items():
        for container in (
            *template["spec"].get("initContainers", []),
            *template["spec"]["containers"],
        ):
            yield f"{name}/{container['name']}", container


def server_of(manifests: list[Manifest]) -> Manifest:
    (container,) = pod_templates(manifests)["Deployment/shardwright-server"]["spec"]["containers"]
    return dict(container)


def test_the_overlays_are_those_documented(overlay: str) -> None:
    assert overlay in {"dev", "prod"}


def test_every_manifest_is_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] not in ("ServiceMonitor", "PodMonitor"):
            kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def test_the_validation_finds_mistakes(manifests: list[Manifest]) -> None:
    (deployment,) = of_kind(manifests, "Deployment").values()
    typo = {**deployment, "spec": {**deployment["spec"], "replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(typo, KUBERNETES_VERSION, strict=True)


def test_what_must_be_there_is_there(overlay: str, manifests: list[Manifest]) -> None:
    kinds = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    expected = {
        ("Deployment", "shardwright-server"),
        ("Service", "shardwright-server"),
        ("Service", "shardwright-server-metrics"),
        ("Service", "shardwright-worker-comm"),
        ("PodDisruptionBudget", "shardwright-server"),
        ("ServiceAccount", "shardwright"),
        ("NetworkPolicy", "shardwright"),
        ("NetworkPolicy", "shardwright-server"),
        ("CronJob", "shardwright-trainer"),
        ("Job", "shardwright-worker-compute"),
        ("Job", "shardwright-worker-comm"),
    }
    only = {
        "dev": {("PersistentVolumeClaim", "shardwright-data")},
        "prod": {
            ("HorizontalPodAutoscaler", "shardwright-server"),
            ("ServiceMonitor", "shardwright-server"),
            ("PodMonitor", "shardwright-worker"),
        },
    }
    assert kinds >= expected | only[overlay]


def test_everything_lives_in_the_overlays_own_restricted_namespace(
    manifests: list[Manifest],
) -> None:
    ((name, namespace),) = of_kind(manifests, "Namespace").items()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {m["metadata"]["namespace"] for m in manifests if m["kind"] != "Namespace"} == {name}


def test_every_pod_is_restricted(manifests: list[Manifest]) -> None:
    """The restricted Pod Security Standard, and a read-only root file system beyond it."""
    templates = pod_templates(manifests)
    assert len(templates) == 4
    for name, template in templates.items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        allowed = {"emptyDir", "persistentVolumeClaim"}
        assert all(set(v) - {"name"} <= allowed for v in spec["volumes"]), name
    for name, container in containers(manifests):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert "/tmp" in {m["mountPath"] for m in container["volumeMounts"]}, name


def test_every_container_requests_and_limits_resources(manifests: list[Manifest]) -> None:
    for name, container in containers(manifests):
        for which in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][which]), name


def test_every_mount_has_its_volume(manifests: list[Manifest]) -> None:
    claims = of_kind(manifests, "PersistentVolumeClaim")
    for name, template in pod_templates(manifests).items():
        volumes = {v["name"]: v for v in template["spec"]["volumes"]}
        mounted = {m["name"] for c in template["spec"]["containers"] for m in c["volumeMounts"]}
        assert mounted == set(volumes), name
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in claims, name


def test_every_config_map_that_is_named_exists(manifests: list[Manifest]) -> None:
    config_maps = of_kind(manifests, "ConfigMap")
    named = {
        source["configMapRef"]["name"]
        for _, container in containers(manifests)
        for source in container["envFrom"]
        if "configMapRef" in source
    }
    assert named == set(config_maps)


def test_every_argument_variable_is_in_the_config_map(manifests: list[Manifest]) -> None:
    config_maps = of_kind(manifests, "ConfigMap")
    for name, container in containers(manifests):
        used = {a.split("$(")[1].split(")")[0] for a in container["args"] if "$(" in a}
        given: set[str] = set()
        for source in container["envFrom"]:
            if "configMapRef" in source:
                given |= set(config_maps[source["configMapRef"]["name"]]["data"])
        assert used <= given, name


def test_every_variable_of_the_server_is_one_of_its_settings(manifests: list[Manifest]) -> None:
    known = {f"SHARDWRIGHT_{name.upper()}" for name in Settings.model_fields}
    (config,) = (
        m
        for name, m in of_kind(manifests, "ConfigMap").items()
        if name.startswith("shardwright-server")
    )
    assert set(config["data"]) <= known
    Settings.model_validate(
        {k.removeprefix("SHARDWRIGHT_").lower(): v for k, v in config["data"].items()}
    )


def test_probes_ask_the_grpc_port_about_services_that_exist(manifests: list[Manifest]) -> None:
    server = server_of(manifests)
    ports = {p["name"]: p["containerPort"] for p in server["ports"]}
    assert server["args"] == [
        *("--port", str(ports["grpc"])),
        *("--metrics-port", str(ports["metrics"])),
    ]
    services = {"", *(s.full_name for s in SERVICES)}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["grpc"]["port"] == ports["grpc"], probe
        assert server[probe]["grpc"].get("service", "") in services, probe


def test_services_and_policies_reach_the_server_by_its_ports(manifests: list[Manifest]) -> None:
    template = pod_templates(manifests)["Deployment/shardwright-server"]
    labels = template["metadata"]["labels"].items()
    ports = {p["name"] for p in server_of(manifests)["ports"]}
    services = of_kind(manifests, "Service")
    del services["shardwright-worker-comm"]
    for service in services.values():
        assert service["spec"]["clusterIP"] == "None", "gRPC is balanced by its clients"
        assert service["spec"]["selector"].items() <= labels
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports
    policy = of_kind(manifests, "NetworkPolicy")["shardwright-server"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels
    assert {p["port"] for rule in policy["ingress"] for p in rule["ports"]} == ports
    budget = of_kind(manifests, "PodDisruptionBudget")["shardwright-server"]["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels


def test_a_pod_has_time_to_drain_before_it_is_killed(manifests: list[Manifest]) -> None:
    spec = pod_templates(manifests)["Deployment/shardwright-server"]["spec"]
    (config,) = (
        m["data"]
        for m in manifests
        if m["kind"] == "ConfigMap" and "SHARDWRIGHT_GRACE_SECONDS" in m["data"]
    )
    sleep_s = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > sleep_s + int(
        config["SHARDWRIGHT_GRACE_SECONDS"]
    )


def test_images_are_those_of_the_dockerfiles_and_their_tags_are_fixed(
    manifests: list[Manifest],
) -> None:
    built = {
        path.name.removesuffix(".Dockerfile")
        for path in (REPOSITORY / "deploy/docker").glob("*.Dockerfile")
    }
    assert built == {"server", "trainer", "worker"}
    tags = set()
    for name, container in containers(manifests):
        image, _, tag = container["image"].rpartition(":")
        assert (
            image.removeprefix("registry.example.com/shardwright/").removeprefix("shardwright-")
            == container["name"]
        ), name
        tags.add(tag)
    assert container["name"] in built
    assert len(tags) == 1 and tags != {"latest"}


def test_workers_ask_for_gpus_and_run_only_when_a_person_starts_them(
    manifests: list[Manifest],
) -> None:
    jobs = of_kind(manifests, "Job")
    for name, gpus in (("shardwright-worker-compute", 1), ("shardwright-worker-comm", 8)):
        assert jobs[name]["spec"]["suspend"] is True
        (container,) = jobs[name]["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    torchrun = pod_templates(manifests)["Job/shardwright-worker-comm"]["spec"]["containers"][0]
    assert "--nproc-per-node=8" in torchrun["command"]


def test_the_pods_of_a_job_know_how_many_they_are(manifests: list[Manifest]) -> None:
    compute, comm = (
        of_kind(manifests, "Job")[f"shardwright-worker-{kind}"]["spec"]
        for kind in ("compute", "comm")
    )
    for spec in (compute, comm):
        assert spec["completionMode"] == "Indexed"
        assert spec["parallelism"] == spec["completions"] > 1
    (container,) = compute["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "JOB_COMPLETIONS", "value": str(compute["completions"])}]
    (container,) = comm["template"]["spec"]["containers"]
    assert f"--nnodes={comm['completions']}" in container["command"]


def test_a_mistake_is_not_tried_again_and_a_drained_node_is_no_failure(
    manifests: list[Manifest],
) -> None:
    jobs = of_kind(manifests, "Job")
    compute = jobs["shardwright-worker-compute"]["spec"]
    assert compute["backoffLimitPerIndex"] >= 1 and "backoffLimit" not in compute
    ignored, mistake = compute["podFailurePolicy"]["rules"]
    assert mistake["action"] == "FailIndex"
    assert mistake["onExitCodes"] == {
        "containerName": compute["template"]["spec"]["containers"][0]["name"],
        "operator": "In",
        "values": [OptionError.exit_status],
    }
    assert StoreError.exit_status not in mistake["onExitCodes"]["values"]
    for job in jobs.values():
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never", "policies need it"
        assert job["spec"]["podFailurePolicy"]["rules"][0] == ignored
    assert ignored["action"] == "Ignore"


def test_the_ranks_meet_at_the_name_of_pod_0(manifests: list[Manifest]) -> None:
    job = of_kind(manifests, "Job")["shardwright-worker-comm"]
    template = job["spec"]["template"]
    service = of_kind(manifests, "Service")["shardwright-worker-comm"]
    assert template["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True, "ranks wait for each other"
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    name = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert f"--rdzv-endpoint={name}:{service['spec']['ports'][0]['port']}" in container["command"]
    assert {"name": "rendezvous", "containerPort": 29400} in container["ports"]


def test_workers_can_be_scraped(overlay: str, manifests: list[Manifest]) -> None:
    policy = of_kind(manifests, "NetworkPolicy")["shardwright-worker"]["spec"]
    scrapes = [rule for rule in policy["ingress"] if "ports" in rule]
    assert [p["port"] for rule in scrapes for p in rule["ports"]] == ["metrics"]
    for job in of_kind(manifests, "Job").values():
        (container,) = job["spec"]["template"]["spec"]["containers"]
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        assert f"--metrics-port={ports['metrics']}" in container["args"]
    monitors = of_kind(manifests, "PodMonitor")
    assert len(monitors) == (overlay == "prod")
    for monitor in monitors.values():
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] == "metrics"
        chosen = monitor["spec"]["selector"]["matchLabels"].items()
        for job in of_kind(manifests, "Job").values():
            assert chosen <= job["spec"]["template"]["metadata"]["labels"].items()


def test_in_production_the_autoscaler_decides_how_many(
    overlay: str, manifests: list[Manifest]
) -> None:
    replicas = of_kind(manifests, "Deployment")["shardwright-server"]["spec"].get("replicas")
    scalers = of_kind(manifests, "HorizontalPodAutoscaler")
    if overlay == "prod":
        (scaler,) = scalers.values()
        assert scaler["spec"]["scaleTargetRef"]["name"] == "shardwright-server"
        assert replicas is None
    else:
        assert not scalers and replicas == 1


SERVICE_MONITOR_FIELDS = {"selector", "endpoints", "namespaceSelector", "jobLabel", "targetLabels"}
ENDPOINT_FIELDS = {"port", "path", "interval", "scrapeTimeout", "scheme", "honorLabels"}
"""Of the Prometheus operator's API, monitoring.coreos.com/v1: what is used here, and its like."""


def test_the_service_monitor_finds_the_metrics_service(
    overlay: str, manifests: list[Manifest]
) -> None:
    monitors = of_kind(manifests, "ServiceMonitor")
    assert len(monitors) == (overlay == "prod")
    for monitor in monitors.values():
        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        spec = monitor["spec"]
        assert {"selector", "endpoints"} <= set(spec) <= SERVICE_MONITOR_FIELDS
        (endpoint,) = spec["endpoints"]
        assert set(endpoint) <= ENDPOINT_FIELDS
        chosen = [
            service
            for service in of_kind(manifests, "Service").values()
            if spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        ]
        assert [s["metadata"]["name"] for s in chosen] == ["shardwright-server-metrics"]
        assert endpoint["port"] in {p["name"] for p in chosen[0]["spec"]["ports"]}


def test_jobs_use_flags_that_their_commands_have(manifests: list[Manifest]) -> None:
    commands = {"trainer": ["shardwright-train"], "worker": ["shardwright-worker"]}
    checked = 0
    for name, container in containers(manifests):
        if container["name"] not in commands:
            continue
        words = container["args"]
        flags = [word.split("=")[0] for word in words if word.startswith("--")]
        subcommand = [] if words[0].startswith("--") else words[:1]
        command = Path(sys.executable).parent / commands[container["name"]][0]
        shown = subprocess.run(
            [str(command), *subcommand, "--help"],
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
        )
        assert shown.returncode == 0, shown.stderr
        assert all(flag in shown.stdout for flag in flags), (name, flags)
        checked += 1
    assert checked == 3
