"""What the operator decides: one YAML file, and the environment for what is secret or differs by place."""

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from hone_contract.errors import BadConfiguration
from hone_contract.store import base_name

MIB = 2**20
GIB = 2**30
_FILE, _DATABASE, _STORE, _DATA = "HONE_API_CONFIG", "HONE_API_DATABASE", "HONE_STORE", "HONE_API_DATA"

Stage = Literal["check", "train", "import", "merge"]
_PROGRAMS: dict[Stage, list[str]] = {
    "check": ["hone-trainer", "check"],
    "train": ["hone-trainer", "train"],
    "import": ["hone-merger", "import-adapter"],
    "merge": ["hone-merger", "merge"],
}

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tunable(_Settings):
    """A model that clients may tune, under the name that they ask for."""

    base: str
    """The base as a run spec names it: `demo:smollm2-135m-instruct`, a folder, a Hub id."""
    method: Literal["lora", "qlora"] = "lora"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """What a `learning_rate_multiplier` of 1 means."""
    dpo_learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """The same with preference pairs, which want smaller steps."""
    r: Annotated[int, Field(ge=1, le=512)] = 16
    alpha: Annotated[int, Field(ge=1, le=1024)] = 32
    batch_size: Annotated[int, Field(ge=1, le=256)] | None = None
    """What `auto` means. None: by the number of examples."""
    n_epochs: Annotated[int, Field(ge=1, le=50)] | None = None
    """What `auto` means. None: by the number of examples."""

    @property
    def stored(self) -> str:
        """The base's name in the store, as the trainer gives it (a folder's own name, without its path)."""
        return base_name(Path(self.base).name if self.base.startswith((".", "/", "~")) else self.base)


class Upstream(_Settings):
    """A server that answers requests: of a base and its adapters, or of one merged model."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[^/\s?#@]+$")]
    """Without a path: `http://server:8000`."""
    base: str | None = None
    """In adapter mode: the base's name in the store. None: it serves a merged model."""
    model: str | None = None
    """In merged mode: the name under which it was published. None: it serves a base and its adapters."""
    key_variable: str = "HONE_API_KEY"
    """The environment's variable that holds the key which this server wants."""
    key_file: Path | None = None
    """A file that holds it, for when the variable is unset. None: the server wants none."""
    hold_seconds: Annotated[float, Field(ge=0, le=3600)] = 0
    """How long requests wait for it when it is not there, as one that was scaled to zero. 0: not at all."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.base is None) == (self.model is None):
            raise ValueError("say either base (it serves adapters) or model (it serves a merged one)")
        return self

    @field_validator("key_file")
    @classmethod
    def _readable(cls, file: Path | None) -> Path | None:
        try:
            _read_keys(file)
        except BadConfiguration as error:
            raise ValueError(str(error)) from None
        return file

    @property
    def key(self) -> str:
        """The first of those that the server takes; empty: it takes everybody. Raises BadConfiguration."""
        entries = (os.environ.get(self.key_variable) or _read_keys(self.key_file)).replace(",", "\n").split()
        # A server may have names before its keys.
        return entries[0].partition(":")[2] or entries[0] if entries else ""


class Limits(_Settings):
    """What one project may take."""

    file_bytes: Annotated[int, Field(ge=1)] = 512 * MIB
    """Of one file, as OpenAI has it."""
    part_bytes: Annotated[int, Field(ge=1)] = 64 * MIB
    """Of one part of an upload."""
    upload_bytes: Annotated[int, Field(ge=1)] = 8 * GIB
    """Of an upload's parts together."""
    project_bytes: Annotated[int, Field(ge=1)] = 64 * GIB
    """Of all files of a project."""
    project_jobs: Annotated[int, Field(ge=1)] = 100
    """Jobs of a project that have not ended; paused ones too, since their examples are kept."""
    project_runs: Annotated[int, Field(ge=1)] | None = None
    """Jobs of a project that train at once; the others wait. None: as many as there are slots."""
    body_seconds: Annotated[float, Field(gt=0)] = 60
    """The longest wait for the next bytes of a body."""
    whole_body_seconds: Annotated[float, Field(gt=0)] = 3600
    """For all of a body: 512 MiB at 150 kB a second."""
    check_seconds: Annotated[float, Field(gt=0)] = 3600
    """For the reading of a file: 8 GiB take some ten minutes."""
    requests: Annotated[int, Field(ge=1)] = 256
    """Requests that are with each server at once; more are told to come again."""
    held: Annotated[int, Field(ge=1)] = 256
    """Requests that wait for a server with `hold_seconds`; more are told to come again."""
    held_bytes: Annotated[int, Field(ge=1)] = 256 * MIB
    """Of the bodies of all that have waited for any server, until they are answered; likewise."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """For models to answer, of each key that was not made with a number of its own. None: as many as come."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Of prompts and answers together, likewise."""


