//go:build wasip1

package sandpost

import (
	"runtime"
	"time"
	"unsafe"
)

var handler Handler

// Handle says which function handles messages. Call it once, from init.
func Handle(function Handler) { handler = function }

// Everything that crosses the boundary lies here. The bus puts messages and answers where cabi_realloc says, and while it
// does nothing may be called; Go's allocator calls the clock. So this is no slice: it is there from the beginning.
var arena struct {
	bytes [16 << 20]byte
	used  uint32
}

func arenaAt(at uint32) unsafe.Pointer { return unsafe.Pointer(&arena.bytes[at]) }

func address(pointer unsafe.Pointer) uint32 { return uint32(uintptr(pointer)) }

// take reserves aligned bytes, or answers false where they do not fit.
func take(bytes, align uint32) (uint32, bool) {
	base := address(unsafe.Pointer(&arena.bytes))
	at := (base+arena.used+align-1)&^(align-1) - base
	if uint64(at)+uint64(bytes) > uint64(len(arena.bytes)) {
		return 0, false
	}
	arena.used = at + bytes
	return at, true
}

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldBytes, align, bytes uint32) unsafe.Pointer {
	at, fits := take(max(bytes, 1), align)
	if !fits {
		// More than one call may be given. Nothing can be said here: an address past all memory ends the call.
		return unsafe.Pointer(uintptr(0xffff_fff0))
	}
	if oldBytes > 0 {
		copy(arena.bytes[at:at+bytes], unsafe.Slice((*byte)(old), min(oldBytes, bytes)))
	}
	return arenaAt(at)
}

// The records of the contract, as the canonical ABI lays them out: a pointer has 32 bits.
type (
	rawBytes  struct{ at, len uint32 }
	rawOption struct {
		some bool
		_    [3]byte
		text rawBytes
	}
	rawTime struct {
		some bool
		_    [7]byte
		ms   uint64
	}
	rawAttribute struct{ name, value rawBytes }
	rawCall      struct {
		id, source, kind  rawBytes
		subject           rawOption
		topic             rawBytes
		key, contentType  rawOption
		_                 uint32
		acceptedMs        uint64
		attributes, data  rawBytes
		subscription      rawBytes
		sequence          uint64
		attempt, attempts uint32
		redrives, _       uint32
		firstMs           uint64
		deadlineMs        uint64
		idempotencyKey    rawBytes
	}
	rawOutgoing struct {
		topic, kind                   rawBytes
		key, id, subject, contentType rawOption
		attributes, data              rawBytes
		deliverAt, expires            rawTime
	}
	rawAnswer struct {
		failed bool
		_      [3]byte
		// Of an option whether it is some, of an error its number; a list begins here.
		kind uint8
		_    [3]byte
		text rawBytes
	}
	rawResult struct {
		failed bool
		_      [7]byte
		kind   uint8
		_      [7]byte
		reason rawBytes
		after  rawTime
	}
)

