"""The obedient guest in Python: it does what the subject of its message says."""

from typing import Callable

from sandpost import Bus, Delivery, Message, Refused, Reject, Retry, Unavailable, consumer

hoard: list[bytearray] = []


def kind_of(call: Callable[[], None]) -> str:
    try:
        call()
    except Refused as refused:
        return refused.kind
    return "none"


def describe(message: Message, delivery: Delivery) -> str:
    def optional(name: str, value: str | None) -> str:
        return name if value is None else f"{name}={value}"

    lines = [
        f"id={message.id}",
        f"source={message.source}",
        f"type={message.type}",
        optional("subject", message.subject),
        f"topic={message.topic}",
        optional("key", message.key),
        optional("content-type", message.content_type),
        f"accepted-ms={message.accepted_ms}",
        *(f"attribute {name}={value}" for name, value in message.attributes.items()),
        f"data-bytes={len(message.data)}",
        f"subscription={delivery.subscription}",
        f"sequence={delivery.sequence}",
        f"attempt={delivery.attempt}",
        f"max-attempts={delivery.max_attempts}",
        f"redrives={delivery.redrives}",
        f"first-attempt-ms={delivery.first_attempt_ms}",
        f"deadline-ms={delivery.deadline_ms}",
        f"idempotency-key={delivery.idempotency_key}",
    ]
    return "\n".join(lines) + "\n"


@consumer
def handle(message: Message, bus: Bus) -> None:
    order = message.subject or ""
    verb, _, rest = order.partition(" ")

    def tell(data: bytes | str) -> None:
        bus.publish("told", data, key=message.key, content_type="text/plain")

    match verb:
        case "ack":
            pass
        case "retry":
            raise Retry(rest)
        case "retry-after" | "unavailable-after":
            ms, _, reason = rest.partition(" ")
            failure = Retry if verb == "retry-after" else Unavailable
            raise failure(reason, after_ms=int(ms))
        case "reject":
            raise Reject(rest)
        case "unavailable":
            raise Unavailable(rest)
        case "throw":
            raise RuntimeError(rest)
        case "loop":
            while True:
                pass
        case "hog":
            while True:
                hoard.append(bytearray(b"x" * (1 << 20)))
        case "publish":
            bus.publish(
                rest,
                message.data,
                type=message.type,
                key=message.key,
                subject=message.id,
                content_type=message.content_type,
                attributes=message.attributes,
            )
        case "publish-later":
            bus.publish(
                rest,
                message.data,
                id=f"later-{message.id}",
                deliver_at=message.accepted_ms + 3_600_000,
                expires=message.accepted_ms + 7_200_000,
            )
        case "publish-error":
            tell(kind_of(lambda: bus.publish(rest)))
        case "describe":
            tell(describe(message, bus.delivery))
        case "set":
            bus.state.set(rest, message.data)
        case "get":
            value = bus.state.get(rest)
            if value is None:
                raise Reject(f"no {rest}")
            tell(value)
        case "delete":
            bus.state.delete(rest)
        case "scan":
            lines, after = b"", None
            while True:
                page = bus.state.scan(rest, after, 2)
                for entry in page:
                    lines += entry.key.encode() + b"=" + entry.value + b"\n"
                    after = entry.key
                if len(page) < 2:
                    break
            tell(lines)
        case "count":
            bus.state.set(rest, str(int(bus.state.get_text(rest) or "0") + 1))
        case "state-error":
            tell(kind_of(lambda: bus.state.set("", message.data)))
        case "config":
            value = bus.config(rest)
            if value is None:
                raise Reject(f"no {rest}")
            tell(value)
        case "log":
            level, _, text = rest.partition(" ")
            bus.log(level, text)
        case "garbage":
            for _ in range(int(rest) // 1024):
                bytearray(b"x" * 1024)
        case _:
            raise Reject(f"unknown order {order}")
