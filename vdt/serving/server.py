"""Server of a policy on this machine's loopback address: MLflow's scoring server, with short answers to bad requests."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, load_model, scoring_server

from vdt.agent.policy import Policy
from vdt.config.schema import Config
from vdt.serving.model_files import describe_model
from vdt.serving.requests import RequestError, decode
from vdt.tracking import write_texts

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 5001
SCORING, JSON = "/invocations", "application/json"
MOST_BYTES = 64 * 2**20  # of a request: a hundred whole episodes of a thousand steps
LONGEST_MESSAGE = 500
PREFIX = "Failed to predict data"  # MLflow puts the whole request behind it, and the reason behind the last ERROR
ERROR = "Error: "

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Answer:
    """Answer to a request: status and JSON."""

    status: int
    body: str

    @classmethod
    def refuse(cls, status: int, message: str) -> Answer:
        """Make an answer that says in one sentence why there is no action."""
        return cls(status, json.dumps({"error_code": "BAD_REQUEST", "message": message[:LONGEST_MESSAGE]}))


class PolicyServer:
    """ASGI application: scoring requests are answered here, all others by MLflow's pages."""

    def __init__(self, model: PyFuncModel) -> None:
        """Serve a loaded model."""
        self._model, self._schema = model, model.metadata.get_input_schema()
        self._pages = scoring_server.init(model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer to one request."""
        if scope["type"] != "http" or scope["path"] != SCORING or scope["method"] != "POST":
            await self._pages(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body = await _read_body(receive)
        if body is None:
            answer = Answer.refuse(413, f"a request has at most {MOST_BYTES} bytes; send fewer episodes at once")
        else:
            answer = await asyncio.to_thread(self._answer, body, headers.get("content-type", ""))
        content = answer.body.encode()
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": fields})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, body: bytes, content_type: str) -> Answer:
        """Return the answer to a body that MLflow reads."""
        try:
            data = decode(body) if content_type.partition(";")[0].strip() == JSON else body
            result = scoring_server.invocations(data, content_type, self._model, self._schema)
        except RequestError as error:
            return Answer.refuse(400, str(error))
        except MlflowException as error:
            return Answer.refuse(error.get_http_status_code(), shorten(error.message))
        if result.status != 200:
            return Answer.refuse(result.status, str(result.response))
        return Answer(200, str(result.response))


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body of a request; none if it is too long, and then the rest is left unread."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def shorten(message: str) -> str:
    """Return the reason alone of an error of MLflow, without the request that MLflow repeats in it."""
    reason = message.rpartition(ERROR)[2] if message.startswith(PREFIX) else message
    return reason.strip().partition("\n")[0]


@contextmanager
def make_folder(path: Path, config: Config, *, lookahead: bool) -> Iterator[Path]:
    """Yield a folder in the form of an MLflow model that holds a checkpoint; it lasts as long as the block."""
    files = describe_model(config, lookahead=lookahead)
    with tempfile.TemporaryDirectory(prefix="vdt-serve-") as temporary:
        write_texts(files.texts, Path(temporary))
        Path(temporary, files.place).symlink_to(path.resolve())
        yield Path(temporary)


def serve(path: Path, policy: Policy, port: int, *, lookahead: bool) -> None:
    """Serve a checkpoint in this process alone, until a signal that raises KeyboardInterrupt.

    Args:
        path: of the file.
        policy: that was loaded from it.
        port: of the address; 0 takes a free one.
        lookahead: whether to choose among candidate returns.

    Raises:
        ValueError: if the port is taken.
    """
    logging.getLogger("mlflow.pyfunc.scoring_server").setLevel(
        logging.ERROR
    )  # it warns of each request that is refused
    with listen(port) as listening, make_folder(path, policy.config, lookahead=lookahead) as folder:
        application = PolicyServer(load_model(str(folder)))
        logger.info(f"serve: {policy!r} at http://{HOST}:{listening.getsockname()[1]}{SCORING}; Ctrl-C ends it")
        settings = uvicorn.Config(application, log_level="warning", access_log=False, lifespan="off")
        with suppress(KeyboardInterrupt):  # raised again once the server has ended
            uvicorn.Server(settings).run([listening])
        logger.info("serve: ended")


def listen(port: int) -> socket.socket:
    """Return a socket at the address, so that a port which is taken is noticed before anything is loaded.

    Raises:
        ValueError: if it is taken or not allowed.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # until then another program may take the port as well
    except (OSError, OverflowError) as error:
        listening.close()
        raise ValueError(f"cannot serve at {HOST}:{port} ({error}); choose another port with --port") from None
    return listening
