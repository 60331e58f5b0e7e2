"""What `deploy/` holds is what Docker, Compose, Kubernetes and this Millstream take; nothing is built or started here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from compose_spec import PyCompose

from millstream.cli.app import app
from millstream.project.backends import BACKENDS, backend
from millstream.project.declared import declared
from millstream.running.layers import refuse_unknown
from millstream.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
TEMPLATE = KUBERNETES / "secret.example.yaml"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
#: The oldest release of which everything is asked that the manifests say, and the newest whose schemas there are.
RELEASES = ["1.30", kubernetes_validate.latest_version()]
PLACES = {"compose": DEPLOY / "millstream.toml", "kubernetes": KUBERNETES / "project" / "millstream.toml"}
DEFINITIONS = KUBERNETES / "project" / "features.py"
PROBES = 9100
WRITABLE = {"/data", "/kernels", "/tmp"}


def said(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program that came with a package of the tests."""
    beside = Path(sys.executable).with_name(program)
    return subprocess.run([beside, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@cache
def rendered() -> list[dict[str, Any]]:
    """What `kubectl apply --kustomize` would send to a cluster."""
    made = said("kubectl", "kustomize", KUBERNETES)
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))


def of(*kinds: str) -> dict[str, dict[str, Any]]:
    """Those of the manifests that are of one of these kinds, by name."""
    return {one["metadata"]["name"]: one for one in rendered() if one["kind"] in kinds}


def pod(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]


def container(manifest: Mapping[str, Any]) -> dict[str, Any]:
    (only,) = pod(manifest)["containers"]
    return only


@cache
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def ours() -> dict[str, dict[str, Any]]:
    """The services of Compose that run Millstream."""
    return {name: one for name, one in compose()["services"].items() if one["image"].startswith("millstream:")}


def layers() -> set[str]:
    """Those that the docs list, less the one that makes events up."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page[page.index("| layer |") :].split("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) - {"generator"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Settings]:
    """The settings of each deployment, read from a project's folder as a container would have it."""
    found = {}
    for place, file in PLACES.items():
        folder = tmp_path_factory.mktemp(place)
        for source in (file, DEFINITIONS):
            (folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        found[place] = Settings.load(folder)
    return found


def test_hadolint_has_nothing_to_say_of_the_dockerfile():
    found = said("hadolint", "--no-color", DEPLOY / "Dockerfile")
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_image_has_a_pinned_base_nobody_who_is_root_and_the_libraries_of_the_servers(settings):
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?", text, re.MULTILINE)
    named = {name for _, name in stages}
    assert [base for base, _ in stages if base not in named and not re.search(r":\d+\.\d+\.\d+", base)] == []
    last = text[text.rindex("\nFROM ") :]
    assert re.findall(r"^USER (\d+):(\d+)$", last, re.MULTILINE) == [("10001", "10001")]
    assert re.findall(r"^ENTRYPOINT (.*)$", last, re.MULTILINE) == ['["millstream"]']
    extras = re.search(r"'\.\[([\w,]+)\]'", text)
    kinds = {getattr(settings[place], section).get("kind") for place in PLACES for section in BACKENDS}
    assert extras is not None
    assert set(extras[1].split(",")) == (kinds & {"kafka", "redis"}) | {"postgresql"}


def test_what_the_image_is_built_of_is_let_through():
    through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for line in copied for name in line.split()} == through
    assert [name for name in through if not (ROOT / name).exists()] == []


def test_yaml_is_tidy():
    found = said("yamllint", "--strict", ".yamllint.yaml", "deploy")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("release", RELEASES)
def test_a_cluster_takes_every_manifest(release):
    for one in [*rendered(), yaml.safe_load(TEMPLATE.read_text())]:
        kubernetes_validate.validate(one, release, strict=True)


