// Adds up what each customer has ordered, and publishes `invoice.due`.
import { Reject } from "sandpost";

export function handle(message, bus) {
  const order = message.json();
  if (!order?.id || !order.customer || !Number.isInteger(order.total_cents)) {
    throw new Reject("an order needs an id, a customer and total_cents");
  }
  const key = `total/${order.customer}`;
  const total = (bus.state.getJson(key) ?? 0) + order.total_cents;
  bus.state.setJson(key, total);
  bus.log("info", `${order.customer} has ordered ${total} cents`);
  bus.publish({
    topic: "invoice.due",
    key: order.customer,
    json: { order: order.id, customer: order.customer, total_cents: total },
  });
}