// Array sizes that do not agree do not compile.
var (
	_ [152]byte = [unsafe.Sizeof(rawCall{})]byte{}
	_ [112]byte = [unsafe.Sizeof(rawOutgoing{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(rawAnswer{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(rawResult{})]byte{}
)

//go:wasmimport sandpost:consumer/bus@0.1.0 publish
func importPublish(event, answer unsafe.Pointer)

//go:wasmimport sandpost:consumer/state@0.1.0 get
func importGet(key, keyLen uint32, answer unsafe.Pointer)

//go:wasmimport sandpost:consumer/state@0.1.0 set
func importSet(key, keyLen, value, valueLen uint32, answer unsafe.Pointer)

//go:wasmimport sandpost:consumer/state@0.1.0 delete
func importDelete(key, keyLen uint32, answer unsafe.Pointer)

//go:wasmimport sandpost:consumer/state@0.1.0 scan
func importScan(prefix, prefixLen, some, after, afterLen, limit uint32, answer unsafe.Pointer)

//go:wasmimport sandpost:consumer/config@0.1.0 get
func importConfig(name, nameLen uint32, answer unsafe.Pointer)

//go:wasmimport sandpost:consumer/log@0.1.0 write
func importLog(level, text, textLen uint32)

// lift copies what lies in the arena, so that a handler may keep it.
func (b rawBytes) lift() []byte {
	if b.len == 0 {
		return []byte{}
	}
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(uintptr(b.at))), b.len)...)
}

func (b rawBytes) text() string { return string(b.lift()) }

func (o rawOption) lift() string {
	if !o.some {
		return ""
	}
	return o.text.text()
}

// lower puts text or bytes into the arena: what Go holds may stand on a stack that moves. What does not fit panics.
func lower[T string | []byte](text T) rawBytes {
	at := reserve(uint32(len(text)), 1)
	copy(arena.bytes[at:], text)
	return rawBytes{address(arenaAt(at)), uint32(len(text))}
}

func reserve(bytes, align uint32) uint32 {
	at, fits := take(max(bytes, 1), align)
	if !fits {
		panic("more than 16 MiB were handed over at once")
	}
	return at
}

func lowerOption(text string) rawOption {
	if text == "" {
		return rawOption{}
	}
	return rawOption{some: true, text: lower(text)}
}

func lowerTime(at time.Time) rawTime {
	if at.IsZero() {
		return rawTime{}
	}
	return rawTime{some: true, ms: uint64(max(at.UnixMilli(), 0))}
}

// place makes room for a record in the arena.
func place[T any]() *T {
	var zero T
	record := (*T)(arenaAt(reserve(uint32(unsafe.Sizeof(zero)), 8)))
	*record = zero
	return record
}

// rewind gives back what was taken since the mark.
func rewind(mark uint32) { arena.used = mark }

type wasmHost struct{}

var (
	publishRefusals = [...]string{NotGranted, Invalid, TooLarge, TooMany}
	stateRefusals   = [...]string{InvalidKey, TooLarge, Full}
)

func (a *rawAnswer) refusal(kinds []string) error {
	if !a.failed {
		return nil
	}
	return &Refusal{Kind: kinds[a.kind], Text: a.text.text()}
}

func (wasmHost) publish(event *Event) error {
	defer rewind(arena.used)
	raw, answer := place[rawOutgoing](), place[rawAnswer]()
	raw.topic, raw.kind, raw.data = lower(event.Topic), lower(event.Type), lower(event.Data)
	raw.key, raw.id = lowerOption(event.Key), lowerOption(event.ID)
	raw.subject, raw.contentType = lowerOption(event.Subject), lowerOption(event.ContentType)
	raw.deliverAt, raw.expires = lowerTime(event.DeliverAt), lowerTime(event.Expires)
	count := uint32(len(event.Attributes))
	at := reserve(count*uint32(unsafe.Sizeof(rawAttribute{})), 4)
	attributes := unsafe.Slice((*rawAttribute)(arenaAt(at)), count)
	for index, attribute := range event.Attributes {
		attributes[index] = rawAttribute{lower(attribute.Name), lower(attribute.Value)}
	}
	raw.attributes = rawBytes{address(arenaAt(at)), count}
	importPublish(unsafe.Pointer(raw), unsafe.Pointer(answer))
	return answer.refusal(publishRefusals[:])
}

func (wasmHost) get(key string) ([]byte, bool, error) {
	defer rewind(arena.used)
	raw, answer := lower(key), place[rawAnswer]()
	importGet(raw.at, raw.len, unsafe.Pointer(answer))
	if err := answer.refusal(stateRefusals[:]); err != nil || answer.kind == 0 {
		return nil, false, err
	}
	return answer.text.lift(), true, nil
}

func (wasmHost) set(key string, value []byte) error {
	defer rewind(arena.used)
	rawKey, rawValue, answer := lower(key), lower(value), place[rawAnswer]()
	importSet(rawKey.at, rawKey.len, rawValue.at, rawValue.len, unsafe.Pointer(answer))
	return answer.refusal(stateRefusals[:])
}

func (wasmHost) delete(key string) error {
	defer rewind(arena.used)
	raw, answer := lower(key), place[rawAnswer]()
	importDelete(raw.at, raw.len, unsafe.Pointer(answer))
	return answer.refusal(stateRefusals[:])
}

func (wasmHost) scan(prefix string, after *string, limit uint32) ([]Entry, error) {
	defer rewind(arena.used)
	var some uint32
	var rawAfter rawBytes
	if after != nil {
		some, rawAfter = 1, lower(*after)
	}
	raw, answer := lower(prefix), place[rawAnswer]()
	importScan(raw.at, raw.len, some, rawAfter.at, rawAfter.len, limit, unsafe.Pointer(answer))
	if err := answer.refusal(stateRefusals[:]); err != nil {
		return nil, err
	}
	// A list stands where the error's number would.
	list := (*rawBytes)(unsafe.Pointer(&answer.kind))
	if list.len == 0 {
		return nil, nil
	}
	rows := unsafe.Slice((*rawAttribute)(unsafe.Pointer(uintptr(list.at))), list.len)
	entries := make([]Entry, len(rows))
	for index, row := range rows {
		entries[index] = Entry{row.name.text(), row.value.lift()}
	}
	return entries, nil
}

func (wasmHost) config(name string) (string, bool) {
	defer rewind(arena.used)
	raw, answer := lower(name), place[rawOption]()
	importConfig(raw.at, raw.len, unsafe.Pointer(answer))
	return answer.lift(), answer.some
}

func (wasmHost) log(level Level, text string) {
	defer rewind(arena.used)
	raw := lower(text)
	importLog(uint32(level), raw.at, raw.len)
}

func at(ms uint64) time.Time { return time.UnixMilli(int64(ms)).UTC() }

//go:wasmexport handle
func handle(parameters unsafe.Pointer) unsafe.Pointer {
	raw := (*rawCall)(parameters)
	message := &Message{
		ID: raw.id.text(), Source: raw.source.text(), Type: raw.kind.text(), Subject: raw.subject.lift(),
		Topic: raw.topic.text(), Key: raw.key.lift(), ContentType: raw.contentType.lift(), Accepted: at(raw.acceptedMs),
		Data: raw.data.lift(),
	}
	if raw.attributes.len > 0 {
		for _, row := range unsafe.Slice((*rawAttribute)(unsafe.Pointer(uintptr(raw.attributes.at))), raw.attributes.len) {
			message.Attributes = append(message.Attributes, Attribute{row.name.text(), row.value.text()})
		}
	}
	bus := &Bus{host: wasmHost{}, Delivery: Delivery{
		Subscription: raw.subscription.text(), Sequence: raw.sequence, Attempt: raw.attempt, MaxAttempts: raw.attempts,
		Redrives: raw.redrives, FirstAttempt: at(raw.firstMs), Deadline: at(raw.deadlineMs),
		IdempotencyKey: raw.idempotencyKey.text(),
	}}
	arena.used = 0
	if handler == nil {
		panic("no handler: call sandpost.Handle from init")
	}
	err := handler(message, bus)
	arena.used = 0
	result := place[rawResult]()
	if err != nil {
		failure := failureOf(err)
		result.failed, result.kind, result.reason = true, uint8(failure.kind), lower(failure.reason)
		if failure.after != nil {
			result.after = rawTime{some: true, ms: uint64(max(failure.after.Milliseconds(), 0))}
		}
	}
	// Lets the collector finish a cycle: it runs between goroutines, and there is none to come.
	runtime.Gosched()
	return unsafe.Pointer(result)
}

//go:wasmexport cabi_post_handle
func postHandle(result unsafe.Pointer) { arena.used = 0 }
