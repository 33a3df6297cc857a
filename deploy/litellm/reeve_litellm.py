"""Reeve's half of a LiteLLM proxy: who may call (`auth`), and what was used (`usage`).

Stands beside the proxy's configuration, which names both (config.yaml here is a working example). Needs nothing but
LiteLLM. What it is told, by the environment:

  REEVE_GATEWAY_URL      https://reeve.example.org/v1/gateways/litellm
  REEVE_GATEWAY_SECRET   the secret of that gateway in reeve.yaml
  REEVE_CA_FILE          certificates to trust instead of the system's (optional)
  REEVE_SPOOL            folder for reports that are still to be delivered; default ./reeve-spool

`usage` appends each event to a file in the spool and delivers the files from a thread of its own, each until Reeve has
said 200. LiteLLM's own `generic_api` callback forgets a batch that fails, and whatever is queued while one is on its
way; here an event is lost only if the machine dies before the file is on its disk. Events that are delivered twice,
because an answer was lost, are one to Reeve. Prompts and answers do not go into the spool.

Several workers of a proxy, and several proxies on a machine, may share a spool: each file is locked by whoever writes or
delivers it, and files of a process that is gone are delivered by the others or by the next start.
"""

import asyncio
import collections
import fcntl
import gzip
import hashlib
import json
import logging
import os
import ssl
import threading
import time
import urllib.error
import urllib.request

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

log = logging.getLogger("reeve")

BATCH_EVENTS = 512
BATCH_BYTES = 1 << 20
GATHER_SECONDS = 0.2  # what comes within it goes in one report
RETRY_SECONDS = (1, 60)  # doubled from the first to the second
TIMEOUT_SECONDS = 30
KEY_SECONDS = 5  # how long a key that was good is taken for good: a revoked one may live on for so long

TEXT_MAX = 1000  # characters of a text in a report

# What an agent may ask a gateway for. Anything else under /v1 makes work that is not reported call by call (batches,
# files, fine-tuning), or is the proxy's own management.
ROUTES = {
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
}

# Members of a request that are not offered: the first makes work that goes on behind the report of the call, the others
# lead the call to models that were not asked about.
REFUSED = ("background", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks")

# Items in the output of an answer of /v1/responses that cost nothing beside their tokens: the model's own, and calls of
# tools that the caller runs. Anything else, and what is not known here yet, the provider did, at a price of its own.
FREE_ITEMS = {
    "message",
    "reasoning",
    "compaction",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "computer_call",
    "computer_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "additional_tools",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
}

# What Reeve reads of an event (docs/litellm.md there). The rest, prompts and answers with it, stays here.
MEMBERS = (
    "litellm_call_id",
    "call_type",
    "cache_hit",
    "status",
    "endTime",
    "model",
    "model_group",
    "custom_llm_provider",
    "response_cost",
    "prompt_tokens",
    "completion_tokens",
)


class Client:
    """Calls Reeve, blocking: from threads only."""

    def __init__(self):
        self.url = os.environ["REEVE_GATEWAY_URL"].rstrip("/")
        self.secret = os.environ["REEVE_GATEWAY_SECRET"]
        ca = os.environ.get("REEVE_CA_FILE")
        context = ssl.create_default_context(cafile=ca) if self.url.startswith("https:") else None
        handlers = [urllib.request.ProxyHandler({})]
        if context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self.opener = urllib.request.build_opener(*handlers)

    def post(self, path, body, headers):
        """Status and JSON of the answer; OSError when there is none."""
        request = urllib.request.Request(
            self.url + path, data=body, method="POST", headers={"Authorization": "Bearer " + self.secret, **headers}
        )
        try:
            with self.opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as e:
            with e:
                try:
                    return e.code, json.load(e)
                except ValueError:
                    return e.code, {}
        except ValueError as e:
            raise OSError(f"not an answer of Reeve: {e}") from e


client = Client()


# --- who may call ---

_good_keys = {}  # hash -> (until, principal)
_GOOD_KEYS_MAX = 10000


def _verify(key_hash):
    body = json.dumps({"key_hash": key_hash}).encode()
    return client.post("/keys/verify", body, {"Content-Type": "application/json"})


async def auth(request, api_key):
    """LiteLLM's custom_auth: the key must be a living workspace's."""
    path = request.url.path
    if request.method != "POST" or path not in ROUTES:
        raise HTTPException(status_code=403, detail=f"{request.method} {path}: not offered to workspaces")
    key_hash = hashlib.sha256((api_key or "").encode()).hexdigest()
    until, who = _good_keys.get(key_hash, (0, None))
    if until < time.monotonic():
        try:
            status, who = await asyncio.to_thread(_verify, key_hash)
        except OSError as e:
            raise HTTPException(status_code=503, detail="the key cannot be checked now: try again") from e
        if status != 200:
            log.error("reeve: keys/verify answers %s: %s", status, who.get("detail", ""))
            raise HTTPException(status_code=503, detail="the key cannot be checked now: try again")
        if who.get("valid") is not True:
            _good_keys.pop(key_hash, None)
            raise HTTPException(status_code=401, detail="this key is not known, or was revoked")
        if len(_good_keys) >= _GOOD_KEYS_MAX:
            _good_keys.clear()
        _good_keys[key_hash] = (time.monotonic() + KEY_SECONDS, who)
    # The hash stands for the key everywhere in LiteLLM: its text goes no further than this function.
    return UserAPIKeyAuth(
        api_key=key_hash,
        key_alias=f"{who['namespace']}/{who['workspace']}",
        team_id=who["tenant"],
        user_id=who.get("user"),
    )


# --- what was used ---


def short(value):
    """A caller can write a name of any length, or something that is none: it must not make the report too large."""
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)[:TEXT_MAX]


