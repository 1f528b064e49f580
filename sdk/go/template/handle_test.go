package main

import (
	"testing"

	"sandpost"
)

func TestOrdersAddUp(t *testing.T) {
	bus := sandpost.TestBus{Granted: []string{"invoice.due"}}
	for _, data := range []string{
		`{"id": "o-1", "customer": "ada", "total_cents": 2598}`,
		`{"id": "o-2", "customer": "ada", "total_cents": 402}`,
	} {
		if err := bus.Deliver(handle, sandpost.TestMessage("order.placed", data)); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(bus.Published[1].Data); got != `{"order":"o-2","customer":"ada","total_cents":3000}` {
		t.Errorf("published %s", got)
	}
	if got := string(bus.State["total/ada"]); got != "3000" {
		t.Errorf("the total is %s", got)
	}
}

func TestWhatIsNoOrderIsRejected(t *testing.T) {
	var bus sandpost.TestBus
	if err := bus.Deliver(handle, sandpost.TestMessage("order.placed", `{"id": "o-1"}`)); !sandpost.IsReject(err) {
		t.Errorf("it ended with %v", err)
	}
}
