"""The side of the SDK that is WebAssembly: it imports the bindings that componentize-py makes of sdk/wit."""

from __future__ import annotations

import logging
from typing import Optional

from componentize_py_types import Err
from wit_world.imports import bus as wit_bus
from wit_world.imports import config as wit_config
from wit_world.imports import log as wit_log
from wit_world.imports import state as wit_state
from wit_world.imports import types as wit

from . import Bus, Delivery, Entry, Handler, Message, Outgoing, Refused, Reject, Retry, Unavailable, reason_of

_KINDS = {
    wit_bus.PublishError_NotGranted: "not-granted",
    wit_bus.PublishError_Invalid: "invalid",
    wit_bus.PublishError_TooLarge: "too-large",
    wit_bus.PublishError_TooMany: "too-many",
    wit_state.StateError_InvalidKey: "invalid-key",
    wit_state.StateError_TooLarge: "too-large",
    wit_state.StateError_Full: "full",
}
_LEVELS = {level.name.lower(): level for level in wit_log.Level}


def _refused(error: Err) -> Refused:
    return Refused(_KINDS[type(error.value)], error.value.value)


class _Host:
    def publish(self, event: Outgoing) -> None:
        try:
            wit_bus.publish(
                wit_bus.Outgoing(
                    topic=event.topic,
                    type=event.type,
                    key=event.key,
                    id=event.id,
                    subject=event.subject,
                    content_type=event.content_type,
                    attributes=list(event.attributes),
                    data=event.data,
                    deliver_at_ms=event.deliver_at_ms,
                    expires_ms=event.expires_ms,
                )
            )
        except Err as error:
            raise _refused(error) from None

    def get(self, key: str) -> Optional[bytes]:
        try:
            return wit_state.get(key)
        except Err as error:
            raise _refused(error) from None

    def set(self, key: str, value: bytes) -> None:
        try:
            wit_state.set(key, value)
        except Err as error:
            raise _refused(error) from None

    def delete(self, key: str) -> None:
        try:
            wit_state.delete(key)
        except Err as error:
            raise _refused(error) from None

    def scan(self, prefix: str, after: Optional[str], limit: int) -> list[Entry]:
        try:
            return [Entry(entry.key, entry.value) for entry in wit_state.scan(prefix, after, limit)]
        except Err as error:
            raise _refused(error) from None

    def config(self, name: str) -> Optional[str]:
        return wit_config.get(name)

    def log(self, level: str, text: str) -> None:
        wit_log.write(_LEVELS[level], text)


_HOST = _Host()


class _LogHandler(logging.Handler):
    """What goes through Python's own logging is a line in the bus's log."""

    def emit(self, record: logging.LogRecord) -> None:
        names = ((logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"))
        level = next((name for least, name in names if record.levelno >= least), "debug")
        _HOST.log(level, self.format(record))


logging.getLogger().addHandler(_LogHandler())
logging.getLogger().setLevel(logging.INFO)


def world(handler: Handler) -> type:
    class WitWorld:
        def handle(self, message: wit.Message, delivery: wit.Delivery) -> None:
            given = Message(
                id=message.id,
                source=message.source,
                type=message.type,
                topic=message.topic,
                data=message.data,
                subject=message.subject,
                key=message.key,
                content_type=message.content_type,
                accepted_ms=message.accepted_ms,
                attributes=dict(message.attributes),
            )
            offer = Delivery(
                subscription=delivery.subscription,
                sequence=delivery.sequence,
                attempt=delivery.attempt,
                max_attempts=delivery.max_attempts,
                redrives=delivery.redrives,
                first_attempt_ms=delivery.first_attempt_ms,
                deadline_ms=delivery.deadline_ms,
                idempotency_key=delivery.idempotency_key,
            )
            try:
                handler(given, Bus(_HOST, offer))
            except Reject as failure:
                raise Err(wit.Failure_Reject(failure.reason)) from None
            except Unavailable as failure:
                raise Err(wit.Failure_Unavailable(wit.Retry(failure.reason, failure.after_ms))) from None
            except Retry as failure:
                raise Err(wit.Failure_Retry(wit.Retry(failure.reason, failure.after_ms))) from None
            except MemoryError:
                # Not the message's text, but the instance's end: the host knows what it refused.
                raise
            except Exception as error:
                raise Err(wit.Failure_Retry(wit.Retry(reason_of(error), None))) from None

    return WitWorld
