"""Runs in a pod with the chat's image: asks the server, and tells what came of it in JSON lines.

    python3 -c "$(cat asker.py)" load SECONDS       ask through a swap; ends when another version is served
    python3 -c "$(cat asker.py)" stream SECONDS     one answer that takes about so long, piece by piece

Only the standard library, so that nothing retries a request in silence. HONE_URL and HONE_API_KEY say whom
to ask.
"""

import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException

ASKING, MORE = 3, 9
"""Requests at once, and how many are still asked of the new version."""
# What a request may meet; ValueError is a body that is no JSON.
ERRORS = (OSError, HTTPException, ValueError, KeyError)


def request(path: str, body: dict[str, object] | None = None) -> urllib.request.Request:
    return urllib.request.Request(
        os.environ["HONE_URL"] + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['HONE_API_KEY']}",
            "Content-Type": "application/json",
        },
    )


# Without a proxy, whatever the environment says.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(path: str, body: dict[str, object] | None = None) -> dict[str, object]:
    with opener.open(request(path, body), timeout=300) as answer:
        told: dict[str, object] = json.loads(answer.read())
    return told


def card() -> tuple[str, str]:
    """The model's name and the version that is served."""
    model = ask("/models")["data"][0]  # type: ignore[index]
    return str(model["id"]), str(model["version"])


def tell(event: str, **data: object) -> None:
    print(json.dumps({"event": event, **data}), flush=True)


@dataclass
class Load:
    """Clients that ask without a pause, and what they met."""

    model: str
    asked: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self) -> None:
        question = {"role": "user", "content": "What is the licence of Hone?"}
        while not self.over.is_set():
            start, failure = time.monotonic(), None
            try:
                ask("/chat/completions", {"model": self.model, "messages": [question], "max_tokens": 8})
            except ERRORS as error:
                failure = f"{type(error).__name__}: {error}"
                # A server that is down would fail thousands of times a second.
                time.sleep(0.5)
            with self.lock:
                self.asked += 1
                self.slowest = max(self.slowest, time.monotonic() - start)
                self.failures += [failure] if failure else []


def load(seconds: float) -> int:
    """Exit code: 0 when a new version came and no request failed."""
    model, before = card()
    swarm, after = Load(model), before
    threads = [threading.Thread(target=swarm.client, daemon=True) for _ in range(ASKING)]
    for thread in threads:
        thread.start()
    tell("asking", model=model, version=before)
    wanted, deadline = None, time.monotonic() + seconds
    while time.monotonic() < deadline and (wanted is None or swarm.asked < wanted):
        time.sleep(0.3)
        try:
            after = card()[1]
        except ERRORS as error:
            swarm.failures.append(f"the model's card: {type(error).__name__}: {error}")
        if after != before and wanted is None:
            wanted = swarm.asked + MORE
    swarm.over.set()
    for thread in threads:
        thread.join()
    told = {"asked": swarm.asked, "failed": len(swarm.failures), "failures": swarm.failures[:5]}
    tell("asked", before=before, after=after, slowest=round(swarm.slowest, 2), **told)
    return 0 if after != before and not swarm.failures else 1


def pieces(body: dict[str, object]) -> Iterator[dict[str, object]]:
    """Of a streamed answer; the last is `{"done": True}`, unless it was cut off."""
    with opener.open(request("/completions", {**body, "stream": True}), timeout=300) as answer:
        for line in answer:
            said = line.decode().strip()
            if said == "data: [DONE]":
                yield {"done": True}
            elif said.startswith("data: "):
                chunk = json.loads(said.removeprefix("data: "))
                # An error is told in a stream that has begun with 200.
                yield chunk["choices"][0] if "choices" in chunk else {"error": chunk.get("error", chunk)}


def stream(seconds: float) -> int:
    """Exit code: 0 when the answer ended as an answer does."""
    model = card()[0]
    body: dict[str, object] = {"model": model, "prompt": "Once", "temperature": 0, "ignore_eos": True}
    for tokens in (1, 32):
        start = time.monotonic()
        ask("/completions", {**body, "max_tokens": tokens})
    rate = 32 / (time.monotonic() - start)
    begun, count, finish, done, wrong = time.monotonic(), 0, None, False, ""
    try:
        for piece in pieces({**body, "max_tokens": max(32, min(1500, int(rate * seconds)))}):
            count += 1
            finish, done = piece.get("finish_reason") or finish, "done" in piece
            wrong = str(piece["error"]) if "error" in piece else wrong
            if count == 1:
                tell("streaming", rate=round(rate, 1))
    except ERRORS as error:
        wrong = f"{type(error).__name__}: {error}"
    took = round(time.monotonic() - begun, 2)
    tell("streamed", pieces=count, finish=finish, done=done, error=wrong, seconds=took)
    return 0 if done and finish == "length" and not wrong else 1


if __name__ == "__main__":
    sys.exit({"load": load, "stream": stream}[sys.argv[1]](float(sys.argv[2])))
