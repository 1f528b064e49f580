// The obedient guest in Go: it does what the subject of its message says.
package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sandpost"
)

func init() { sandpost.Handle(handle) }

func main() {}

func handle(message *sandpost.Message, bus *sandpost.Bus) error {
	verb, rest, _ := strings.Cut(message.Subject, " ")
	tell := func(data string) error {
		return bus.Publish(sandpost.Event{Topic: "told", Key: message.Key, ContentType: "text/plain", Data: []byte(data)})
	}
	switch verb {
	case "ack":
		return nil
	case "retry":
		return sandpost.Retry("%s", rest)
	case "reject":
		return sandpost.Reject("%s", rest)
	case "unavailable":
		return sandpost.Unavailable("%s", rest)
	case "retry-after", "unavailable-after":
		number, reason, _ := strings.Cut(rest, " ")
		ms, err := strconv.Atoi(number)
		if err != nil {
			return sandpost.Reject("%w", err)
		}
		failure := sandpost.Retry("%s", reason)
		if verb == "unavailable-after" {
			failure = sandpost.Unavailable("%s", reason)
		}
		return failure.After(time.Duration(ms) * time.Millisecond)
	case "throw":
		panic(rest)
	case "loop":
		for turns := uint(0); ; turns++ {
			sink = turns
		}
	case "hog":
		for {
			hoard = append(hoard, []byte(strings.Repeat("x", 1<<20)))
		}
	case "publish":
		return bus.Publish(sandpost.Event{
			Topic: rest, Type: message.Type, Key: message.Key, Subject: message.ID, ContentType: message.ContentType,
			Attributes: message.Attributes, Data: message.Data,
		})
	case "publish-later":
		return bus.Publish(sandpost.Event{
			Topic: rest, ID: "later-" + message.ID, Data: message.Data,
			DeliverAt: message.Accepted.Add(time.Hour), Expires: message.Accepted.Add(2 * time.Hour),
		})
	case "publish-error":
		return tell(kind(bus.Publish(sandpost.Event{Topic: rest})))
	case "describe":
		return tell(describe(message, &bus.Delivery))
	case "set":
		return bus.Set(rest, message.Data)
	case "get":
		value, found, err := bus.Get(rest)
		if err != nil {
			return err
		}
		if !found {
			return sandpost.Reject("no %s", rest)
		}
		return tell(string(value))
	case "delete":
		return bus.Delete(rest)
	case "scan":
		var lines strings.Builder
		for after := ""; ; {
			page, err := bus.Scan(rest, after, 2)
			if err != nil {
				return err
			}
			for _, entry := range page {
				fmt.Fprintf(&lines, "%s=%s\n", entry.Key, entry.Value)
				after = entry.Key
			}
			if len(page) < 2 {
				return tell(lines.String())
			}
		}
	case "count":
		value, _, err := bus.Get(rest)
		if err != nil {
			return err
		}
		count, _ := strconv.Atoi(string(value))
		return bus.Set(rest, []byte(strconv.Itoa(count+1)))
	case "state-error":
		return tell(kind(bus.Set("", message.Data)))
	case "config":
		value, found := bus.Config(rest)
		if !found {
			return sandpost.Reject("no %s", rest)
		}
		return tell(value)
	case "log":
		name, text, _ := strings.Cut(rest, " ")
		levels := map[string]sandpost.Level{"trace": sandpost.Trace, "debug": sandpost.Debug, "info": sandpost.Info, "warn": sandpost.Warn, "error": sandpost.Error}
		bus.Logf(levels[name], "%s", text)
		return nil
	case "garbage":
		bytes, err := strconv.Atoi(rest)
		if err != nil {
			return sandpost.Reject("%w", err)
		}
		for ; bytes >= 1024; bytes -= 1024 {
			garbage = make([]byte, 1024)
			garbage[0] = 1
		}
		return nil
	}
	return sandpost.Reject("unknown order %s", message.Subject)
}

var (
	sink    uint
	hoard   [][]byte
	garbage []byte
)

func kind(err error) string {
	var refusal *sandpost.Refusal
	if errors.As(err, &refusal) {
		return refusal.Kind
	}
	return "none"
}

func describe(message *sandpost.Message, delivery *sandpost.Delivery) string {
	var lines strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&lines, "%s=%v\n", name, value) }
	optional := func(name, value string) {
		if value == "" {
			lines.WriteString(name + "\n")
		} else {
			line(name, value)
		}
	}
	line("id", message.ID)
	line("source", message.Source)
	line("type", message.Type)
	optional("subject", message.Subject)
	line("topic", message.Topic)
	optional("key", message.Key)
	optional("content-type", message.ContentType)
	line("accepted-ms", message.Accepted.UnixMilli())
	for _, attribute := range message.Attributes {
		line("attribute "+attribute.Name, attribute.Value)
	}
	line("data-bytes", len(message.Data))
	line("subscription", delivery.Subscription)
	line("sequence", delivery.Sequence)
	line("attempt", delivery.Attempt)
	line("max-attempts", delivery.MaxAttempts)
	line("redrives", delivery.Redrives)
	line("first-attempt-ms", delivery.FirstAttempt.UnixMilli())
	line("deadline-ms", delivery.Deadline.UnixMilli())
	line("idempotency-key", delivery.IdempotencyKey)
	return lines.String()
}
