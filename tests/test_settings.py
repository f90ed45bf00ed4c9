"""Settings: flags before environment before defaults, and refusals in sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from studio.errors import InvalidRequest
from studio.settings import Settings, is_loopback, read_users
from tests.studio_process import ROOT


def test_flags_win_over_environment_and_environment_over_defaults(tmp_path: Path) -> None:
    environment = {"PERFLOW_STUDIO_PORT": "8001", "PERFLOW_STUDIO_DEVICE": "cpu", "HOME": str(tmp_path)}
    settings = Settings.load(["--port", "8002"], environment)
    assert (settings.port, settings.device, settings.dtype) == (8002, "cpu", "auto")
    assert Settings.load([], environment).port == 8001
    assert (Settings.load([], {}).host, Settings.load([], {}).port) == ("127.0.0.1", 7860)


def test_pictures_go_to_the_users_own_folder_never_the_working_one(tmp_path: Path) -> None:
    settings = Settings.load([], {"XDG_DATA_HOME": str(tmp_path)})
    assert settings.data_dir == tmp_path / "perflow-studio"
    assert not Settings.load([], {}).data_dir.is_relative_to(Path.cwd())
    # A relative XDG_DATA_HOME is void by its specification.
    assert not Settings.load([], {"XDG_DATA_HOME": "data"}).data_dir.is_relative_to(Path.cwd())


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--port", "99999"], "port"),
        (["--port", "-1"], "port"),
        (["--port", "http"], "port"),
        (["--max-queue", "0"], "max_queue"),
        (["--engine", "magic"], "engine"),
        (["--root-path", "studio"], "root_path"),
        (["--auth-file", "/nowhere/at/all"], "auth_file"),
        (["--host", "0.0.0.0"], "host"),
        (["--host", "::"], "host"),
        (["--host", "studio.lan"], "host"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(arguments: list[str], field: str) -> None:
    arguments = [arguments[0] + "=" + arguments[1]]
    with pytest.raises(InvalidRequest) as refused:
        Settings.load(arguments, {})
    assert refused.value.field == field


def test_wider_than_this_machine_is_allowed_with_users_or_on_a_space(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("# who may come in\nada:correct horse\n\nbob:pass:word9\n")
    settings = Settings.load(["--host", "0.0.0.0", "--auth-file", str(users)], {})
    assert settings.users == (("ada", "correct horse"), ("bob", "pass:word9"))
    space = Settings.load([], {"SPACE_ID": "someone/studio"})
    assert (space.host, space.on_space) == ("0.0.0.0", True)


@pytest.mark.parametrize("text", ["", "# nobody\n", "ada\n", "ada:short\n", ":password1\n"])
def test_a_password_file_without_passwords_is_refused_and_quotes_none(tmp_path: Path, text: str) -> None:
    users = tmp_path / "users"
    users.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        read_users(users)
    assert "short" not in str(refused.value)
    assert "password1" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
    ],
)
def test_what_counts_as_this_machine(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_the_command_refuses_to_listen_wider_with_status_2_and_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "app.py", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "data")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "--auth-file" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()
