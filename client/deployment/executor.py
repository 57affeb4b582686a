"""A site's ClientApp: takes the messages that the SuperNode has, does what its own installed code does with them, answers.

Example::

    python -P -m fedrelease.client.deployment.executor FOLDER

Flower would unpack the app that came with the run and start a process for each message. Here no code travels: the app's digest
is compared with that of the app that is installed, the base stays loaded, and the site's own settings say where its rows are.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

import httpx
from flwr.app import Context, Error, Message, MessageType
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedrelease.client.deployment.answers import Answers, question_of
from fedrelease.client.deployment.folder import SiteFolder, open_site_folder
from fedrelease.client.deployment.guard import answered, check_app, check_room
from fedrelease.client.deployment.telling import told
from fedrelease.deployment.logs import Log
from fedrelease.deployment.pace import set_pace

__all__ = ["Executor", "main"]

IDLE_S = 0.1
AWAY_S = 1.0
ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


@final
class Executor:
    """Answers one message after the other."""

    def __init__(self, site: SiteFolder) -> None:
        """Nothing is sent yet."""
        self._site = site
        self._answers = Answers(site.home / "answers")
        self._log = Log(site.log_folder / "site.log", process="app", site=site.settings.site)
        secret = site.secret_file.read_bytes()
        self._tasks = self._client(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=ACQUIRE))

    def serve(self) -> None:
        """Take tasks and do them, for ever."""
        while True:
            try:
                found = self._tasks.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
            except httpx.HTTPError as error:  # the SuperNode is not there, or not yet
                self._log("no-supernode", why=type(error).__name__)
                time.sleep(AWAY_S)
                continue
            if found.HasField("task") and found.token:
                self._do(found.token)
                self._log.about(run=None, kind=None, round=None)
            else:
                time.sleep(IDLE_S)

    def _do(self, token: str) -> None:
        with self._task(token) as client:
            try:
                message, context, run, fab = pull_task_input(client)
            except (ObjectPullError, RuntimeError) as error:  # its run is over, or the server never sent the rest
                self._log("question-lost", why=str(error))
                return
            self._log.about(run=str(run.run_id), kind=message.metadata.message_type, **_round_of(message))
            begun = time.monotonic()
            try:
                reply = self._answer(message, context, fab.hash_str)
                failure = ""
            except Exception as error:  # whatever it is, the server gets an answer, and no traceback
                failure = told(error, self._site)
                self._log("failed", why=str(error))
                reply = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=failure), reply_to=message)
            seconds = round(time.monotonic() - begun, 2)
            self._log("answered", seconds=seconds)
            push_message(client, reply, context)
            status = SubStatus.FAILED if failure else SubStatus.COMPLETED
            push_task_output(client=client, context=context, sub_status=status, details=failure)

    def _answer(self, message: Message, context: Context, digest: str) -> Message:
        check_app(self._site, digest)
        if message.metadata.message_type == MessageType.QUERY:
            return answered(self._site, message, context)
        question = question_of(message)
        if (known := self._answers.find(question)) is not None:
            self._log("answered-before", question=question[:16])
            return Message(known, reply_to=message)
        check_room(self._site.folder)
        reply = answered(self._site, message, context)
        return Message(self._answers.keep(question, reply.content), reply_to=message)

    @contextmanager
    def _task(self, token: str) -> Iterator[RuntimeHttpClient]:
        client = self._client(RuntimeTokenHttpInterceptor(token))
        alive = HeartbeatSender(lambda: _beat(client))
        alive.start()
        try:
            yield client
        except (
            httpx.HTTPError,
            ObjectPushError,
        ) as error:  # the SuperNode ended meanwhile: nobody waits for this answer
            self._log("answer-lost", why=type(error).__name__)
        finally:
            alive.stop()
            client.close()

    def _client(self, proof: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=f"127.0.0.1:{self._site.settings.port}",
            insecure=True,  # this machine talks to itself, and proves with a secret that it does
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), proof],
            retry_invoker=_twice(),
        )


def _round_of(message: Message) -> dict[str, int]:
    """The number of the round, for the log; a question that says none is about no round."""
    if not message.has_content() or (config := message.content.config_records.get("config")) is None:
        return {"round": 0}
    found = config.get("server-round")
    return {"round": found if isinstance(found, int) else 0}


def _beat(client: RuntimeHttpClient) -> bool:
    """Tell the SuperNode that its task goes on. Flower's own would end this process when the task is over meanwhile."""
    try:
        client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    except httpx.HTTPError:
        return False
    return True


def _twice() -> RetryInvoker:
    """Once more when the SuperNode does not answer. A refusal is its answer; Flower would end this process for some."""
    invoker = make_simple_http_retry_invoker()
    invoker.max_tries = 2
    invoker.should_giveup = lambda error: not isinstance(error, httpx.TransportError)
    return invoker


def main(folder: Path) -> None:
    """Answer until a signal comes."""
    import torch

    torch.set_num_threads(1)
    site = open_site_folder(folder)
    set_pace(run_clientapp, idle_s=site.settings.poll_s, patience_s=math.inf)  # its SuperNode says when it is enough
    Executor(site).serve()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
