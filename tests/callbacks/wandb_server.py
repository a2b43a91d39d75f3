"""A stand-in for W&B's server, for W&B's own client: what a run, `wandb sync` and `wandb agent` ask for, in memory.

Owns: the GraphQL operations that the client of wandb 0.31 was seen to make, the file stream with the real server's
rule as its client describes it (lines are written at an offset, so the same lines again change nothing), uploads of
files and artifacts, and a sweep's queue of runs. Does not own: permissions, schemas, anything that a person looks at.
An operation that it does not know is answered with an error, and kept in `surprises` with all else that is odd.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ENTITY = "tester"
Answer = dict[str, Any]


@dataclass
class StoredRun:
    """One run as the server has it."""

    name: str
    project: str
    sweep: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    tags: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    preempting: bool = False
    starts: int = 0

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.streams.get("wandb-history.jsonl", [])]

    @property
    def rounds(self) -> list[int]:
        """`round` of every line, in order; W&B's own step has to be the same."""
        history = self.history
        assert all(line["_step"] == line["round"] for line in history)
        return [line["round"] for line in history]


@dataclass
class StoredArtifact:
    """One artifact: its manifest names files by the digest of their content."""

    id: str
    type: str
    name: str
    committed: bool = False
    contents: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""

    @property
    def names(self) -> set[str]:
        return set(json.loads(self.manifest)["contents"])


