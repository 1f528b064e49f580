import assert from "node:assert/strict";
import { test } from "node:test";
import { TestBus, message } from "sandpost/testing";
import { handle } from "../src/consumer";

test("orders add up", () => {
  const bus = new TestBus({ publish: ["invoice.due"] });
  for (const [id, total_cents] of [["o-1", 2598], ["o-2", 402]] as const) {
    const outcome = bus.deliver(handle, message("order.placed", { id, customer: "ada", total_cents }));
    assert.deepEqual(outcome, { tag: "ack" });
  }
  assert.deepEqual(bus.published[1].json(), { order: "o-2", customer: "ada", total_cents: 3000 });
  assert.equal(bus.stored("total/ada"), "3000");
});

test("what is no order is rejected", () => {
  const outcome = new TestBus().deliver(handle, message("order.placed", { id: "o-1" }));
  assert.equal(outcome.tag, "reject");
});
