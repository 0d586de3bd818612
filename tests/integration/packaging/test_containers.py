"""What can be told of the images and the compose file without building and starting them."""

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from app.queue.names import INSPECTIONS, jobs_queue
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = Path(sysconfig.get_path("scripts"))
OURS = ("server", "migrate", "worker", "inspector")
ONE_SHOT = ("migrate",)
# What makes an image large and a start slow; none of it belongs into the server.
ML_LIBRARIES = {"torch", "onnx", "onnxruntime", "numpy", "scipy", "pyarrow", "pillow", "onnxscript", "openvino"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


@pytest.fixture(scope="module")
def stages() -> dict[str, list[str]]:
    """The instructions of each stage of the Dockerfile, continuation lines joined."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    for line in (line.strip() for line in text.splitlines()):
        if stage := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[stage[2]] = [*found.get(stage[1], []), line]
        elif line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


def locked(name: str) -> dict[str, str]:
    """Names and versions of a lock."""
    return dict(
        re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[\S+\])?==(\S+)", (ROOT / "requirements" / name).read_text(), re.M)
    )


@pytest.mark.parametrize(
    "command",
    [
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
        ["hadolint", "Dockerfile"],
    ],
    ids=["compose", "dockerfile"],
)
def test_the_linters_are_content(command: list[str]) -> None:
    ended = subprocess.run([SCRIPTS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_only_the_api_is_published_and_only_here(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {"server": ["127.0.0.1:8000:8000"]}
    assert not [name for name, service in compose["services"].items() if "network_mode" in service]


def test_only_the_api_is_on_a_network_that_leads_outside(compose: dict[str, Any]) -> None:
    inside = {name for name, network in compose["networks"].items() if network and network.get("internal")}
    assert inside
    outside = {name for name, service in compose["services"].items() if set(service["networks"]) - inside}
    assert outside == {"server"}


def test_every_service_that_stays_has_a_health_check(compose: dict[str, Any], stages: dict[str, list[str]]) -> None:
    for name, service in compose["services"].items():
        if name in ONE_SHOT:
            assert service["healthcheck"] == {"disable": True}
        else:
            assert service["healthcheck"]["test"][0] == "CMD", name
    for stage in ("server", "worker"):
        assert [line for line in stages[stage] if line.startswith("HEALTHCHECK")], stage


def test_the_health_checks_of_image_and_compose_file_are_the_same(
    compose: dict[str, Any], stages: dict[str, list[str]]
) -> None:
    for stage in ("server", "worker"):
        (line,) = [line for line in stages[stage] if line.startswith("HEALTHCHECK")]
        in_image = yaml.safe_load(line.split("CMD ")[1])
        assert compose["services"][stage]["healthcheck"]["test"][1:] == in_image


def test_who_waits_for_whom(compose: dict[str, Any]) -> None:
    for name in ("server", "worker", "inspector"):
        waits = {on: how["condition"] for on, how in compose["services"][name]["depends_on"].items()}
        assert waits == {
            "migrate": "service_completed_successfully",
            "redis": "service_healthy",
            "s3": "service_healthy",
        }
    assert compose["services"]["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_no_secret_has_a_default(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)([^}]*)\}", text))
    secrets = {name for name, _ in used if re.search("KEY|SECRET|PASSWORD", name)}
    assert all(rest.startswith(":?") and ".env.example" in rest for name, rest in used if name in secrets)
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search("KEY|SECRET|PASSWORD", variable):
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), f"{name}: {variable}"
    example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))
    assert example == dict.fromkeys(secrets, "")


def test_the_line_of_the_example_writes_fresh_secrets(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    (line,) = re.findall(r"^#\s+(\(umask .*)$", text, re.M)
    (tmp_path / ".env.example").write_text(text)
    for _ in range(2):
        subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    written = re.findall(r"^(\w+)=(.*)$", (tmp_path / ".env").read_text(), re.M)
    assert len(written) == 4
    assert len({value for _, value in written}) == 4
    assert all(re.fullmatch("[0-9a-f]{48}", value) for _, value in written)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_settings_are_spelled_as_the_code_reads_them(compose: dict[str, Any]) -> None:
    known = {f"BITPRESS_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        assert set(compose["services"][name]["environment"]) <= known
    for name in ("worker", "inspector", "migrate"):
        assert "BITPRESS_API_KEY" not in compose["services"][name]["environment"]


def test_workers_listen_to_the_queues_that_are_sent_to(compose: dict[str, Any], stages: dict[str, list[str]]) -> None:
    def queue(command: list[str]) -> str:
        return command[command.index("--queues") + 1]

    assert queue(compose["services"]["inspector"]["command"]) == INSPECTIONS
    assert queue(compose["services"]["worker"]["command"]) == jobs_queue("${BITPRESS_TARGET:-local}")
    (in_image,) = [yaml.safe_load(line[4:]) for line in stages["worker"] if line.startswith("CMD")]
    assert queue(in_image) == jobs_queue(Settings.model_fields["target"].default)


def test_nothing_of_ours_runs_with_rights_that_it_does_not_need(
    compose: dict[str, Any], stages: dict[str, list[str]]
) -> None:
    for stage in ("server", "worker"):
        assert [line for line in stages[stage] if line.startswith("USER")] == ["USER 10001:10001"]
    for name in OURS:
        service = compose["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert "privileged" not in service


def test_every_volume_has_a_name(compose: dict[str, Any]) -> None:
    used = [volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])]
    assert sorted(used) == sorted(compose["volumes"])


def test_every_image_is_pinned(compose: dict[str, Any], stages: dict[str, list[str]]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    images += [line.split()[1] for lines in stages.values() for line in lines if line.startswith("FROM docker.io/")]
    for image in images:
        assert re.search(r":[^:/]*\d", image), image
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {image for image in images if image.startswith("bitpress")} == {
        f"bitpress-server:{version}",
        f"bitpress-worker:{version}",
    }


def test_the_server_has_no_ml_library(stages: dict[str, list[str]]) -> None:
    assert not ML_LIBRARIES & set(locked("server.txt"))
    assert {"numpy", "onnx", "onnxruntime"} <= set(locked("worker.txt"))
    assert not [line for line in stages["server"] if "worker" in line]


def test_server_and_worker_agree_on_versions() -> None:
    server, worker = locked("server.txt"), locked("worker.txt")
    assert {name: worker.get(name) for name in server} == server


def test_everything_but_pytorch_is_installed_with_hashes(stages: dict[str, list[str]]) -> None:
    train = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    calls = [line for stage in ("server-build", "worker-build") for line in stages[stage] if "pip install" in line]
    loose = [line for line in calls if "--require-hashes" not in line and "--no-deps" not in line]
    assert loose == [f'RUN pip install --extra-index-url "${{TORCH_INDEX}}" {train[0]}+cpu']


def test_the_images_are_given_what_they_are_built_from() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages | {"pyproject.toml", "client", project["project"]["readme"]} <= let_in
    assert not let_in & {".env", ".git", "tests", "examples"}
