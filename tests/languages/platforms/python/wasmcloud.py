from componentize_py_types import Err
from wit_world.imports import consumer, types

from orders import obey


def publish(subject: str, body: bytes) -> None:
    consumer.publish(types.BrokerMessage(subject, body, "inbox.1"))


def fail(text: str) -> None:
    raise Err(text)


class Handler:
    def handle_message(self, msg: types.BrokerMessage) -> None:
        match obey(msg.body, publish, fail):
            case None:
                pass
            case ("request", topic):
                try:
                    consumer.request(topic, msg.body, 1000)
                except Err as error:
                    publish("told", error.value.encode())
            case (verb, _):
                fail(f"unknown order {verb}")
