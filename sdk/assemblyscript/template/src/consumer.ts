// Adds up what each customer has ordered, and publishes `invoice.due`.
import { Bus, Event, Message, Outcome } from "../sandpost/sandpost";

/** The value of a member of a flat JSON object, without the quotes of a text. For nested data take `assemblyscript-json`. */
function member(json: string, name: string): string {
  let at = json.indexOf('"' + name + '"');
  if (at < 0) return "";
  at = json.indexOf(":", at) + 1;
  while (json.charAt(at) == " ") at++;
  const text = json.charAt(at) == '"';
  if (text) at++;
  let to = at;
  // What follows a backslash ends no text: it stays as it is written, and so fits into JSON again.
  while (to < json.length && (text ? json.charAt(to) != '"' : json.charAt(to) >= "0" && json.charAt(to) <= "9")) {
    to += text && json.charAt(to) == "\\" ? 2 : 1;
  }
  return json.substring(at, to);
}

export function handler(message: Message, bus: Bus): Outcome {
  const order = message.text();
  const id = member(order, "id");
  const customer = member(order, "customer");
  const cents = member(order, "total_cents");
  if (!id || !customer || !cents) return Outcome.reject("an order needs an id, a customer and total_cents");

  const key = "total/" + customer;
  const stored = bus.getText(key);
  const failed = bus.refused;
  if (failed) return Outcome.retry(failed.text);
  const total = I64.parseInt(cents) + (stored ? I64.parseInt(stored) : 0);
  const unset = bus.setText(key, total.toString());
  if (unset) return Outcome.retry(unset.text);
  bus.info(customer + " has ordered " + total.toString() + " cents");

  const invoice = Event.text(
    "invoice.due",
    '{"order":"' + id + '","customer":"' + customer + '","total_cents":' + total.toString() + "}",
  );
  invoice.key = customer;
  invoice.contentType = "application/json";
  const unpublished = bus.publish(invoice);
  return unpublished ? Outcome.retry(unpublished.text) : Outcome.ack();
}
