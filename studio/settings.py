"""Where the studio keeps things and how it listens: from flags, else from PERFLOW_STUDIO_* variables, else defaults.

One frozen value, made once by `app.py`. The default data folder is the user's own (XDG_DATA_HOME/perflow-studio), never
the folder the command was typed in, because gradio serves files from there.
This module does not know what a catalogue, an engine or a page is, and creates no folder.
"""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.errors import InvalidRequest

REPOSITORY = Path(__file__).resolve().parent.parent
PREFIX = "PERFLOW_STUDIO_"
DEFAULT_PORT = 7860
MAX_AUTH_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the owner of this studio decides. Raises `InvalidRequest` naming the flag that makes no sense.

    `host` is an address to bind, `allowed_hosts` the further names under which people may reach it ("studio.lan",
    "studio.lan:8443"), `root_path` the prefix a proxy strips ("/studio"). `model` is the id chosen at first sight;
    `None` leaves that to the catalogue. `users` holds (name, password) pairs; empty means no login. `training` says
    whether people may train and import pictures; on a Space that is off unless the owner turns it on.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    engine: str = "diffusion"
    users: tuple[tuple[str, str], ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    root_path: str = ""
    max_queue: int = 32
    max_body_bytes: int = 64 * 1024 * 1024
    hub_cache: Path | None = None
    offline: bool | None = None
    on_space: bool = False
    training: bool = True
    presets_dir: Path = REPOSITORY / "presets"
    assets_dir: Path = REPOSITORY / "assets"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidRequest("port", "a whole number from 0 to 65535 (0 takes a free one)", self.port)
        if not 1 <= self.max_queue <= 1000:
            raise InvalidRequest("max_queue", "a whole number from 1 to 1000", self.max_queue)
        if self.max_body_bytes < 1024 * 1024:
            raise InvalidRequest("max_body_bytes", "at least 1048576 (1 MiB)", self.max_body_bytes)
        if self.root_path and not self.root_path.startswith("/"):
            raise InvalidRequest("root_path", "a path that starts with /", self.root_path)
        if not is_loopback(self.host) and not self.users and not self.on_space:
            raise InvalidRequest(
                "host", "127.0.0.1 unless --auth-file gives the users who may come in from other machines", self.host
            )

    @property
    def outputs_dir(self) -> Path:
        """Where finished pictures stay: outputs/<tab>/<date>/00001-<seed>.png."""
        return self.data_dir / "outputs"

    @property
    def served_dir(self) -> Path:
        """The only folder whose files leave over HTTP: copies for downloads, and uploads; emptied at every start."""
        return self.data_dir / "served"

    @property
    def runs_dir(self) -> Path:
        """Where training runs lie, one folder each."""
        return self.data_dir / "runs"

    @property
    def datasets_dir(self) -> Path:
        """Where imported pictures lie, one folder for each dataset."""
        return self.data_dir / "datasets"

    @classmethod
    def load(cls, arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
        """Flags win over environment variables, those over defaults. `--help` and unknown flags exit (argparse)."""
        given = vars(_parser().parse_args(arguments))
        values = {name: _choose(name, value, environment) for name, value in given.items()}
        on_space = "SPACE_ID" in environment
        auth_file = values.pop("auth_file")
        return cls(
            data_dir=Path(values.pop("data_dir") or default_data_dir(environment)).expanduser().resolve(),
            host=values.pop("host") or ("0.0.0.0" if on_space else cls.host),
            port=_whole("port", values.pop("port"), cls.port),
            model=values.pop("model"),
            device=values.pop("device") or cls.device,
            dtype=values.pop("dtype") or cls.dtype,
            engine=_one_of("engine", values.pop("engine") or cls.engine, ("diffusion", "fake")),
            users=read_users(Path(auth_file)) if auth_file else (),
            allowed_hosts=tuple((values.pop("allowed_hosts") or "").replace(",", " ").split()),
            root_path=(values.pop("root_path") or "").rstrip("/"),
            max_queue=_whole("max_queue", values.pop("max_queue"), cls.max_queue),
            max_body_bytes=_whole("max_body_bytes", values.pop("max_body_bytes"), cls.max_body_bytes),
            hub_cache=Path(hub_cache).expanduser() if (hub_cache := values.pop("hub_cache")) else None,
            offline=True if values.pop("offline") else None,
            on_space=on_space,
            training=_switch("training", values.pop("training"), default=not on_space),
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="PeRFlow Studio: few-step diffusion in a browser.",
        epilog=f"Every flag can also be set as {PREFIX}<FLAG>, for example {PREFIX}PORT=7870.",
    )
    parser.add_argument("--host", help="address to listen on; wider than 127.0.0.1 needs --auth-file")
    parser.add_argument("--port", help=f"port to listen on, 0 for a free one (default {DEFAULT_PORT})")
    parser.add_argument("--data-dir", help="where pictures and history are kept (default: your user data folder)")
    parser.add_argument("--model", help="id of the model to start with, as in presets/models.toml")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps (default auto)")
    parser.add_argument("--dtype", help="auto, fp32, bf16 or fp16 (default auto)")
    parser.add_argument("--engine", help="diffusion, or fake: draws gradients, to try the page without any model")
    parser.add_argument("--auth-file", help="file with one name:password a line, readable by you alone")
    parser.add_argument("--allowed-hosts", help="further host names people use for this studio, separated by commas")
    parser.add_argument("--root-path", help="prefix under which a proxy shows the studio, for example /studio")
    parser.add_argument("--max-queue", help="how many generations may wait (default 32)")
    parser.add_argument("--max-body-bytes", help="largest request accepted (default 64 MiB)")
    parser.add_argument("--training", help="on or off: training and imports (default on, off on a Space)")
    parser.add_argument("--hub-cache", help="folder of downloaded models (default: the hub's own)")
    parser.add_argument("--offline", action="store_const", const="1", help="never ask the hub for anything")
    return parser


def _choose(name: str, flag: str | None, environment: Mapping[str, str]) -> str | None:
    return flag if flag is not None else environment.get(PREFIX + name.upper()) or None


def _whole(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InvalidRequest(name, "a whole number", text)
    return int(text)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise InvalidRequest(name, f"one of {', '.join(choices)}", value)
    return value


def _switch(name: str, text: str | None, *, default: bool) -> bool:
    return default if text is None else _one_of(name, text, ("on", "off")) == "on"


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reachable from this machine alone. A name other than localhost counts as wider."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """XDG_DATA_HOME/perflow-studio; on a Space with a mounted bucket, below /data, which outlives a restart."""
    if "SPACE_ID" in environment and Path("/data").is_dir():
        return Path("/data/perflow-studio")
    base = environment.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "perflow-studio"


def read_users(path: Path) -> tuple[tuple[str, str], ...]:
    """`name:password` lines, # for comments. Raises `InvalidRequest`, never with a password in its text."""
    try:
        if path.stat().st_size > MAX_AUTH_FILE_BYTES:
            raise InvalidRequest("auth_file", f"a file of at most {MAX_AUTH_FILE_BYTES} bytes", str(path))
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest("auth_file", "a readable text file of name:password lines", str(path)) from error
    users = [tuple(line.split(":", 1)) for line in lines if line and not line.startswith("#")]
    for number, user in enumerate(users, 1):
        if len(user) != 2 or not user[0] or len(user[1]) < 8:
            raise InvalidRequest("auth_file", "name:password, 8 characters or more", f"entry {number}")
    if not users:
        raise InvalidRequest("auth_file", "at least one name:password line", str(path))
    return tuple((name, password) for name, password in users)
