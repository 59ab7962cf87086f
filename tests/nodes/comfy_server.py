"""A real ComfyUI of its own for the live test: started on a free loopback port, driven over its HTTP API."""

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACK = "wm-pipelines"


class Refused(Exception):
    """The server answered with an error status; `body` is its JSON."""

    def __init__(self, status: int, body: dict):
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


class Comfy:
    """One server process with this repository linked into its custom nodes, and one websocket listener."""

    def __init__(self, base: Path, home: Any, *options: str):
        """A server of the ComfyUI `home`, a `comfy_homes.Home`, with everything it writes under `base`."""
        self.base = base
        self.python = home.python
        for name in ("custom_nodes", "input", "output", "models/wm_pipelines"):
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "custom_nodes" / PACK).symlink_to(ROOT, target_is_directory=True)
        shutil.copy(HERE / "comfy_probe.py", base / "custom_nodes" / "wm_test_probe.py")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.client = uuid.uuid4().hex
        self.log_path = base / "server.log"
        self.messages: list[dict] = []
        # Offline: whatever these tests load must be here already.
        environment = {**home.environment, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        command = [
            self.python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(self.port),
            "--base-directory", str(base), "--database-url", f"sqlite:///{base / 'comfyui.db'}",
            "--disable-auto-launch", "--disable-api-nodes", "--preview-method", "auto", *options,
        ]  # fmt: skip
        self.log = self.log_path.open("w")
        self.server = subprocess.Popen(
            command, cwd=home.path, env=environment, stdout=self.log, stderr=subprocess.STDOUT
        )
        self.listener: subprocess.Popen | None = None
        try:
            self.wait_for(self._answers, 600, "the server to start")
            self._listen()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for process in (self.listener, self.server):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.log.close()

    def _answers(self) -> bool:
        if self.server.poll() is not None:
            raise RuntimeError(f"ComfyUI ended with {self.server.returncode}:\n{self.tail()}")
        try:
            return bool(self.get("/system_stats"))
        except (OSError, Refused):
            return False

    def _listen(self) -> None:
        address = f"ws://127.0.0.1:{self.port}/ws?clientId={self.client}"
        command = [self.python, str(HERE / "comfy_listener.py"), address]
        self.listener = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        def read() -> None:
            for line in self.listener.stdout:
                self.messages.append(json.loads(line))

        threading.Thread(target=read, daemon=True).start()
        self.wait_for(lambda: bool(self.messages), 120, "the websocket")

    def tail(self) -> str:
        """The end of the server's log."""
        return self.log_path.read_text(errors="replace")[-4000:]

    def wait_for(self, condition, seconds: float, what: str):
        """Poll until `condition()` is true and return its value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.2)
        raise TimeoutError(f"waited {seconds} s for {what}; the server's log ends with:\n{self.tail()}")

    def request(self, path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.loads(error.read() or b"{}")) from None

    def get(self, path: str) -> dict:
        return json.loads(self.request(path))

    def queue(self, prompt: dict) -> str:
        """Queue a workflow in API form; returns the id of the run."""
        answer = json.loads(self.request("/prompt", {"prompt": prompt, "client_id": self.client}))
        return answer["prompt_id"]

    def result(self, prompt_id: str, seconds: float = 600) -> dict:
        """Wait for the end of a run, good or bad, and return its history entry."""
        return self.wait_for(lambda: self.get(f"/history/{prompt_id}").get(prompt_id), seconds, f"run {prompt_id}")

    def run(self, prompt: dict, seconds: float = 600) -> dict:
        return self.result(self.queue(prompt), seconds)

    def picture(self, entry: dict) -> bytes:
        """The file behind an entry of a run's `images`."""
        query = {"filename": entry["filename"], "subfolder": entry["subfolder"], "type": entry["type"]}
        return self.request("/view?" + urllib.parse.urlencode(query))

    def probe(self) -> dict:
        """Live tensors and model modules in the server process, by Python's own collector."""
        return self.get("/wm_test_probe")