class Local(_Settings):
    """The launcher that runs stages as processes of this machine."""

    slots: Annotated[int, Field(ge=1)] | None = None
    """How many runs train at once. None: one for each GPU, or one without."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often a stage is begun again that failed for a reason that may pass (exit code 75, or killed)."""
    retry_seconds: Annotated[float, Field(ge=0)] = 10
    """The wait before the first of them; each further one is twice as long."""
    stop_seconds: Annotated[float, Field(gt=0)] = 300
    """Between SIGTERM, upon which a run saves a checkpoint, and SIGKILL."""
    serving: Literal["beside", "wait", "pause"] = "beside"
    """Where training and serving share a GPU. `beside`: they do not, or there is room for both. `wait`:
    training begins when no server answers. `pause`: the two commands below stop serving and let it go on."""
    pause_command: list[str] = []
    """Stops the servers, such as `docker compose stop base-server`, a word each."""
    resume_command: list[str] = []

    def wait_before(self, retry: int) -> float:
        """Seconds before a stage is begun again for the first time (1), the second, and so on."""
        return self.retry_seconds * 2.0 ** (retry - 1)

    @model_validator(mode="after")
    def _can_pause(self) -> Self:
        if self.serving == "pause" and not (self.pause_command and self.resume_command):
            raise ValueError("serving: pause needs pause_command and resume_command")
        return self


class Webhooks(_Settings):
    """Where the news of a job's end may go."""

    allow_http: bool = False
    """Without TLS whoever is on the way reads it; it is signed all the same."""
    allow_private: bool = True
    """To networks of one's own (10.0.0.0/8 and the like)."""
    allow_loopback: bool = False
    """To this machine itself, where other services may take a request for the operator's. For tests."""
    timeout_seconds: Annotated[float, Field(gt=0, le=20)] = 15
    """For an attempt, from the name to the answer."""


class Kubernetes(_Settings):
    """The launcher that runs stages as Jobs of a cluster: that of this pod, or of KUBECONFIG."""

    namespace: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] | None = (
        None
    )
    """None: the pod's own, or that of KUBECONFIG's context."""
    slots: Annotated[int, Field(ge=1)] = 1
    """How many runs are with the cluster at once. With a queue such as Kueue, more than it has GPUs for."""


class Settings(_Settings):
    """All of it."""

    store: Path = Path("store")
    data: Path = Path("api-data")
    """Files, and what runs now. It must outlive this process."""
    database: str = ""
    """A URL as SQLAlchemy has it; empty: SQLite in `data`."""
    organization: Name = "hone"
    """In the names of fine-tuned models, and `organization_id`."""
    models: dict[Name, Tunable] = {}
    servers: list[Upstream] = []
    limits: Limits = Limits()
    checkpoints: Literal["auto", "during", "after"] = "auto"
    """When a job's checkpoints become adapters: while it trains, or when it has ended. An import takes the
    CPUs for a while, and memory for the base. `auto`: while it trains, unless that is on this machine's CPUs.
    """
    launcher: Literal["local", "kubernetes"] = "local"
    """What runs stages."""
    local: Local = Local()
    """Of which `retries`, `retry_seconds` and `serving: wait` are for either launcher."""
    kubernetes: Kubernetes = Kubernetes()
    webhooks: Webhooks = Webhooks()
    wandb: bool = False
    """Whether clients may have a run reported to Weights & Biases, with the WANDB_API_KEY of the
    api's environment. The package `wandb` must be where the trainer is."""
    commands: dict[Stage, list[str]] = {}
    """How a stage's program is called, where it is not `hone-trainer` and `hone-merger`."""

    @model_validator(mode="after")
    def _can_pause_there(self) -> Self:
        if self.launcher == "kubernetes" and self.local.serving == "pause":
            raise ValueError(
                "serving: pause runs commands on this machine; with launcher: kubernetes, say wait"
            )
        return self

    _found: tuple[Upstream, ...] = PrivateAttr(default=())

    @property
    def every_server(self) -> tuple[Upstream, ...]:
        """Those that are said here, and those that are found meanwhile; an address counts once."""
        said = {server.url for server in self.servers}
        return (*self.servers, *(server for server in self._found if server.url not in said))

    def find(self, servers: Iterable[Upstream]) -> None:
        """All that are found now."""
        self._found = tuple(servers)

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data.resolve() / 'hone-api.db'}"

    def make_data(self) -> None:
        """The folder, for nobody else to read; one that is there stays as its owner has it."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)

    def command(self, stage: Stage) -> list[str]:
        """What a stage's command begins with: the programs beside our own, or those on the PATH.

        In a cluster, those on the PATH of a stage's own image.
        """
        program, *more = self.commands.get(stage) or _PROGRAMS[stage]
        if self.launcher == "kubernetes":
            return [program, *more]
        beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return [shutil.which(program, path=beside) or program, *more]


def load_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """From `file`, or the one that HONE_API_CONFIG names, or nothing but the environment.

    Raises BadConfiguration.
    """
    environment = os.environ if environment is None else environment
    named = file or (Path(environment[_FILE]) if environment.get(_FILE) else None)
    said = _read(named) if named else {}
    for field, variable in (("database", _DATABASE), ("store", _STORE), ("data", _DATA)):
        if environment.get(variable):
            said[field] = environment[variable]
    try:
        return Settings.model_validate(said)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise BadConfiguration(f"{named or 'the environment'}: " + "\n       ".join(problems)) from None


def _read_keys(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{file} cannot be read: {error}") from None
    if not (keys := "\n".join(line for line in lines if not line.lstrip().startswith("#")).strip()):
        raise BadConfiguration(f"{file} holds no key")
    return keys


def _read(file: Path) -> dict[str, object]:
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfiguration(f"{file}: cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise BadConfiguration(f"{file}: is no mapping of settings")
    return said
