// Package sandpost is for writing consumers of Sandpost, the event bus whose consumers are sandboxed WebAssembly.
//
// A consumer is a function that handles one message:
//
//	package main
//
//	import "sandpost"
//
//	func init() { sandpost.Handle(handle) }
//
//	func main() {}
//
//	func handle(message *sandpost.Message, bus *sandpost.Bus) error {
//		bus.Infof("%d bytes came to %s", len(message.Data), message.Topic)
//		return bus.Set("last", message.Data)
//	}
//
// It is built with the standard compiler:
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o hello.wasm .
//
// Returning nil acknowledges the message: what was published and written to the state commits in the same transaction.
// Returning an error means that none of it happened, and that the message is tried again; [Reject] and [Unavailable] say
// otherwise. A panic ends the instance; its text and stack stand in the dead letter.
//
// Natively, [TestBus] runs a handler under go test.
package sandpost

import (
	"errors"
	"fmt"
	"iter"
	"time"
)

// Message is a CloudEvents 1.0 event, stored in a topic. Optional attributes that are absent are empty.
type Message struct {
	ID      string // unique together with Source
	Source  string
	Type    string
	Subject string // optional
	Topic   string
	// Key is the event's partitionkey. Messages of one key arrive in order, one at a time. Optional.
	Key         string
	ContentType string // optional
	Accepted    time.Time
	Attributes  []Attribute // time, dataschema, traceparent and extensions
	Data        []byte      // at most 1 MiB by default
}

// Attribute is one more attribute of an event. Its name has lower-case letters and digits only.
type Attribute struct{ Name, Value string }

// Attribute returns the value of one of the other attributes, or "" where there is none.
func (m *Message) Attribute(name string) string {
	for _, attribute := range m.Attributes {
		if attribute.Name == name {
			return attribute.Value
		}
	}
	return ""
}

// Delivery is this offer of a message to a subscription.
type Delivery struct {
	Subscription string
	Sequence     uint64 // the message's place in its topic, from 1
	Attempt      uint32 // from 1; only the message's own failures are counted
	MaxAttempts  uint32
	Redrives     uint32
	FirstAttempt time.Time
	Deadline     time.Time // when this call is ended
	// IdempotencyKey is the same in every attempt, over crashes and redrives. Hand it to services outside the bus.
	IdempotencyKey string
}

// Event is what is published. Only Topic is needed.
type Event struct {
	Topic       string // granted under [grants] publish in the manifest
	Type        string // the topic's name where it is empty
	Key         string
	ID          string // made from the idempotency key where it is empty
	Subject     string
	ContentType string
	Attributes  []Attribute
	Data        []byte
	DeliverAt   time.Time // not before this time, unless it is zero
	Expires     time.Time // not after this time, unless it is zero
}

// Entry is a key of the state with its value.
type Entry struct {
	Key   string
	Value []byte
}

// Handler handles one message. It is called for one message at a time.
type Handler func(message *Message, bus *Bus) error

// Bus is what a handler may use. It is good until the handler returns.
type Bus struct {
	Delivery Delivery
	host     host
}

// What a bus is made of: the real one, or that of a test.
type host interface {
	publish(event *Event) error
	get(key string) ([]byte, bool, error)
	set(key string, value []byte) error
	delete(key string) error
	scan(prefix string, after *string, limit uint32) ([]Entry, error)
	config(name string) (string, bool)
	log(level Level, text string)
}

// Publish stages an event. It is published if, and only if, the message is acknowledged. Errors are of type [*Refusal].
func (b *Bus) Publish(event Event) error { return b.host.publish(&event) }

// Get returns the value of a key of the state, and whether there is one.
func (b *Bus) Get(key string) (value []byte, found bool, err error) { return b.host.get(key) }

// Set stages the value of a key of the state.
func (b *Bus) Set(key string, value []byte) error { return b.host.set(key, value) }