def test_what_a_cluster_would_not_take_is_found():
    wrong = json.loads(json.dumps(of("Deployment")["compute"]))
    container(wrong)["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, RELEASES[-1], strict=True)


def test_every_file_of_the_manifests_is_used():
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    used = {*kustomization["resources"], *(one["path"] for one in kustomization["patches"])}
    there = {path.name for path in KUBERNETES.glob("*.yaml")}
    assert there - used == {"kustomization.yaml", TEMPLATE.name}


def test_compose_takes_its_file_and_waits_for_what_there_is():
    PyCompose.from_json(json.dumps(compose())).validate()
    services = compose()["services"]
    for name, one in services.items():
        for other, how in one.get("depends_on", {}).items():
            healthy = how["condition"] == "service_healthy"
            assert "healthcheck" in services[other] if healthy else services[other]["restart"] == "no", name


def test_every_layer_of_the_docs_is_deployed():
    assert layers() >= {"compute", "serve"}
    assert of("Deployment").keys() == layers()
    assert ours().keys() == {*layers(), "apply"}
    assert of("Job").keys() == {"apply"}


def commands() -> Iterator[tuple[str, list[str]]]:
    yield from ((f"kubernetes: {name}", container(one)["args"]) for name, one in of("Deployment", "Job").items())
    yield from ((f"compose: {name}", one["command"]) for name, one in ours().items())


def parsed(line: list[str]) -> dict[str, Any]:
    """What the command line makes of its words, or its error."""
    group: Any = typer.main.get_command(app)
    with group.make_context("millstream", [*line]) as context:
        _, command, rest = group.resolve_command(context, [*line])
        return command.make_context(line[0], rest, parent=context).params


def test_every_command_is_one_of_millstream():
    for where, line in commands():
        found = parsed(line)
        assert found["folder"] == Path("/project"), where
        if line[0] == "run":
            refuse_unknown(found["layer"])
            assert where.endswith(f": {found['layer']}")
            assert line[line.index("--probes") + 1] == f"0.0.0.0:{PROBES}", where
        else:
            assert where.endswith(f": {line[0]}")
            assert not found["yes"], f"{where} removes without asking"


@pytest.mark.parametrize("place", PLACES)
def test_settings_and_definitions_are_taken(place, settings):
    found = settings[place]
    for section in BACKENDS:
        backend(found, section)
    assert {type(one).__name__ for one in declared(found)} >= {"StreamFeatureGroup", "FeatureView", "Model"}
    assert str(found.data) == "/data"
    assert found.host == "0.0.0.0"
    elsewhere = [found.registry_url, found.offline["catalog"]["uri"], found.online["url"], found.offline["path"]]
    assert [url for url in elsewhere if re.match(r"sqlite|/|.*localhost", url)] == []


def test_pods_have_the_settings_that_were_tried_and_the_variables_that_they_name(settings):
    (given,) = of("ConfigMap").values()
    files = [PLACES["kubernetes"], DEFINITIONS]
    assert given["data"] == {file.name: file.read_text(encoding="utf-8") for file in files}
    template = yaml.safe_load(TEMPLATE.read_text())
    assert template["stringData"].keys() == wanted(settings["kubernetes"])
    assert set(template["stringData"].values()) == {"REPLACE"}
    for name, one in of("Deployment", "Job").items():
        assert container(one)["envFrom"] == [{"secretRef": {"name": template["metadata"]["name"]}}], name
    for name, service in ours().items():
        assert service["environment"].keys() == wanted(settings["compose"]), name


def wanted(found: Settings) -> set[str]:
    """The variables of the environment that let us in where the settings say that something is."""
    log, online, offline = (backend(found, section) for section in ("log", "online", "offline"))
    named = {log.password_env, online.password_env, offline.secret_env, offline.catalog_secret_env, "PGPASSWORD"}
    return named - {None, ""}


def test_every_layer_has_probes_room_and_no_rights(settings):
    for name, one in of("Deployment").items():
        own, spec = container(one), pod(one)
        ports = {port["name"]: port["containerPort"] for port in own["ports"]}
        probes = {kind: own[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert probes == {
            "startup": {"path": "/livez", "port": "probes"},
            "liveness": {"path": "/livez", "port": "probes"},
            "readiness": {"path": "/readyz", "port": "probes"},
        }, name
        scraped = one["spec"]["template"]["metadata"]["annotations"]
        assert str(ports["probes"]) == scraped["prometheus.io/port"] == str(PROBES), name
        assert spec["terminationGracePeriodSeconds"] >= 30, name
        alive = own["livenessProbe"]
        assert alive["periodSeconds"] * alive["failureThreshold"] * 1e6 > settings["kubernetes"].frozen_after
        assert {one["topologyKey"] for one in spec["topologySpreadConstraints"]} >= {"kubernetes.io/hostname"}, name


def test_every_pod_is_restricted_and_writes_to_volumes_of_its_own_alone():
    nothing = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    for name, one in of("Deployment", "Job").items():
        spec = pod(one)
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        for inner in [*spec["containers"], *spec["initContainers"]]:
            assert inner["securityContext"] == nothing, name
            assert {"requests", "limits"} <= inner["resources"].keys(), name
            assert inner["image"].endswith(f"/millstream:{VERSION}"), name
        kinds = {volume["name"]: set(volume) - {"name"} for volume in spec["volumes"]}
        mounts = container(one)["volumeMounts"]
        assert {mount["mountPath"] for mount in mounts if not mount.get("readOnly")} == WRITABLE, name
        assert all(kinds[mount["name"]] == {"emptyDir"} for mount in mounts if not mount.get("readOnly")), name


def test_every_service_of_compose_is_restricted_too():
    for name, one in ours().items():
        assert one["image"] == f"millstream:{VERSION}", name
        assert one["read_only"] is True and one["cap_drop"] == ["ALL"], name
        assert {*one["volumes"], *one["tmpfs"]} == WRITABLE, name
        if name != "apply":
            assert one["stop_grace_period"] and f":{PROBES}/livez" in one["healthcheck"]["test"][-1], name


def test_what_is_selected_are_pods_that_there_are():
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in of("Deployment", "Job").values()]
    selectors = [one["spec"]["selector"] for one in of("Service").values()]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of("PodDisruptionBudget", "Deployment").values()]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of("NetworkPolicy").values()]
    assert len(selectors) >= 10
    for selector in selectors:
        assert any(selector.items() <= one.items() for one in labels), selector


