import assert from "node:assert/strict";
import { test } from "node:test";
import { TestBus, message } from "../sandpost/testing.js";

const consumer = new URL("../build/{{name}}.wasm", import.meta.url);

test("orders add up", async () => {
  const bus = await TestBus.of(consumer, { publish: ["invoice.due"] });
  for (const [id, total_cents] of [["o-1", 2598], ["o-2", 402]]) {
    const outcome = bus.deliver(message("order.placed", JSON.stringify({ id, customer: "ada", total_cents })));
    assert.deepEqual(outcome, { tag: "ack" });
  }
  assert.equal(bus.published[1].data, '{"order":"o-2","customer":"ada","total_cents":3000}');
  assert.equal(bus.state.get("total/ada"), "3000");
});

test("what is no order is rejected", async () => {
  const bus = await TestBus.of(consumer);
  assert.equal(bus.deliver(message("order.placed", '{"id": "o-1"}')).tag, "reject");
});
