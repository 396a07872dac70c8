"""The Kubernetes manifests, against the schemas of the API: unknown fields and wrong types are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from shmhost.cli import cli
from shmhost.settings import settings

FOLDER = Path(__file__).parents[2] / "packaging/kubernetes"
VERSIONS = ["1.27", "1.33"]


def load(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def pods() -> list[dict[str, Any]]:
    (daemons,) = [document for document in load("shmhost.yaml") if document["kind"] == "DaemonSet"]
    return [daemons["spec"]["template"]["spec"], *(document["spec"] for document in load("client.yaml"))]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["shmhost.yaml", "client.yaml"])
def test_manifest_is_what_the_api_takes(name: str, version: str) -> None:
    documents = load(name)
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_validator_finds_what_is_wrong(version: str) -> None:
    document = load("client.yaml")[0]
    document["spec"]["hostIpc"] = True  # it is called hostIPC
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, version, strict=True)


def test_pods_share_nothing_but_the_folder() -> None:
    for pod in pods():
        assert not {"hostIPC", "hostPID", "hostNetwork"} & set(pod)
        assert [volume["hostPath"]["path"] for volume in pod["volumes"]] == ["/run/shmhost"]
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert not rights["allowPrivilegeEscalation"]
            assert rights["readOnlyRootFilesystem"]


def test_host_is_started_as_the_command_line_takes_it() -> None:
    arguments = pods()[0]["containers"][0]["args"]
    assert arguments[:2] == ["shmhost", "serve"]
    with cli.commands["serve"].make_context("serve", arguments[2:]) as context:
        config = settings.to_config(context.params)
    assert (config.budget, config.metrics) == (4 << 30, "/run/shmhost/metrics.sock")
