from componentize_py_types import Err
from wit_world.imports import producer, types

from orders import obey


def publish(topic: str, body: bytes, metadata: list[tuple[str, str]] | None = None) -> None:
    message = types.Message(body)
    message.set_content_type("text/plain")
    if metadata:
        message.set_metadata(metadata)
    producer.send(types.Client.connect("default"), topic, message)


def fail(text: str) -> None:
    raise Err(types.Error_Other(text))


class IncomingHandler:
    def handle(self, message: types.Message) -> None:
        match obey(message.data(), publish, fail):
            case None:
                pass
            case ("metadata", name):
                value = dict(message.metadata() or []).get(name)
                text = f"{message.topic()} {value}"
                publish("told", text.encode(), [("partitionkey", "another"), ("extra", "more")])
            case (verb, _):
                fail(f"unknown order {verb}")
