"""A Hub on the loopback interface: the HTTP protocol that huggingface_hub speaks, kept in memory.

Repositories hold regular files (git blobs) and LFS files (by sha256). LFS content is served by redirect from another
origin, as the Hub does from its CDN, so that a client which leaks its token there is seen. No file has a Xet hash, so
that downloads take plain HTTP; the client asks no server before it uploads by Xet, so uploads need
HF_HUB_DISABLE_XET=1 on the client's side.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".png", ".bin")
PART_SIZE = 64 * 1024


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    # Commit sha -> path -> ("regular", content) or ("lfs", sha256).
    commits: dict[str, dict[str, tuple[str, Any]]] = field(default_factory=dict)
    head: str = ""

    def commit(self, files: dict[str, tuple[str, Any]], message: str) -> str:
        state = repr((self.head, message, sorted(files.items())))
        self.head = hashlib.sha1(state.encode()).hexdigest()
        self.commits[self.head] = files
        return self.head


@dataclass
class Request:
    method: str
    path: str
    origin: str
    token: str | None
    range: str | None
    status: int = 0


class FakeHub(ThreadingHTTPServer):
    """Start with `with FakeHub() as hub:`; `hub.endpoint` is the value for HF_ENDPOINT.

    `tokens` maps each valid token to the namespaces it may write to. `requests` records what clients asked.
    `drop_once` names LFS objects whose first download is cut off near its end.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.tokens: dict[str, set[str]] = {"writer": {"org"}, "reader": set()}
        self.requests: list[Request] = []
        self.drop_once: set[str] = set()
        self.lock = threading.Lock()
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.shutdown()
        self.server_close()

    def add_files(self, repo_id: str, files: dict[str, bytes], **flags: bool) -> str:
        """Commit files from the server's own side and return the sha."""
        repo = self.repos.setdefault(repo_id, Repo(**flags))
        tree = dict(repo.commits.get(repo.head, {}))
        for path, content in files.items():
            if path.endswith(LFS_SUFFIXES):
                oid = hashlib.sha256(content).hexdigest()
                self.objects[oid] = content
                tree[path] = ("lfs", oid)
            else:
                tree[path] = ("regular", content)
        return repo.commit(tree, "add files")

    def fetched(self) -> list[str]:
        """Paths of the files that clients asked for through resolve, sorted, each once."""
        found = {re.sub(r"^.*/resolve/[^/]+/", "", item.path) for item in self.requests if "/resolve/" in item.path}
        return sorted(found)