def member(of, name):
    return of.get(name) if isinstance(of, dict) else getattr(of, name, None)


def is_free(item):
    kind = member(item, "type")
    if kind == "shell_call":  # the caller's shell, or a container of the provider's
        return member(member(item, "environment"), "type") == "local"
    return kind in FREE_ITEMS


def provider_tools(response):
    """What the provider did beside the model: "code_interpreter_call 1, image_generation_call 2"."""
    output = member(response, "output")
    if not isinstance(output, (list, tuple)):
        return None
    counts = collections.Counter(str(member(item, "type")) for item in output if not is_free(item))
    return ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items())) or None


def slim(payload, response=None):
    """What Reeve reads of a StandardLoggingPayload."""
    metadata = payload.get("metadata") or {}
    cost = payload.get("cost_breakdown") or {}
    event = {name: short(payload.get(name)) for name in MEMBERS}
    event["reeve_provider_tools"] = short(provider_tools(response))
    event["error_str"] = "(said)" if payload.get("error_str") else None  # it may quote the prompt
    event["cost_breakdown"] = {name: short(cost.get(name)) for name in ("tool_usage_cost", "service_tier")}
    event["metadata"] = {
        "user_api_key_hash": short(metadata.get("user_api_key_hash")),
        "usage_object": metadata.get("usage_object"),
    }
    return event


class Spool:
    """Events in files of lines; one is open for writing, the others wait for delivery."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.lock = threading.Lock()
        self.sequence = 0
        self.fd = None
        self.path = None
        self.events = 0
        self.has_news = threading.Event()
        threading.Thread(target=self.deliver_forever, name="reeve-usage", daemon=True).start()

    def append(self, event):
        line = json.dumps(event, separators=(",", ":"), default=str).encode() + b"\n"
        with self.lock:
            if self.fd is None:
                self.sequence += 1
                name = f"{time.time_ns()}-{os.getpid()}-{self.sequence}.ndjson"
                self.path = os.path.join(self.folder, name)
                self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
                fcntl.flock(self.fd, fcntl.LOCK_EX)
            size = os.fstat(self.fd).st_size
            try:
                while line:  # a disk that is full raises: LiteLLM logs it
                    line = line[os.write(self.fd, line) :]
            except OSError:
                os.ftruncate(self.fd, size)  # half a line would spoil the next, and with it the whole file
                raise
            self.events += 1
            if self.events >= BATCH_EVENTS or os.fstat(self.fd).st_size >= BATCH_BYTES:
                self.close()
        self.has_news.set()

    def close(self):
        """The open file is complete. Its lock goes with it. Under `lock`."""
        if self.fd is not None:
            os.fsync(self.fd)
            os.close(self.fd)
        self.fd = None
        self.events = 0

    def deliver_forever(self):
        pause = 0
        while True:
            if pause == 0:
                self.has_news.wait(timeout=RETRY_SECONDS[1])  # or what another process has left
                self.has_news.clear()
            time.sleep(pause or GATHER_SECONDS)
            try:
                self.deliver_all()
                pause = 0
            except Exception as e:  # noqa: BLE001  # whatever it was, the files are still there
                pause = min(max(2 * pause, RETRY_SECONDS[0]), RETRY_SECONDS[1])
                log.warning("reeve: usage is not delivered, next try in %s s: %s", pause, e)

    def deliver_all(self):
        with self.lock:
            self.close()
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(".ndjson"):
                self.deliver(os.path.join(self.folder, name))

    def deliver(self, path):
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return  # another process was quicker
        with os.fdopen(fd, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # being written, or delivered, by another process
            text = file.read()
            text = text[: text.rfind(b"\n") + 1]  # a line that its writer did not end was never complete
            if text:
                self.send(path, text)
            if os.path.exists(path):
                os.unlink(path)

    def send(self, path, text):
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
        status, answer = client.post("/usage", gzip.compress(text, 6), headers)
        if status in (400, 413):  # it will never be taken as it is: a person must look
            os.rename(path, path + ".refused")
            log.error("reeve: %s.refused: %s", path, answer.get("detail"))
            return
        if status != 200:
            raise OSError(f"{status} {answer.get('detail', '')}")
        for row in answer["rejected"]:
            level = logging.ERROR if row["code"] == "invalid" else logging.INFO  # the others are in suspense
            log.log(level, "reeve: event %s of %s: %s: %s", row["index"], path, row["code"], row["detail"])


class Usage(CustomLogger):
    def __init__(self):
        super().__init__()
        self.spool = None

    def keep(self, kwargs, response=None):
        payload = kwargs.get("standard_logging_object")
        if payload is None:
            return
        if self.spool is None:
            self.start()
        self.spool.append(slim(payload, response))

    def start(self):
        """In the worker that serves, not in a process that forks it: threads do not survive that."""
        self.spool = Spool(os.environ.get("REEVE_SPOOL", "reeve-spool"))
        self.spool.has_news.set()  # what an earlier process has left

    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        for said in (data, data.get("extra_body")):
            for name in REFUSED:
                if isinstance(said, dict) and said.get(name):
                    raise HTTPException(status_code=400, detail=f"`{name}`: not offered to workspaces")

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.keep(kwargs, response_obj)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.keep(kwargs)


usage = Usage()
try:
    asyncio.get_running_loop()
    usage.start()
except RuntimeError:
    pass  # not serving yet: the first event starts it
