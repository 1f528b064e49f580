"""What all three do alike, by the interfaces that all three have."""

from typing import Callable, Optional

from wit_world.imports import atomics, batch, logging, runtime, store


def obey(body: bytes, tell: Callable[[str, bytes], None], fail: Callable[[str], None]) -> Optional[tuple[str, str]]:
    """`tell` publishes, or what stands in for it; `fail` raises the platform's error. Answers an order that it does not know."""
    verb, _, rest = body.decode().partition(" ")
    match verb:
        case "ack":
            pass
        case "fail":
            fail(rest)
        case "throw":
            raise RuntimeError(rest)
        case "publish":
            topic, _, text = rest.partition(" ")
            tell(topic, text.encode())
        case "set":
            key, _, text = rest.partition(" ")
            store.open("default").set(key, text.encode())
        case "get":
            value = store.open("default").get(rest)
            tell("told", b"none" if value is None else value)
        case "increment":
            tell("told", str(atomics.increment(store.open("default"), rest, 2)).encode())
        case "keys":
            bucket = store.open(rest)
            batch.set_many(bucket, [(key, key.encode()) for key in ("a", "b", "c")])
            bucket.delete("b")
            keys = bucket.list_keys(None).keys
            found = (str(bucket.exists(key)).lower() for key in ("a", "b"))
            tell("told", " ".join([*keys, *found]).encode())
        case "config":
            tell("told", (runtime.get(rest) or "none").encode())
        case "log":
            logging.log(logging.Level.WARN, "context", rest)
        case _:
            return verb, rest
    return None