class _Answer(Exception):
    """Ends the handling of a request with an error the client knows by its code."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        split = urlsplit(self.path)
        header = self.headers.get("Authorization")
        self.token = header.removeprefix("Bearer ") if header else None
        self.path = unquote(split.path)
        host = self.headers.get("Host", "")
        self.entry = Request(self.command, self.path, host, self.token, self.headers.get("Range"))
        self.server.requests.append(self.entry)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._read_chunks()
        try:
            if self.token is not None and self.token not in self.server.tokens:
                raise _Answer(401, message="Invalid credentials in Authorization header")
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, self.path)
                if match and self.command in method:
                    with self.server.lock:
                        answer = action(self, *match.groups())
                    self._send(*answer)
                    return
            raise _Answer(404, message=f"no route for {self.command} {self.path}")
        except _Answer as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            self._send(error.status, {"error": error.message}, headers)

    def _read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
        self.entry.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _repo(self, repo_id: str, write: bool = False) -> Repo:
        """The repository, or the refusal that the Hub gives to this token."""
        repo = self.server.repos.get(repo_id)
        owner = repo_id.split("/")[0]
        if repo is None or (repo.private and owner not in self.server.tokens.get(self.token, ())):
            if self.token is None:
                raise _Answer(401, message="Invalid username or password.")
            raise _Answer(404, "RepoNotFound", "Repository not found")
        if write and owner not in self.server.tokens.get(self.token, ()):
            raise _Answer(403, message="You don't have the rights to write to this repository")
        if repo.gated and owner not in self.server.tokens.get(self.token, ()):
            status = 401 if self.token is None else 403
            raise _Answer(status, "GatedRepo", f"Access to model {repo_id} is restricted")
        return repo

    def _tree(self, repo: Repo, revision: str) -> tuple[str, dict[str, tuple[str, Any]]]:
        sha = repo.head if revision == "main" else revision
        if sha not in repo.commits:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repo.commits[sha]

    def create(self) -> tuple:
        request = json.loads(self.body)
        repo_id = f"{request['organization']}/{request['name']}"
        if self.token is None:
            raise _Answer(401, message="Invalid username or password.")
        if request["organization"] not in self.server.tokens[self.token]:
            raise _Answer(403, message=f"You don't have the rights to create a model under {request['organization']}")
        if repo_id in self.server.repos:
            return 409, {"error": "You already created this model repo", "url": f"{self.server.endpoint}/{repo_id}"}
        private = request.get("private") or request.get("visibility") == "private"
        repo = self.server.repos[repo_id] = Repo(private=bool(private))
        repo.commit({".gitattributes": ("regular", b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")}, "initial")
        return 200, {"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id}

    def validate_yaml(self) -> tuple:
        return 200, {"errors": [], "warnings": []}

    def info(self, repo_id: str, revision: str = "main") -> tuple:
        repo = self._repo(repo_id)
        sha, tree = self._tree(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(tree)]
        return 200, {
            "_id": repo_id, "id": repo_id, "modelId": repo_id, "sha": sha, "private": repo.private,
            "gated": "auto" if repo.gated else False, "tags": [], "siblings": siblings, "downloads": 0, "likes": 0,
        }  # fmt: skip

    def list_tree(self, repo_id: str, revision: str) -> tuple:
        _, tree = self._tree(self._repo(repo_id), revision)
        return 200, [self._describe(path, *item) for path, item in sorted(tree.items())]

    def _describe(self, path: str, kind: str, content: Any) -> dict[str, Any]:
        if kind == "regular":
            return {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        size = len(self.server.objects[content])
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{content}\nsize {size}\n".encode()
        lfs = {"oid": content, "size": size, "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "size": size, "oid": git_oid(pointer), "lfs": lfs}

    def preupload(self, repo_id: str, revision: str) -> tuple:
        _, tree = self._tree(self._repo(repo_id, write=True), revision)
        files = []
        for item in json.loads(self.body)["files"]:
            assert len(base64.b64decode(item["sample"])) <= 512
            mode = "lfs" if item["path"].endswith(LFS_SUFFIXES) else "regular"
            files.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False})
            if item["path"] in tree:
                kind, content = tree[item["path"]]
                files[-1]["oid"] = content if kind == "lfs" else git_oid(content)
        return 200, {"files": files}

    def lfs_batch(self, repo_id: str) -> tuple:
        self._repo(repo_id, write=True)
        request = json.loads(self.body)
        objects = []
        for item in request["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.server.objects:
                entry["actions"] = {
                    "upload": self._upload_action(item["oid"], item["size"]),
                    "verify": {"href": f"{self.server.endpoint}/lfs/verify"},
                }
            objects.append(entry)
        return 200, {"transfer": "basic", "objects": objects}

    def _upload_action(self, oid: str, size: int) -> dict[str, Any]:
        if size <= PART_SIZE:
            return {"href": f"{self.server.cdn}/lfs/put/{oid}"}
        count = -(-size // PART_SIZE)
        header = {str(part): f"{self.server.cdn}/lfs/part/{oid}/{part}" for part in range(1, count + 1)}
        header["chunk_size"] = str(PART_SIZE)
        return {"href": f"{self.server.endpoint}/lfs/complete/{oid}", "header": header}

    def lfs_put(self, oid: str) -> tuple:
        return self._store(oid, self.body)

    def lfs_part(self, oid: str, part: str) -> tuple:
        self.server.parts.setdefault(oid, {})[int(part)] = self.body
        return 200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}

    def lfs_complete(self, oid: str) -> tuple:
        parts = self.server.parts.pop(oid)
        for item in json.loads(self.body)["parts"]:
            if item["etag"].strip('"') != hashlib.md5(parts[item["partNumber"]]).hexdigest():
                raise _Answer(400, message="part does not match its etag")
        return self._store(oid, b"".join(parts[number] for number in sorted(parts)))

    def _store(self, oid: str, content: bytes) -> tuple:
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Answer(400, message="content does not match its sha256")
        self.server.objects[oid] = content
        return 200, b""

    def lfs_verify(self) -> tuple:
        request = json.loads(self.body)
        if len(self.server.objects.get(request["oid"], b"")) != request["size"]:
            raise _Answer(404, message="object is missing or of another size")
        return 200, {}

    def commit(self, repo_id: str, revision: str) -> tuple:
        repo = self._repo(repo_id, write=True)
        _, tree = self._tree(repo, revision)
        tree, message = dict(tree), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                tree[value["path"]] = ("regular", base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    raise _Answer(400, message=f"LFS pointer to a missing object: {value['path']}")
                tree[value["path"]] = ("lfs", value["oid"])
            elif item["key"] == "deletedFile":
                del tree[value["path"]]
            else:
                raise _Answer(400, message=f"unknown operation {item['key']!r}")
        sha = repo.commit(tree, message)
        return 200, {"success": True, "commitOid": sha, "commitUrl": f"{self.server.endpoint}/{repo_id}/commit/{sha}"}

    def resolve(self, repo_id: str, revision: str, path: str) -> tuple:
        sha, tree = self._tree(self._repo(repo_id), revision)
        if path not in tree:
            raise _Answer(404, "EntryNotFound", "Entry not found")
        kind, content = tree[path]
        headers = {"X-Repo-Commit": sha}
        if kind == "lfs":
            size = len(self.server.objects[content])
            headers |= {"X-Linked-Etag": f'"{content}"', "X-Linked-Size": str(size)}
            return 302, b"", headers | {"Location": f"{self.server.cdn}/cdn/{content}"}
        return self._ranged(content, headers | {"ETag": f'"{git_oid(content)}"'})

    def cdn(self, oid: str) -> tuple:
        content = self.server.objects[oid]
        if oid in self.server.drop_once and self.command == "GET":
            # Promise everything, send most, hang up: the client has to resume by Range.
            self.server.drop_once.discard(oid)
            self.close_connection = True
            return 200, content[: len(content) * 9 // 10], {"Content-Length": str(len(content))}
        return self._ranged(content, {"ETag": f'"{oid}"'})

    def _ranged(self, content: bytes, headers: dict[str, str]) -> tuple:
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return 200, content, headers
        start = int(match[1])
        if start >= len(content):
            return 416, b"", headers | {"Content-Range": f"bytes */{len(content)}"}
        end = min(int(match[2]) if match[2] else len(content) - 1, len(content) - 1)
        return 206, content[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"}


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("GET", rf"/api/models/{REPO}", _Handler.info),
    ("GET", rf"/api/models/{REPO}/revision/([^/]+)", _Handler.info),
    ("GET", rf"/api/models/{REPO}/tree/([^/]+)", _Handler.list_tree),
    ("POST", rf"/api/models/{REPO}/preupload/([^/]+)", _Handler.preupload),
    ("POST", rf"/api/models/{REPO}/commit/([^/]+)", _Handler.commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/put/([0-9a-f]{64})", _Handler.lfs_put),
    ("PUT", r"/lfs/part/([0-9a-f]{64})/(\d+)", _Handler.lfs_part),
    ("POST", r"/lfs/complete/([0-9a-f]{64})", _Handler.lfs_complete),
    ("POST", r"/lfs/verify", _Handler.lfs_verify),
    (("GET", "HEAD"), rf"/{REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (("GET", "HEAD"), r"/cdn/([0-9a-f]{64})", _Handler.cdn),
)
