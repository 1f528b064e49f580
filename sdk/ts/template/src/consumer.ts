// Adds up what each customer has ordered, and publishes `invoice.due`.
import { type Bus, type Message, Reject } from "sandpost";

interface Order {
  id: string;
  customer: string;
  total_cents: number;
}

function isOrder(value: Partial<Order> | null): value is Order {
  return !!value?.id && !!value.customer && Number.isInteger(value.total_cents);
}

export function handle(message: Message, bus: Bus): void {
  const order = message.json<Partial<Order>>();
  if (!isOrder(order)) throw new Reject("an order needs an id, a customer and total_cents");
  const key = `total/${order.customer}`;
  const total = (bus.state.getJson<number>(key) ?? 0) + order.total_cents;
  bus.state.setJson(key, total);
  bus.log("info", `${order.customer} has ordered ${total} cents`);
  bus.publish({
    topic: "invoice.due",
    key: order.customer,
    json: { order: order.id, customer: order.customer, total_cents: total },
  });
}
