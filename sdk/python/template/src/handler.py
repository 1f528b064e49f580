"""Adds up what each customer has ordered, and publishes `invoice.due`."""

from sandpost import Bus, Message, Reject, consumer


@consumer
def handle(message: Message, bus: Bus) -> None:
    order = message.json()
    try:
        order_id, customer, cents = order["id"], order["customer"], int(order["total_cents"])
    except (KeyError, TypeError, ValueError) as error:
        raise Reject("an order needs an id, a customer and total_cents") from error
    key = f"total/{customer}"
    total = bus.state.get_json(key, 0) + cents
    bus.state.set_json(key, total)
    bus.info(f"{customer} has ordered {total} cents")
    bus.publish("invoice.due", json={"order": order_id, "customer": customer, "total_cents": total}, key=customer)