def test_the_service_is_where_its_settings_say(settings):
    found, (service,) = settings["kubernetes"], of("Service").values()
    ports = {port["name"]: port["containerPort"] for port in container(of("Deployment")["serve"])["ports"]}
    (port,) = service["spec"]["ports"]
    assert ports[port["targetPort"]] == port["port"] == found.port
    assert {f"serve.{service['metadata']['namespace']}", "serve.millstream.svc.cluster.local"} <= set(found.hosts)
    assert compose()["services"]["serve"]["ports"] == [
        f"127.0.0.1:{settings['compose'].port}:{settings['compose'].port}"
    ]


def test_no_more_processes_than_there_are_shares(settings):
    found, deployments = settings["kubernetes"], of("Deployment")
    most = {"compute": found.partitions, "ingest": found.shards}
    for name, one in of("HorizontalPodAutoscaler").items():
        assert one["spec"]["scaleTargetRef"]["name"] == name
        assert "replicas" not in deployments[name]["spec"], f"{name}: an apply would undo what the autoscaler did"
        assert 2 <= one["spec"]["minReplicas"] <= one["spec"]["maxReplicas"] <= most.get(name, 100)
        assert name in of("PodDisruptionBudget")
    for name in deployments.keys() - of("HorizontalPodAutoscaler").keys():
        replicas = deployments[name]["spec"]["replicas"]
        assert replicas == (2 if name in of("PodDisruptionBudget") else 0), "one that is lost is not missed"


def test_nothing_of_compose_listens_beyond_loopback_and_servers_are_those_that_the_settings_name(settings):
    services = compose()["services"]
    for name, one in services.items():
        assert [port for port in one.get("ports", []) if not str(port).startswith("127.0.0.1:")] == [], name
        assert "network_mode" not in one and not one.get("privileged"), name
        assert re.search(r":\d+\.\d+", one["image"]), f"{name}: {one['image']} is not pinned"
    found = settings["compose"]
    urls = [found.registry_url, found.online["url"], found.offline["endpoint"], found.offline["catalog"]["uri"]]
    hosts = {re.sub(r"^\w+://(?:\w+@)?|[:/].*$", "", url) for url in [*urls, found.log["servers"]]}
    assert hosts == services.keys() - ours().keys()


def test_pods_are_reached_from_within_the_cluster_alone(settings):
    assert {one["spec"].get("type", "ClusterIP") for one in of("Service").values()} == {"ClusterIP"}
    for name, one in of("Deployment", "Job").items():
        assert [port for port in container(one).get("ports", []) if "hostPort" in port] == [], name
    egress = of("NetworkPolicy")["layers"]["spec"]["egress"]
    allowed = {port["port"] for rule in egress for port in rule["ports"]}
    found = settings["kubernetes"]
    places = [found.registry_url, found.online["url"], *found.log["servers"].split(",")]
    ports = {int(port) for place in places for port in re.findall(r":(\d+)\b", place)}
    assert ports | {5432, 443} <= allowed


def test_no_secret_is_in_a_file():
    example = (DEPLOY / "env.example").read_text()
    given = re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE)
    text = (DEPLOY / "compose.yaml").read_text()
    assert {name for name, _ in given} == set(re.findall(r"\$\{(\w+)", text))
    assert {value for _, value in given} == {""}
    assert re.findall(r"\$\{\w+(?!\w*:\?)[^}]*\}", text) == [], "a variable that is not set must stop Compose"
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().splitlines()
    assigned = re.compile(
        r"(?i)^\s*(?:ENV |ARG |- )?[\"']?\w*(?:passw|secret|token|credential|auth)\w*[\"']?\s*[:=]\s*(\S.*)$"
    )
    plain = re.compile(r"REPLACE$|\$\{\w+:\?[^}]*\}$|\"[A-Z_]+\"$|&secrets$|false$")
    for file in (path for path in DEPLOY.rglob("*") if path.is_file() and path.name != ".env"):
        content = file.read_text(encoding="utf-8")
        found = [match[1] for line in content.splitlines() if (match := assigned.match(line))]
        assert [value for value in found if not plain.match(value)] == [], file
        assert not re.search(r"-----BEGIN|AKIA[A-Z0-9]{16}|://\w+:[^/@\s]+@", content), file
