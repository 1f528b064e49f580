//go:build !wasip1

package sandpost

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Handle says which function handles messages, where the consumer is built as WebAssembly. Here it does nothing.
func Handle(Handler) {}

// TestBus is a bus in memory, for go test. It keeps the contract: what a failed call did is undone. The zero value is a bus
// that grants nothing.
type TestBus struct {
	// Granted are the topics that may be published to, without wildcards.
	Granted []string
	// Values are the manifest's [config].
	Values map[string]string
	// State is what acknowledged calls left.
	State map[string][]byte
	// Published is what acknowledged calls published.
	Published []Event
	// Delivery is handed to the handler; an attempt of 0 is the first.
	Delivery Delivery
	// Log takes what is logged, unless it is nil.
	Log io.Writer
}

// TestMessage is a message of a topic with this data, and no key.
func TestMessage(topic, data string) *Message {
	accepted := time.UnixMilli(1_767_225_600_000).UTC()
	return &Message{ID: "test-1", Source: "/test", Type: topic, Topic: topic, Accepted: accepted, Data: []byte(data)}
}

// Deliver has the handler handle a message, and returns what it returned. A panic goes through.
func (t *TestBus) Deliver(handler Handler, message *Message) error {
	call := &testHost{bus: t, state: maps.Clone(t.State)}
	if call.state == nil {
		call.state = map[string][]byte{}
	}
	delivery := t.Delivery
	if delivery.Attempt == 0 {
		delivery.Attempt = 1
	}
	err := handler(message, &Bus{Delivery: delivery, host: call})
	if err == nil {
		t.State = call.state
		t.Published = append(t.Published, call.staged...)
	}
	return err
}

// IsReject reports whether an error that a handler returned makes the message a dead letter at once.
func IsReject(err error) bool { return err != nil && failureOf(err).kind == reject }

// IsUnavailable reports whether an error that a handler returned is not charged as an attempt.
func IsUnavailable(err error) bool { return err != nil && failureOf(err).kind == unavailable }

type testHost struct {
	bus    *TestBus
	state  map[string][]byte
	staged []Event
}

func (h *testHost) publish(event *Event) error {
	if !slices.Contains(h.bus.Granted, event.Topic) {
		return &Refusal{NotGranted, fmt.Sprintf("the manifest does not grant publishing to `%s`", event.Topic)}
	}
	if len(event.Data) > 1<<20 {
		return &Refusal{TooLarge, fmt.Sprintf("the data has %d bytes; at most %d are accepted", len(event.Data), 1<<20)}
	}
	if len(h.staged) == 1000 {
		return &Refusal{TooMany, "one call publishes at most 1000 events"}
	}
	kept := *event
	kept.Data = slices.Clone(event.Data)
	h.staged = append(h.staged, kept)
	return nil
}

func checkKey(key string) error {
	if len(key) < 1 || len(key) > 1024 {
		return &Refusal{InvalidKey, fmt.Sprintf("a key has 1 to 1024 bytes, and this one %d", len(key))}
	}
	return nil
}

func (h *testHost) get(key string) ([]byte, bool, error) {
	value, found := h.state[key]
	return slices.Clone(value), found, checkKey(key)
}

func (h *testHost) set(key string, value []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	h.state[key] = slices.Clone(value)
	return nil
}

func (h *testHost) delete(key string) error {
	delete(h.state, key)
	return checkKey(key)
}

func (h *testHost) scan(prefix string, after *string, limit uint32) ([]Entry, error) {
	var entries []Entry
	for _, key := range slices.Sorted(maps.Keys(h.state)) {
		if strings.HasPrefix(key, prefix) && (after == nil || key > *after) && len(entries) < int(min(limit, 1000)) {
			entries = append(entries, Entry{key, slices.Clone(h.state[key])})
		}
	}
	return entries, nil
}

func (h *testHost) config(name string) (string, bool) {
	value, found := h.bus.Values[name]
	return value, found
}

func (h *testHost) log(level Level, text string) {
	if h.bus.Log != nil {
		fmt.Fprintf(h.bus.Log, "%s: %s\n", [...]string{"trace", "debug", "info", "warn", "error"}[level], text)
	}
}