// Delete stages the removal of a key. One that is not there is no error.
func (b *Bus) Delete(key string) error { return b.host.delete(key) }

// Scan returns up to limit (and never more than 1,000) entries whose keys begin with prefix and come after `after`, by the
// bytes of their keys. For the first page, after is empty.
func (b *Bus) Scan(prefix, after string, limit uint32) ([]Entry, error) {
	if after == "" {
		return b.host.scan(prefix, nil, limit)
	}
	return b.host.scan(prefix, &after, limit)
}

// All goes through all entries whose keys begin with prefix, a page at a time. An error ends it.
func (b *Bus) All(prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		const page = 100
		for after := ""; ; {
			entries, err := b.Scan(prefix, after, page)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, entry := range entries {
				if !yield(entry, nil) {
					return
				}
				after = entry.Key
			}
			if len(entries) < page {
				return
			}
		}
	}
}

// Config returns a value of the manifest's [config], and whether it has one.
func (b *Bus) Config(name string) (string, bool) { return b.host.config(name) }

// Level is how much a line of the log matters.
type Level uint32

const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
)

// Logf writes a line to the log of the bus, with the subscription and the message.
func (b *Bus) Logf(level Level, format string, values ...any) {
	b.host.log(level, fmt.Sprintf(format, values...))
}

func (b *Bus) Debugf(format string, values ...any) { b.Logf(Debug, format, values...) }
func (b *Bus) Infof(format string, values ...any)  { b.Logf(Info, format, values...) }
func (b *Bus) Warnf(format string, values ...any)  { b.Logf(Warn, format, values...) }
func (b *Bus) Errorf(format string, values ...any) { b.Logf(Error, format, values...) }

// Why something was refused.
const (
	NotGranted = "not-granted" // publishing to the topic is not granted
	Invalid    = "invalid"     // a name or attribute is not valid
	TooLarge   = "too-large"
	TooMany    = "too-many" // the call staged as much as one call may
	InvalidKey = "invalid-key"
	Full       = "full" // the state, or what one call may write to it
)

// Refusal is why an event or a state's key was not taken. Nothing else of the call is affected.
type Refusal struct {
	Kind string
	Text string
}

func (r *Refusal) Error() string { return r.Text }

// Failure is an error that says what becomes of the message. Any other error is a retry without a time.
type Failure struct {
	kind   failureKind
	reason string
	after  *time.Duration
	cause  error
}

type failureKind uint8

const (
	retry failureKind = iota
	reject
	unavailable
)

func (f *Failure) Error() string { return f.reason }

// Unwrap returns the error that a %w of its format named.
func (f *Failure) Unwrap() error { return f.cause }

// After returns the same failure with a time to wait until the next attempt. The subscription's backoff decides without.
func (f *Failure) After(wait time.Duration) *Failure {
	with := *f
	with.after = &wait
	return &with
}

func failure(kind failureKind, format string, values []any) *Failure {
	err := fmt.Errorf(format, values...)
	return &Failure{kind: kind, reason: err.Error(), cause: errors.Unwrap(err)}
}

// Retry says that the message failed now, and may succeed later. It is charged as an attempt.
func Retry(format string, values ...any) *Failure { return failure(retry, format, values) }

// Reject says that the message can never succeed: it becomes a dead letter at once.
func Reject(format string, values ...any) *Failure { return failure(reject, format, values) }

// Unavailable says that something that the handler depends on is down. It is not charged as an attempt.
func Unavailable(format string, values ...any) *Failure { return failure(unavailable, format, values) }

// What an error that a handler returned says.
func failureOf(err error) *Failure {
	var failure *Failure
	if errors.As(err, &failure) {
		if error(failure) == err {
			return failure
		}
		// Wrapped: what it says, with the words that were put around it.
		return &Failure{kind: failure.kind, reason: err.Error(), after: failure.after}
	}
	return &Failure{kind: retry, reason: err.Error()}
}
