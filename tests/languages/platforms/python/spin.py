from componentize_py_types import Err
from wit_world.imports import redis_types, store

from orders import obey


def keep(key: str, value: bytes) -> None:
    store.open("default").set(key, value)


def fail(text: str) -> None:
    print(text)
    raise Err(redis_types.Error.ERROR)


class InboundRedis:
    def handle_message(self, message: bytes) -> None:
        if obey(message, keep, fail):
            fail("unknown order")
