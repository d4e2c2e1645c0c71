"""What of the deployment can be checked without a cloud: that its files agree with each other and with the code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest

from main import ENTRY_POINTS
from shared.settings import Settings
from tests.upload import REPOSITORY, uploaded_files

TERRAFORM = REPOSITORY / "infra" / "terraform"
ALERTS = (REPOSITORY / "infra" / "alerts" / "chandler.yml").read_text()
README = (REPOSITORY / "infra" / "README.md").read_text()
# Read by functions-framework's gunicorn, not by us.
FRAMEWORK_VARIABLES = {"THREADS"}


def text_of(path: Path) -> str:
    """A file without its comments."""
    return re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)


SOURCE = "\n".join(text_of(path) for path in sorted(TERRAFORM.glob("*.tf")))


def blocks(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Address and body of each block of a kind, over all files."""
    for path in sorted(TERRAFORM.glob("*.tf")):
        with path.open() as file:
            for block in hcl2.load(file).get(kind, ()):
                yield from _unnest(block)


def _unnest(block: dict[str, Any], address: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for label, body in block.items():
        if label.startswith('"'):
            yield from _unnest(body, f"{address}.{label.strip(chr(34))}".lstrip("."))
    if not any(label.startswith('"') for label in block):
        yield address, block


def locals_of() -> dict[str, Any]:
    return {name: value for _, block in blocks("locals") for name, value in block.items() if not name.startswith("__")}


def settings_variables() -> set[str]:
    return {str(field.validation_alias or f"CHANDLER_{name.upper()}") for name, field in Settings.model_fields.items()}


def test_every_variable_and_local_used_is_declared_and_every_declared_one_used() -> None:
    variables = {address for address, _ in blocks("variable")}
    assert set(re.findall(r"\bvar\.(\w+)", SOURCE)) == variables
    assert set(re.findall(r"\blocal\.(\w+)", SOURCE)) == set(locals_of())


def test_every_resource_that_is_named_exists() -> None:
    declared = {address for address, _ in blocks("resource")} | {f"data.{address}" for address, _ in blocks("data")}
    named = set(re.findall(r"\b((?:data\.)?(?:google|archive)_\w+\.\w+)", SOURCE))
    assert named <= declared
    assert len(declared) > 10


def test_every_variable_of_the_environment_is_a_setting() -> None:
    functions = text_of(TERRAFORM / "functions.tf")
    given = set(re.findall(r"\b([A-Z][A-Z_]{5,})\s*=", functions))
    assert given - FRAMEWORK_VARIABLES <= settings_variables()
    assert "MONGODB_URI" in given


@pytest.mark.parametrize("function", ["tick", "worker"])
def test_what_runs_behind_the_platforms_check_is_told_so(function: str) -> None:
    environment = locals_of()["environment"][function]
    assert environment["CHANDLER_PLATFORM_VERIFIES_TOKENS"] == '"true"'
    assert environment[f"CHANDLER_{function.upper()}_AUDIENCE"] == f"${{local.urls.{function}}}"
    assert environment[f"CHANDLER_{function.upper()}_CALLERS"].endswith(".email}")


def test_only_tick_and_worker_believe_a_token_without_signature() -> None:
    environment, invokers = locals_of()["environment"], locals_of()["invokers"]
    open_to_all = {name for name, member in invokers.items() if "allUsers" in str(member)}
    assert open_to_all == {"admin", "metrics"}
    assert not any("CHANDLER_PLATFORM_VERIFIES_TOKENS" in environment[name] for name in open_to_all)


def test_every_entry_point_is_deployed() -> None:
    expected = set(ENTRY_POINTS)
    found = locals_of()
    assert set(re.findall(r'"(\w+)"', found["functions"])) == expected
    assert set(found["environment"]) == expected
    assert {name for name in found["invokers"] if not name.startswith("__")} == expected
    (limits,) = (body for address, body in blocks("variable") if address == "limits")
    assert {name for name in limits["default"] if not name.startswith("__")} == expected


def test_the_scheduler_waits_longer_than_a_tick_lasts() -> None:
    (job,) = (body for address, body in blocks("resource") if address == "google_cloud_scheduler_job.tick")
    (limits,) = (body for address, body in blocks("variable") if address == "limits")
    assert int(job["attempt_deadline"].strip('"s')) > int(limits["default"]["tick"]["timeout_s"]) > 55
    assert job["http_target"][0]["oidc_token"][0]["audience"] == "${local.urls.tick}"


def test_terraform_uploads_the_same_files_as_gcloud() -> None:
    expression = text_of(TERRAFORM / "source.tf")
    single = set(re.findall(r'"([\w.]+\.(?:py|txt))"', expression))
    trees = re.findall(r'fileset\(local\.root, "(\w+)/\*\*"\)', expression)
    assert '!strcontains(file, "__pycache__/") && !endswith(file, ".pyc")' in expression
    packed = {
        path.relative_to(REPOSITORY).as_posix()
        for tree in trees
        for path in (REPOSITORY / tree).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert sorted(packed | single) == uploaded_files()


def test_the_upload_is_the_functions_and_what_they_stand_on() -> None:
    assert {path.split("/")[0] for path in uploaded_files()} == {"main.py", "requirements.txt", "functions", "shared"}


def test_alerts_use_metrics_that_exist() -> None:
    source = (REPOSITORY / "shared" / "usecases" / "collect_metrics.py").read_text()
    exposed = set(re.findall(r'"(chandler_\w+)"', source))
    used = set(re.findall(r"\b(chandler_\w+)", ALERTS))
    assert {name.removesuffix("_total") for name in used} <= exposed
    assert len(used) > 5


def test_every_alert_has_a_runbook_and_the_other_way_round() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    anchors = re.findall(r"runbook: infra/README\.md#(\w+)", ALERTS)
    sections = re.findall(r"^### (\w+)$", README, flags=re.MULTILINE)
    assert anchors == [alert.lower() for alert in alerts]
    assert sorted(sections) == sorted(alerts)
    assert ALERTS.count("severity: ") == ALERTS.count("summary: ") == ALERTS.count("description: ") == len(alerts)
