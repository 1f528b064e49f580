package main

import "testing"

func TestAnOrderBecomesAnInvoice(t *testing.T) {
	line, err := handle([]byte(`{"id": "o-1", "customer": "ada", "total_cents": 2598}`))
	if err != nil || line != `{"order":"o-1","customer":"ada","total_cents":2598}` {
		t.Errorf("%s, %v", line, err)
	}
}

func TestWhatIsNoOrderIsRefused(t *testing.T) {
	if _, err := handle([]byte(`{"id": "o-1"}`)); err == nil {
		t.Error("it was taken")
	}
}
