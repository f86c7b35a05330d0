"""Runs in a pod with the chat's image: a client of the api, who tells what comes of a job in JSON lines.

    python3 client.py tune SECONDS MODEL DEPLOY FILE EPOCHS BATCH [QUESTION…]   upload, tune, follow, ask it
    python3 client.py cancel SECONDS JOB
    python3 client.py delete SECONDS MODEL

DEPLOY is `adapter` or `merged`. Only the standard library. HONE_URL and HONE_API_KEY say whom to ask. An api
that is away is asked again, for SECONDS at most.
"""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

Told = dict[str, object]
ENDS = ("succeeded", "failed", "cancelled")
EVERY = 1.0
"""Seconds between two looks."""
_TIMEOUT = 60
"""A pod that is taken away may leave its connections open."""
BOUNDARY = "hone-drill-boundary"

# Without a proxy, whatever the environment says.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
deadline = 0.0


class Refused(Exception):
    """What the api says of a request that it will not take, another time either."""


def tell(event: str, **data: object) -> None:
    print(json.dumps({"event": event, **data}), flush=True)


def ask(
    path: str,
    body: bytes | None = None,
    kind: str = "application/json",
    again: bool = True,
    method: str | None = None,
) -> Told:
    """What it answers. `again`: whether the request may be repeated, which would make another job of one.

    Raises Refused, and OSError or HTTPException when it is away for too long.
    """
    headers = {"Authorization": f"Bearer {os.environ['HONE_API_KEY']}", "Content-Type": kind}
    since = None
    while True:
        url = os.environ["HONE_URL"] + path
        request = urllib.request.Request(url, data=body, headers=headers, method=method)
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                told: Told = json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, HTTPError) and error.code < 500:
                raise Refused(f"{path}: {error}: {error.read().decode(errors='replace')}") from error
            if not again or time.monotonic() > deadline:
                raise
            if since is None:
                since = time.monotonic()
                tell("away", error=f"{type(error).__name__}: {error}")
            time.sleep(EVERY)
            continue
        if since is not None:
            tell("back", seconds=round(time.monotonic() - since, 1))
        return told


def posted(path: str, **body: object) -> Told:
    return ask(path, json.dumps(body).encode(), again=False)


def upload(file: Path) -> str:
    """Its id, once it was read."""
    parts = [
        b'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune',
        b'Content-Disposition: form-data; name="file"; filename="train.jsonl"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + file.read_bytes(),
    ]
    mark = f"--{BOUNDARY}".encode()
    body = b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"
    made = ask("/files", body, f"multipart/form-data; boundary={BOUNDARY}", again=False)
    tell("uploaded", file=made["id"])
    while made["status"] == "uploaded" and time.monotonic() < deadline:
        time.sleep(EVERY)
        made = ask(f"/files/{made['id']}")
    if made["status"] != "processed":
        raise Refused(f"the file is {made['status']}: {made['status_details']}")
    return str(made["id"])


def news(job: str, seen: set[object]) -> list[Told]:
    """Events that were not told yet, the oldest first."""
    fresh: list[Told] = []
    after = ""
    while True:
        page = ask(f"/fine_tuning/jobs/{job}/events?limit=100{after}")
        data: list[Told] = page["data"]  # type: ignore[assignment]
        new = [each for each in data if each["id"] not in seen]
        fresh += new
        if not page["has_more"] or len(new) < len(data):
            seen.update(each["id"] for each in fresh)
            return fresh[::-1]
        after = f"&after={data[-1]['id']}"


def steps_and_messages(events: list[Told]) -> Iterator[tuple[str, Told]]:
    """Of steps only the last one of a look: a GPU makes thousands."""
    for each in events:
        if each["type"] == "message":
            yield "message", {"level": each["level"], "message": each["message"]}
    if points := [each for each in events if each["type"] == "metrics"]:
        yield "step", {"step": points[-1]["data"]["step"]}  # type: ignore[index]


def follow(job: str) -> Told:
    """The job at its end; each of its states is an event here."""
    status, seen = "", set[object]()
    while time.monotonic() < deadline:
        found = ask(f"/fine_tuning/jobs/{job}")
        for event, told in steps_and_messages(news(job, seen)):
            tell(event, **told)
        if found["status"] != status:
            status = str(found["status"])
            tell(status, model=found["fine_tuned_model"], error=found["error"])
        if status in ENDS:
            return found
        time.sleep(EVERY)
    raise Refused(f"{job} is {status} after all that time")


def tune(model: str, deploy: str, file: str, epochs: str, batch: str, *questions: str) -> int:
    """Exit code: 0 when the job came to an end that was asked for."""
    chosen = {"n_epochs": int(epochs), "batch_size": int(batch)}
    how = {"type": "supervised", "supervised": {"hyperparameters": chosen}}
    made = posted(
        "/fine_tuning/jobs",
        model=model,
        training_file=upload(Path(file)),
        method=how,
        metadata={"hone.deploy": deploy},
    )
    tell("created", job=made["id"])
    ended = follow(str(made["id"]))
    if ended["status"] == "succeeded" and questions:
        name = str(ended["fine_tuned_model"])
        tell("answered", model=name, answers=[answer(name, each) for each in questions])
    return int(ended["status"] == "failed")


def answer(model: str, question: str) -> str:
    asked = {"model": model, "messages": [{"role": "user", "content": question}]}
    body = json.dumps({**asked, "temperature": 0, "max_tokens": 64}).encode()
    told = ask("/chat/completions", body)
    return str(told["choices"][0]["message"]["content"])  # type: ignore[index]


def cancel(job: str) -> int:
    tell("asked", status=posted(f"/fine_tuning/jobs/{job}/cancel")["status"])
    return 0


def delete(model: str) -> int:
    tell("deleted", model=ask(f"/models/{model}", again=False, method="DELETE")["id"])
    return 0


def main() -> int:
    global deadline
    mode, seconds, *words = sys.argv[1:]
    deadline = time.monotonic() + float(seconds)
    try:
        return {"tune": tune, "cancel": cancel, "delete": delete}[mode](*words)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