class WandbServer:
    """Listens on 127.0.0.1 from `start` to `stop`; what it was sent stays, and `start` listens on the same port again."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: dict[str, StoredArtifact] = {}
        self.sweep: Mapping[str, Any] = {}
        self.queue: list[dict[str, Any]] = []
        self.operations: list[str] = []
        self.surprises: list[str] = []
        self.on_stream: Callable[[StoredRun], None] = lambda _: None
        self._lock = threading.RLock()
        self._port = 0
        self._http: ThreadingHTTPServer | None = None
        self._connections: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                server._connections.append(self.request)
                super().setup()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with server._lock:
                    reply = server._answer(self.command, urlsplit(self.path).path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Clients that are killed break their connections."""

        self._http = Quiet(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Vanish: refuse new connections and break those that are open."""
        if self._http is None:
            return
        self._http.shutdown()
        self._http.server_close()
        self._http = None
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(2)

    def _answer(self, verb: str, path: str, body: bytes) -> bytes:
        if path == "/graphql":
            return json.dumps(self._operate(json.loads(body))).encode()
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            return self._stream(self.runs[stream[1]], json.loads(body))
        if verb == "PUT" and (upload := re.fullmatch(r"/upload/([^/]+)/(.+)", path)):
            self.runs[upload[1]].files[upload[2]] = body
        elif verb == "PUT" and (upload := re.fullmatch(r"/artifact/([^/]+)/(.+)", path)):
            artifact = self.artifacts[upload[1]]
            if upload[2] == "manifest":
                artifact.manifest = body
            else:
                artifact.contents[upload[2]] = body
        elif path != "/" and not path.startswith("/sdk/otel/"):  # the client's own telemetry
            self.surprises.append(f"{verb} {path}")
        return b"{}"

    def _stream(self, run: StoredRun, message: Mapping[str, Any]) -> bytes:
        for name, chunk in (message.get("files") or {}).items():
            lines = run.streams.setdefault(name, [])
            if name == "wandb-summary.json":
                lines[:] = chunk["content"]
                run.summary = json.loads(chunk["content"][-1])
                continue
            start = chunk["offset"]
            if start > len(lines):
                self.surprises.append(f"{run.name}: {name} has {len(lines)} lines, and more were sent from {start} on")
            if name == "wandb-history.jsonl":
                self._compare(run, lines[start : start + len(chunk["content"])], chunk["content"])
            lines[start : start + len(chunk["content"])] = chunk["content"]
        run.preempting |= bool(message.get("preempting"))
        if message.get("complete"):
            run.exit_code = message.get("exitcode")
        self.on_stream(run)
        return json.dumps({"exitcode": None, "limits": {}}).encode()

    def _compare(self, run: StoredRun, stored: list[str], sent: list[str]) -> None:
        """Lines may be sent again, as a client does that got no answer, but not other ones in their place."""
        for old, new in zip(stored, sent, strict=False):
            if json.loads(old)["_step"] != json.loads(new)["_step"]:
                self.surprises.append(f"{run.name}: {new[:80]} was sent in the place of {old[:80]}")

    def _operate(self, request: Mapping[str, Any]) -> Answer:
        match = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        name = match[1] if match else "Probe"
        self.operations.append(name)
        operation = getattr(self, f"_do_{name}", None)
        if operation is None:
            self.surprises.append(name)
            return {"errors": [{"message": f"{name}: the stand-in does not know this"}], "data": None}
        return {"data": operation(request.get("variables") or {})}

    def _do_Probe(self, _: Answer) -> Answer:
        """What `fedpurin` asks to see whether somebody answers, without credentials."""
        return {"viewer": None}

    def _do_ServerFeaturesQuery(self, _: Answer) -> Answer:
        return {"serverInfo": {"features": []}}

    def _do_Viewer(self, _: Answer) -> Answer:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": teams}}

    def _do_RunResumeStatus(self, variables: Answer) -> Answer:
        run = self.runs.get(variables["name"])
        return {"model": {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": ENTITY},
                          "bucket": run and self._bucket(run)}}  # fmt: skip

    def _do_UpsertBucket(self, variables: Answer) -> Answer:
        name = variables["name"] or variables["id"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(name, variables["project"]))
        run.starts += 1
        run.config |= json.loads(variables["config"] or "{}")
        run.group, run.tags = variables["groupName"] or run.group, variables["tags"] or run.tags
        run.sweep = variables["sweep"] or run.sweep
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: StoredRun) -> Answer:
        lines = {kind: run.streams.get(f"wandb-{kind}.jsonl", []) for kind in ("history", "events")}
        return {
            "id": run.name, "name": run.name, "displayName": run.name, "description": "", "notes": "",
            "sweepName": run.sweep, "tags": run.tags, "config": json.dumps(run.config),
            "summaryMetrics": json.dumps(run.summary), "wandbConfig": json.dumps({"t": 1}),
            "historyLineCount": len(lines["history"]), "eventsLineCount": len(lines["events"]),
            "logLineCount": len(run.streams.get("output.log", [])),
            "historyTail": json.dumps(lines["history"][-1:]), "eventsTail": json.dumps(lines["events"][-1:]),
            "project": {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}},
        }  # fmt: skip

    def _do_CreateRunFiles(self, variables: Answer) -> Answer:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _do_ArtifactType(self, _: Answer) -> Answer:
        return {"project": {"artifact": None}}

    def _do_OrganizationCoreWeaveOrganizationID(self, _: Answer) -> Answer:
        return {"entity": {"organization": None}}

    def _do_CreateArtifact(self, variables: Answer) -> Answer:
        wanted = variables["input"]
        run_id = f"artifact-{len(self.artifacts)}"
        self.artifacts[run_id] = StoredArtifact(run_id, wanted["artifactTypeName"], wanted["artifactCollectionName"])
        return {
            "createArtifact": {
                "artifact": {"id": run_id, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            }
        }

    def _do_CreateArtifactManifest(self, variables: Answer) -> Answer:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(variables["artifactID"])}}

    def _do_UpdateArtifactManifest(self, variables: Answer) -> Answer:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(variables["artifactManifestID"])}}

    def _manifest(self, run_id: str) -> Answer:
        return {
            "id": run_id,
            "file": {"id": run_id, "uploadUrl": f"{self.url}/artifact/{run_id}/manifest", "uploadHeaders": []},
        }

    def _do_CreateArtifactFiles(self, variables: Answer) -> Answer:
        nodes = []
        for wanted in variables["input"]["artifactFiles"]:
            run_id, name = wanted["artifactID"], wanted["name"]
            nodes.append({
                "storagePath": name, "uploadUrl": f"{self.url}/artifact/{run_id}/files/{name}", "uploadHeaders": [],
                "uploadMultipartUrls": None, "artifact": {"id": run_id},
            })  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _do_CommitArtifact(self, variables: Answer) -> Answer:
        self.artifacts[variables["artifactID"]].committed = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": ""}}}

    def _do_SweepWithRuns(self, variables: Answer) -> Answer:
        return {
            "project": {
                "sweep": {
                    "id": "s",
                    "name": variables["sweep"],
                    "config": json.dumps(self.sweep),
                    "runs": {"edges": []},
                }
            }
        }

    def _do_CreateAgent(self, _: Answer) -> Answer:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def _do_Heartbeat(self, variables: Answer) -> Answer:
        commands: list[Answer] = []
        if not json.loads(variables["runState"]):
            commands = [self.queue.pop(0)] if self.queue else [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}
