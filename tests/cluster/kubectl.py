"""kubectl, which is all that the drill talks to a cluster with."""

import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

# Of a command that failed; a whole script may be among its words.
_LONGEST = 160


class KubectlFailed(Exception):
    """The command, and what kubectl said on its standard error."""

    def __init__(self, arguments: tuple[str, ...], said: str, code: int | None) -> None:
        command = " ".join(shlex.join(["kubectl", *arguments]).split())
        shown = command if len(command) <= _LONGEST else f"{command[:_LONGEST]}…"
        super().__init__(f"{shown}: {said.strip() or f'exit code {code}'}")
        self.said = said
        self.code = code

    @property
    def is_not_found(self) -> bool:
        return "(NotFound)" in self.said

    @property
    def is_forbidden(self) -> bool:
        return "(Forbidden)" in self.said


@dataclass(frozen=True)
class Kubectl:
    """Runs it, always in one namespace, and with a limit to how long it may take."""

    namespace: str
    program: str = "kubectl"
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def run(self, *arguments: str, said: str | None = None, timeout: float = 120) -> str:
        """What it prints; `said` is its standard input. Raises KubectlFailed."""
        command = [self.program, f"--namespace={self.namespace}", *arguments]
        try:
            finished = subprocess.run(
                command,
                # Never the terminal's: `kubectl run` would wait for it.
                input=said or "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env=self.environment,
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlFailed(arguments, f"no answer within {timeout:g} s", None) from error
        if finished.returncode:
            raise KubectlFailed(arguments, finished.stderr, finished.returncode)
        return finished.stdout

    def json(self, *arguments: str) -> Object:
        """What it prints, as an object."""
        told: Object = json.loads(self.run(*arguments, "--output=json"))
        return told

    def items(self, *arguments: str) -> list[Object]:
        """The objects of a list."""
        items: list[Object] = self.json("get", *arguments)["items"]
        return items

    def is_there(self, kind: str, name: str) -> bool:
        try:
            self.run("get", kind, name, "--output=name")
        except KubectlFailed as error:
            if error.is_not_found:
                return False
            raise
        return True

    def logs(self, pod: str, *arguments: str) -> str:
        """Of its only or default container; nothing while it has not begun."""
        try:
            return self.run("logs", pod, *arguments)
        except KubectlFailed as error:
            if error.is_not_found or "waiting to start" in error.said or "ContainerCreating" in error.said:
                return ""
            raise
