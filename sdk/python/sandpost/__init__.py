"""Write consumers for Sandpost, the event bus whose consumers are sandboxed WebAssembly.

A consumer is a function that handles one message::

    from sandpost import Bus, Message, Reject, consumer

    @consumer
    def handle(message: Message, bus: Bus) -> None:
        order = message.json()
        if "id" not in order:
            raise Reject("an order needs an id")
        bus.publish("invoice.due", json=order, key=order["id"])

Returning acknowledges the message: what was published and written to the state commits in the same transaction. An
exception means that none of it happened. An exception of one's own means to try again later, and stands in the dead letter
with its traceback; `Reject` and `Unavailable` say otherwise.

Natively, `sandpost.testing.TestBus` runs a handler.
"""

from __future__ import annotations

import json as _json
import traceback as _traceback
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable, Iterator, Mapping, Optional, Protocol, Sequence, Union

__all__ = [
    "Bus",
    "Delivery",
    "Entry",
    "Handler",
    "Message",
    "Refused",
    "Reject",
    "Retry",
    "State",
    "Unavailable",
    "consumer",
]

_REASON_CHARACTERS_MAX = 4000


class Failure(Exception):
    """What an exception says about the message."""

    def __init__(self, reason: str, *, after_ms: Optional[int] = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after_ms = after_ms


class Retry(Failure):
    """It failed now, and may succeed later: charged as an attempt."""


class Reject(Failure):
    """It can never succeed: the message becomes a dead letter at once."""


class Unavailable(Failure):
    """Something that the handler depends on is down: not charged as an attempt."""


class Refused(Exception):
    """Why an event or a key was not taken.

    `kind` is `not-granted`, `invalid`, `too-large`, `too-many`, `invalid-key` or `full`.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


@dataclass(frozen=True)
class Message:
    """A CloudEvents 1.0 event, stored in a topic."""

    id: str
    source: str
    type: str
    topic: str
    data: bytes
    subject: Optional[str] = None
    #: Messages of one key arrive in order, one at a time.
    key: Optional[str] = None
    content_type: Optional[str] = None
    #: When the bus accepted it, in milliseconds since 1970.
    accepted_ms: int = 0
    #: `time`, `dataschema`, `traceparent` and extensions.
    attributes: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The data as text. Data that is no UTF-8 is rejected."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise Reject(f"the data is no text: {error}") from error

    def json(self) -> Any:
        """The data as JSON. Data that is none is rejected."""
        try:
            return _json.loads(self.data)
        except ValueError as error:
            raise Reject(f"the data is no JSON: {error}") from error


@dataclass(frozen=True)
class Delivery:
    """This offer of the message to this subscription."""

    subscription: str
    #: The message's place in its topic, from 1.
    sequence: int
    #: From 1; only the message's own failures are counted.
    attempt: int
    max_attempts: int
    redrives: int
    first_attempt_ms: int
    #: When this call is ended.
    deadline_ms: int
    #: The same in every attempt. Hand it to services outside the bus.
    idempotency_key: str


@dataclass(frozen=True)
class Entry:
    """A key of the state with its value."""

    key: str
    value: bytes


@dataclass(frozen=True)
class Outgoing:
    """An event as it is published."""

    topic: str
    type: str
    key: Optional[str]
    id: Optional[str]
    subject: Optional[str]
    content_type: Optional[str]
    attributes: Sequence[tuple[str, str]]
    data: bytes
    deliver_at_ms: Optional[int]
    expires_ms: Optional[int]

    def json(self) -> Any:
        return _json.loads(self.data)


class Host(Protocol):
    """What a bus is made of: the real one, or that of a test."""

    def publish(self, event: Outgoing) -> None: ...
    def get(self, key: str) -> Optional[bytes]: ...
    def set(self, key: str, value: bytes) -> None: ...
    def delete(self, key: str) -> None: ...
    def scan(self, prefix: str, after: Optional[str], limit: int) -> list[Entry]: ...
    def config(self, name: str) -> Optional[str]: ...
    def log(self, level: str, text: str) -> None: ...


class State:
    """Durable keys and values of this consumer. Writes commit with the acknowledgement, or not at all."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def get(self, key: str) -> Optional[bytes]:
        """The value of a key; None where there is none."""
        return self._host.get(key)

    def get_text(self, key: str) -> Optional[str]:
        value = self.get(key)
        return None if value is None else value.decode()

    def get_json(self, key: str, default: Any = None) -> Any:
        value = self.get(key)
        return default if value is None else _json.loads(value)

    def set(self, key: str, value: Union[bytes, str]) -> None:
        """Sets the value of a key: bytes, or text as UTF-8."""
        self._host.set(key, value.encode() if isinstance(value, str) else bytes(value))

    def set_json(self, key: str, value: Any) -> None:
        self.set(key, _json.dumps(value))

    def delete(self, key: str) -> None:
        """Removes a key. One that is not there is no error."""
        self._host.delete(key)

    def scan(self, prefix: str = "", after: Optional[str] = None, limit: int = 1000) -> list[Entry]:
        """Entries whose keys begin with a prefix and come after another key, by their bytes; 1,000 at most."""
        return self._host.scan(prefix, after, limit)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """All entries whose keys begin with a prefix, read a page at a time."""
        limit, after = 100, None
        while True:
            page = self.scan(prefix, after, limit)
            yield from page
            if len(page) < limit:
                return
            after = page[-1].key


class Bus:
    """What a handler may use. It is good until the handler returns."""

    def __init__(self, host: Host, delivery: Delivery) -> None:
        self._host = host
        self.delivery = delivery
        self.state = State(host)

    def publish(
        self,
        topic: str,
        data: Union[bytes, str] = b"",
        *,
        json: Any = None,
        type: str = "",
        key: Optional[str] = None,
        id: Optional[str] = None,
        subject: Optional[str] = None,
        content_type: Optional[str] = None,
        attributes: Optional[Mapping[str, str]] = None,
        deliver_at: Union[datetime, int, None] = None,
        expires: Union[datetime, int, None] = None,
    ) -> None:
        """Stages an event. It is published if, and only if, the message is acknowledged.

        The topic must be granted under `[grants] publish` in the manifest; otherwise this raises `Refused`. With `json` in
        place of `data`, that is encoded. Times are datetimes, or milliseconds since 1970.
        """
        if json is not None:
            data = _json.dumps(json)
            content_type = content_type or "application/json"
        self._host.publish(
            Outgoing(
                topic=topic,
                type=type,
                key=key,
                id=id,
                subject=subject,
                content_type=content_type,
                attributes=list((attributes or {}).items()),
                data=data.encode() if isinstance(data, str) else bytes(data),
                deliver_at_ms=_ms(deliver_at),
                expires_ms=_ms(expires),
            )
        )

    def config(self, name: str) -> Optional[str]:
        """A value of the manifest's `[config]`; None where it has none."""
        return self._host.config(name)

    def log(self, level: str, text: str) -> None:
        """Writes a line to the log of the bus: trace, debug, info, warn or error."""
        self._host.log(level, text)

    def debug(self, text: str) -> None:
        self.log("debug", text)

    def info(self, text: str) -> None:
        self.log("info", text)

    def warn(self, text: str) -> None:
        self.log("warn", text)

    def error(self, text: str) -> None:
        self.log("error", text)


Handler = Callable[[Message, Bus], None]


def _ms(time: Union[datetime, int, None]) -> Optional[int]:
    if isinstance(time, datetime):
        # A time without a zone is one in UTC: the sandbox knows no other.
        zoned = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
        return round(zoned.timestamp() * 1000)
    return time


def reason_of(error: BaseException) -> str:
    """An exception as Python prints it. Of a long one the end, where its text is."""
    text = "".join(_traceback.format_exception(error)).rstrip()
    return text if len(text) <= _REASON_CHARACTERS_MAX else "... " + text[-_REASON_CHARACTERS_MAX:]


def consumer(handler: Handler) -> Handler:
    """Makes a function the consumer of its module. Use it once; the module is what componentize-py is given."""
    try:
        from . import _component
    except ModuleNotFoundError as error:
        # The bindings are there only where a component is built.
        if error.name not in ("wit_world", "componentize_py_types"):
            raise
    else:
        handler.__globals__["WitWorld"] = _component.world(handler)
    return handler
