"""A bus in memory, for native tests. It keeps the contract: what a failed call did is undone.

    bus = TestBus(publish=["invoice.due"])
    bus.deliver(handle, message("order.placed", {"id": "o-1"}))
    assert bus.published[0].json() == ...
"""

from __future__ import annotations

import json
from typing import Any, Mapping, Optional, Sequence

from . import Bus, Delivery, Entry, Handler, Message, Outgoing, Refused


def message(topic: str, data: Any = b"", **fields: Any) -> Message:
    """A message of a topic with this data (text, bytes, or anything else as JSON), and other fields of one's choice."""
    if isinstance(data, str):
        data = data.encode()
    elif not isinstance(data, bytes):
        data = json.dumps(data).encode()
        fields.setdefault("content_type", "application/json")
    given = {"id": "test-1", "source": "/test", "type": topic, "accepted_ms": 1_767_225_600_000, **fields}
    return Message(topic=topic, data=data, **given)


class TestBus:
    # It is no test itself.
    __test__ = False

    def __init__(self, publish: Sequence[str] = (), config: Optional[Mapping[str, str]] = None) -> None:
        """`publish` are the granted topics, without wildcards; `config` is the manifest's."""
        self.granted = list(publish)
        self.config = dict(config or {})
        #: What acknowledged calls left.
        self.state: dict[str, bytes] = {}
        #: What acknowledged calls published.
        self.published: list[Outgoing] = []
        self.lines: list[tuple[str, str]] = []

    def deliver(self, handler: Handler, message: Message, **delivery: Any) -> None:
        """Has the handler handle a message. What it raises goes through, and undoes what it did."""
        host = _Host(self)
        given = {
            "subscription": "test",
            "sequence": 1,
            "attempt": 1,
            "max_attempts": 6,
            "redrives": 0,
            "first_attempt_ms": message.accepted_ms,
            "deadline_ms": message.accepted_ms + 5_000,
            "idempotency_key": "test-key",
            **delivery,
        }
        handler(message, Bus(host, Delivery(**given)))
        self.state = host.state
        self.published += host.staged


class _Host:
    def __init__(self, bus: TestBus) -> None:
        self._bus = bus
        self.state = dict(bus.state)
        self.staged: list[Outgoing] = []

    def publish(self, event: Outgoing) -> None:
        if event.topic not in self._bus.granted:
            raise Refused("not-granted", f"the manifest does not grant publishing to `{event.topic}`")
        if len(event.data) > 1 << 20:
            raise Refused("too-large", f"the data has {len(event.data)} bytes; at most {1 << 20} are accepted")
        if len(self.staged) == 1000:
            raise Refused("too-many", "one call publishes at most 1000 events")
        self.staged.append(event)

    def get(self, key: str) -> Optional[bytes]:
        _check(key)
        return self.state.get(key)

    def set(self, key: str, value: bytes) -> None:
        _check(key)
        self.state[key] = value

    def delete(self, key: str) -> None:
        _check(key)
        self.state.pop(key, None)

    def scan(self, prefix: str, after: Optional[str], limit: int) -> list[Entry]:
        # Text is ordered by code points, which is the order of the bytes of UTF-8.
        keys = sorted(key for key in self.state if key.startswith(prefix) and (after is None or key > after))
        return [Entry(key, self.state[key]) for key in keys[: min(limit, 1000)]]

    def config(self, name: str) -> Optional[str]:
        return self._bus.config.get(name)

    def log(self, level: str, text: str) -> None:
        self._bus.lines.append((level, text))


def _check(key: str) -> None:
    length = len(key.encode())
    if not 1 <= length <= 1024:
        raise Refused("invalid-key", f"a key has 1 to 1024 bytes, and this one {length}")
