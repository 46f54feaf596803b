"""Talking to an OpenAI-compatible server (SGLang, vLLM): one request at a time or many, patient but never for ever.

A busy server (429, 503) and a broken line are waited for and tried again with growing pauses; `Retry-After` is obeyed.
What the server refuses for good (400, 401, 404 …) is said at once. Every failure leaves as InferenceError.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import httpx

from model.errors import InferenceError, RefusedRequestError

DEFAULT_CONNECTIONS = 32
"""Requests in flight. A server that batches is as fast with 32 as with one; more would wait in its own queue, and its
time-out would count there."""
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0
CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 << 20
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Answers after which the same request may succeed."""
_ITS_OWN_FAULT = frozenset({400, 413, 422})
"""Answers that are about the request, not about the server or who asks."""
_KEPT_HEADERS = ("content-type", "retry-after")


class ServerClient:
    """One server. Thread-safe.

    timeout_seconds: for one batch of requests as a whole, waiting and trying again included.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 300.0,
        connections: int = DEFAULT_CONNECTIONS,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        """base_url: up to and with the version, for example "http://gpu1:8000/v1"."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=base_url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,  # a proxy variable must not send radiographs elsewhere
            follow_redirects=False,
        )
        self.base_url = base_url
        self._timeout_seconds = timeout_seconds
        self._connections = connections
        self._first_pause = first_pause_seconds
        self._room = threading.Semaphore(connections)

    def __enter__(self) -> ServerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[str]:
        """Names of the models that the server offers. Raises InferenceError."""
        answer = self._request("GET", "models", None, self._deadline())
        try:
            return [str(item["id"]) for item in answer["data"]]
        except (KeyError, TypeError) as error:
            raise InferenceError(f"{self.base_url}: the list of models cannot be understood") from error

    def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One chat completion. Raises InferenceError."""
        return self._request("POST", "chat/completions", body, self._deadline())

    def chat_many(self, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Several chat completions, at most `connections` at once, under one deadline. Raises InferenceError."""
        if not bodies:
            return []
        deadline = self._deadline()
        with ThreadPoolExecutor(max_workers=min(self._connections, len(bodies))) as pool:
            futures = [pool.submit(self._request, "POST", "chat/completions", body, deadline) for body in bodies]
            try:
                return [future.result() for future in futures]
            except InferenceError:
                for future in futures:  # the rest has become useless
                    future.cancel()
                raise

    def tokenize(self, model: str, text: str) -> dict[str, Any]:
        """Tokenise an answer as it stands in a conversation (vLLM's /tokenize). Raises InferenceError."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return self._request("POST", self._beside("tokenize"), body, self._deadline())

    def detokenize(self, model: str, token: int) -> str:
        """Return the text of one token (vLLM's /detokenize). Raises InferenceError, KeyError."""
        body = {"model": model, "tokens": [token]}
        return str(self._request("POST", self._beside("detokenize"), body, self._deadline())["prompt"])

    def _beside(self, path: str) -> str:
        """The address of an endpoint that stands beside the versioned ones: "http://gpu1:8000/tokenize"."""
        return f"{self.base_url.rstrip('/').removesuffix('/v1')}/{path}"

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_seconds

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None, deadline: float) -> dict[str, Any]:
        reason = "no attempt was made"
        for attempt in range(ATTEMPTS):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            pause = min(self._first_pause * 2**attempt, LONGEST_PAUSE_SECONDS)
            try:
                with self._room:
                    response = self._fetch(method, path, body, deadline)
            except httpx.TimeoutException as error:
                reason = f"no answer in time ({type(error).__name__})"
            except httpx.RequestError as error:
                reason = f"the line broke ({error})"
            else:
                if response.is_success:
                    return self._decode(response)
                reason = f"status {response.status_code}: {response.text[:200]}"
                if response.status_code not in _BUSY:
                    kind = RefusedRequestError if response.status_code in _ITS_OWN_FAULT else InferenceError
                    raise kind(f"{self.base_url}: the server refused: {reason}")
                pause = max(pause, _retry_after(response))
            # jitter, so that many workers do not come back in the same instant
            pause *= random.uniform(0.8, 1.2)
            if attempt + 1 == ATTEMPTS or time.monotonic() + pause >= deadline:
                break
            time.sleep(pause)
        raise InferenceError(f"{self.base_url}: gave up: {reason}")

    def _fetch(self, method: str, path: str, body: Mapping[str, Any] | None, deadline: float) -> httpx.Response:
        """The whole answer by the deadline and within the size: httpx's own time-out is one between two pieces, which a
        server that sends a byte now and then never reaches."""
        # Past the deadline already: the shortest time-out ends it at once.
        left = max(deadline - time.monotonic(), 0.001)
        content = bytearray()
        with self._http.stream(method, path, json=body, timeout=_timeout(left)) as response:
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MAX_ANSWER_BYTES:
                    raise InferenceError(f"{self.base_url}: the answer is longer than {MAX_ANSWER_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer trickles in")
        headers = {name: value for name, value in response.headers.items() if name.lower() in _KEPT_HEADERS}
        return httpx.Response(response.status_code, headers=headers, content=bytes(content))

    def _decode(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise InferenceError(f"{self.base_url}: the answer is no JSON object")
        return answer


def _timeout(left: float) -> httpx.Timeout:
    return httpx.Timeout(left, connect=min(left, CONNECT_SECONDS))


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks for, 0 where it does not or gives a date."""
    try:
        # Capped: a server that asks for an hour must not hold a study for as long.
        return min(max(float(response.headers.get("Retry-After", "0")), 0.0), LONGEST_PAUSE_SECONDS * 3)
    except ValueError:
        return 0.0
