//! Sandpost for Zig: a consumer is a function, and this file.
//!
//!     const sandpost = @import("sandpost");
//!     pub const panic = sandpost.panic;
//!
//!     fn handle(message: *const sandpost.Message, bus: *sandpost.Bus) !sandpost.Outcome {
//!         try bus.set("last", message.data);
//!         return .ack;
//!     }
//!
//!     comptime {
//!         sandpost.consumer(handle);
//!     }
//!
//! Returning `.ack` acknowledges the message: what was published and written to the state commits with it. After any other
//! outcome, an error, a panic or a time-out, none of it happened. An error is a retry; where the bus refused something, its
//! text is the reason, and else the name of the error.
//!
//! `bus.allocator` is an arena that is emptied after each message, so nothing need be freed.

const std = @import("std");
const builtin = @import("builtin");

const is_wasm = builtin.cpu.arch == .wasm32;

pub const Attribute = struct { name: []const u8, value: []const u8 };

/// A CloudEvents 1.0 event, stored in a topic. Times are milliseconds since 1970.
pub const Message = struct {
    id: []const u8,
    source: []const u8,
    type: []const u8,
    subject: ?[]const u8 = null,
    topic: []const u8,
    /// Messages of one key arrive in order, one at a time.
    key: ?[]const u8 = null,
    content_type: ?[]const u8 = null,
    accepted_ms: u64,
    /// `time`, `dataschema`, `traceparent` and extensions.
    attributes: []const Attribute = &.{},
    data: []const u8,
};

/// This offer of the message to this subscription.
pub const Delivery = struct {
    subscription: []const u8,
    /// The message's place in its topic, from 1.
    sequence: u64,
    /// From 1; only the message's own failures are counted.
    attempt: u32,
    max_attempts: u32,
    redrives: u32,
    first_attempt_ms: u64,
    /// When this call is ended.
    deadline_ms: u64,
    /// The same in every attempt. Hand it to services outside the bus.
    idempotency_key: []const u8,
};

/// An event to be published. Only the topic is needed.
pub const Event = struct {
    /// Granted under `[grants] publish` in the manifest.
    topic: []const u8,
    /// The topic's name where it is empty.
    type: []const u8 = "",
    key: ?[]const u8 = null,
    /// Made from the idempotency key where there is none.
    id: ?[]const u8 = null,
    subject: ?[]const u8 = null,
    content_type: ?[]const u8 = null,
    /// Names are lower-case letters and digits.
    attributes: []const Attribute = &.{},
    data: []const u8 = "",
    /// Not before this time.
    deliver_at_ms: ?u64 = null,
    /// Not after this time.
    expires_ms: ?u64 = null,
};

pub const Entry = struct { key: []const u8, value: []const u8 };

pub const Retry = struct {
    reason: []const u8,
    /// The subscription's backoff decides where there is none.
    after_ms: ?u64 = null,
};

/// How a call ends.
pub const Outcome = union(enum) {
    ack,
    /// It failed now, and may succeed later: charged as an attempt.
    retry: Retry,
    /// It can never succeed: the message becomes a dead letter at once.
    reject: []const u8,
    /// Something that the handler depends on is down: not charged as an attempt.
    unavailable: Retry,
};

/// Why something was refused; `bus.refused` has the text. Nothing else of the call is affected.
pub const Refused = error{ NotGranted, Invalid, TooLarge, TooMany, InvalidKey, Full };

pub const Level = enum(u32) { trace, debug, info, warn, err };

pub const Handler = fn (message: *const Message, bus: *Bus) anyerror!Outcome;

/// What a handler may use. It is good until the handler returns.
pub const Bus = struct {
    delivery: Delivery,
    /// Memory until the handler returns.
    allocator: std.mem.Allocator,
    /// The text of the last refusal.
    refused: []const u8 = "",
    /// Of a native test; null in WebAssembly.
    testing: ?*TestBus = null,

    /// Stages an event. It is published if, and only if, the message is acknowledged.
    pub fn publish(bus: *Bus, event: Event) !void {
        if (!is_wasm) return bus.testing.?.publish(bus, event);
        var raw: raw_outgoing = .{
            .topic = .of(event.topic),
            .type = .of(event.type),
            .key = .of(event.key),
            .id = .of(event.id),
            .subject = .of(event.subject),
            .content_type = .of(event.content_type),
            .attributes = undefined,
            .data = .of(event.data),
            .deliver_at_ms = .of(event.deliver_at_ms),
            .expires_ms = .of(event.expires_ms),
        };
        const rows = try bus.allocator.alloc(raw_pair, @max(event.attributes.len, 1));
        for (rows[0..event.attributes.len], event.attributes) |*row, attribute| row.* = .{ .name = .of(attribute.name), .value = .of(attribute.value) };
        raw.attributes = .{ .ptr = rows.ptr, .len = event.attributes.len };
        var answer: raw_answer = undefined;
        imports.bus.publish(&raw, &answer);
        try bus.check(&answer, &.{ error.NotGranted, error.Invalid, error.TooLarge, error.TooMany });
    }

    /// The value of a key of the state; null where there is none.
    pub fn get(bus: *Bus, key: []const u8) !?[]const u8 {
        if (!is_wasm) return bus.testing.?.get(bus, key);
        var answer: raw_answer = undefined;
        const raw: raw_text = .of(key);
        imports.state.get(raw.ptr, raw.len, &answer);
        try bus.check(&answer, state_errors);
        return if (answer.kind != 0) answer.text.slice() else null;
    }

    pub fn set(bus: *Bus, key: []const u8, value: []const u8) !void {
        if (!is_wasm) return bus.testing.?.set(bus, key, value);
        var answer: raw_answer = undefined;
        const raw: raw_text = .of(key);
        const raw_value: raw_text = .of(value);
        imports.state.set(raw.ptr, raw.len, raw_value.ptr, raw_value.len, &answer);
        try bus.check(&answer, state_errors);
    }

    /// Removes a key. One that is not there is no error.
    pub fn delete(bus: *Bus, key: []const u8) !void {
        if (!is_wasm) return bus.testing.?.delete(bus, key);
        var answer: raw_answer = undefined;
        const raw: raw_text = .of(key);
        imports.state.delete(raw.ptr, raw.len, &answer);
        try bus.check(&answer, state_errors);
    }

    /// Entries whose keys begin with `prefix` and come after `after`, by their bytes: at most `limit`, and 1,000.
    pub fn scan(bus: *Bus, prefix: []const u8, after: ?[]const u8, limit: u32) ![]const Entry {
        if (!is_wasm) return bus.testing.?.scan(bus, prefix, after, limit);
        var answer: raw_answer = undefined;
        const raw: raw_text = .of(prefix);
        const last: raw_text = .of(after orelse "");
        imports.state.scan(raw.ptr, raw.len, @intFromBool(after != null), last.ptr, last.len, limit, &answer);
        try bus.check(&answer, state_errors);
        // A list stands where the error's number would.
        const list: *const raw_rows = @ptrCast(@alignCast(&answer.kind));
        const entries = try bus.allocator.alloc(Entry, list.len);
        for (entries, list.ptr[0..list.len]) |*entry, row| entry.* = .{ .key = row.name.slice(), .value = row.value.slice() };
        return entries;
    }

    /// A value of the manifest's `[config]`.
    pub fn config(bus: *Bus, name: []const u8) ?[]const u8 {
        if (!is_wasm) return bus.testing.?.config.get(name);
        var answer: raw_option = undefined;
        const raw: raw_text = .of(name);
        imports.config.get(raw.ptr, raw.len, &answer);
        return answer.value();
    }

    /// A line in the bus's log.
    pub fn log(bus: *Bus, level: Level, comptime format: []const u8, values: anytype) void {
        const text = std.fmt.allocPrint(bus.allocator, format, values) catch return;
        const raw: raw_text = .of(text);
        if (is_wasm) imports.log.write(@intFromEnum(level), raw.ptr, raw.len) else std.debug.print("{s}: {s}\n", .{ @tagName(level), text });
    }

    fn check(bus: *Bus, answer: *const raw_answer, errors: []const Refused) Refused!void {
        if (answer.failed == 0) return;
        bus.refused = answer.text.slice();
        return errors[answer.kind];
    }
};

const state_errors: []const Refused = &.{ error.InvalidKey, error.TooLarge, error.Full };

/// Makes a function the consumer of this module. Call it at comptime, once.
pub fn consumer(comptime handler: Handler) void {
    if (!is_wasm) return;
    const exported = struct {
        fn handle(call: *const raw_call) callconv(.c) *const raw_result {
            const allocator = arena.allocator();
            const attributes = allocator.alloc(Attribute, call.attributes.len) catch @panic("out of memory");
            for (attributes, call.attributes.ptr[0..call.attributes.len]) |*attribute, row| {
                attribute.* = .{ .name = row.name.slice(), .value = row.value.slice() };
            }
            const message: Message = .{
                .id = call.id.slice(),
                .source = call.source.slice(),
                .type = call.type.slice(),
                .subject = call.subject.value(),
                .topic = call.topic.slice(),
                .key = call.key.value(),
                .content_type = call.content_type.value(),
                .accepted_ms = call.accepted_ms,
                .attributes = attributes,
                .data = call.data.slice(),
            };
            var bus: Bus = .{ .allocator = allocator, .delivery = .{
                .subscription = call.subscription.slice(),
                .sequence = call.sequence,
                .attempt = call.attempt,
                .max_attempts = call.max_attempts,
                .redrives = call.redrives,
                .first_attempt_ms = call.first_attempt_ms,
                .deadline_ms = call.deadline_ms,
                .idempotency_key = call.idempotency_key.slice(),
            } };
            const outcome: Outcome = handler(&message, &bus) catch |failure| outcome: {
                // The host tells by its own limit that this was memory.
                if (failure == error.OutOfMemory) @panic("out of memory");
                const reason = if (bus.refused.len != 0) bus.refused else @errorName(failure);
                break :outcome .{ .retry = .{ .reason = reason } };
            };
            result = .{ .failed = 1, .kind = 0, .reason = .of(""), .after_ms = .of(null) };
            switch (outcome) {
                .ack => result.failed = 0,
                .retry => |retry| result.fail(0, retry),
                .reject => |reason| result.fail(1, .{ .reason = reason }),
                .unavailable => |retry| result.fail(2, retry),
            }
            return &result;
        }

        fn postHandle(_: *const raw_result) callconv(.c) void {
            _ = arena.reset(.retain_capacity);
        }

        fn realloc(old: ?[*]const u8, old_len: usize, alignment: usize, len: usize) callconv(.c) [*]u8 {
            const place = arena.allocator().rawAlloc(len, .fromByteUnits(alignment), 0) orelse @trap();
            if (old_len != 0) @memcpy(place[0..@min(old_len, len)], old.?[0..@min(old_len, len)]);
            return place;
        }
    };
    @export(&exported.handle, .{ .name = "handle" });
    @export(&exported.postHandle, .{ .name = "cabi_post_handle" });
    @export(&exported.realloc, .{ .name = "cabi_realloc" });
}

/// Prints a panic's text, which then stands in the dead letter. In the root file: `pub const panic = sandpost.panic;`
pub const panic = std.debug.FullPanic(panicked);

fn panicked(text: []const u8, _: ?usize) noreturn {
    if (is_wasm) {
        const line = [1]raw_text{.of(text)};
        var written: u32 = undefined;
        _ = imports.wasi.fd_write(2, &line, 1, &written);
    } else {
        std.debug.print("{s}\n", .{text});
    }
    @trap();
}

// How it works: the layout is that of sdk/wit/consumer.wit in the canonical ABI, which is that of C.

var arena: std.heap.ArenaAllocator = .init(std.heap.wasm_allocator);
var result: raw_result = undefined;

const raw_text = extern struct {
    ptr: [*]const u8,
    len: usize,

    fn of(text: []const u8) raw_text {
        // The address of nothing may be any: here it is one in memory, for the bus looks at it.
        return .{ .ptr = if (text.len == 0) "" else text.ptr, .len = text.len };
    }

    fn slice(text: raw_text) []const u8 {
        return if (text.len == 0) "" else text.ptr[0..text.len];
    }
};

const raw_option = extern struct {
    some: u8,
    text: raw_text,

    fn of(text: ?[]const u8) raw_option {
        return .{ .some = @intFromBool(text != null), .text = .of(text orelse "") };
    }

    fn value(option: raw_option) ?[]const u8 {
        return if (option.some != 0) option.text.slice() else null;
    }
};

const raw_number = extern struct {
    some: u8,
    number: u64,

    fn of(number: ?u64) raw_number {
        return .{ .some = @intFromBool(number != null), .number = number orelse 0 };
    }
};

const raw_pair = extern struct { name: raw_text, value: raw_text };
const raw_rows = extern struct { ptr: [*]const raw_pair, len: usize };
const raw_answer = extern struct { failed: u8, kind: u8 align(4), text: raw_text };

const raw_call = extern struct {
    id: raw_text,
    source: raw_text,
    type: raw_text,
    subject: raw_option,
    topic: raw_text,
    key: raw_option,
    content_type: raw_option,
    accepted_ms: u64,
    attributes: raw_rows,
    data: raw_text,
    subscription: raw_text align(8),
    sequence: u64,
    attempt: u32,
    max_attempts: u32,
    redrives: u32,
    first_attempt_ms: u64,
    deadline_ms: u64,
    idempotency_key: raw_text,
};

const raw_outgoing = extern struct {
    topic: raw_text,
    type: raw_text,
    key: raw_option,
    id: raw_option,
    subject: raw_option,
    content_type: raw_option,
    attributes: raw_rows,
    data: raw_text,
    deliver_at_ms: raw_number,
    expires_ms: raw_number,
};

const raw_result = extern struct {
    failed: u8,
    kind: u8 align(8),
    reason: raw_text align(8),
    after_ms: raw_number,

    fn fail(raw: *raw_result, kind: u8, retry: Retry) void {
        raw.kind = kind;
        raw.reason = .of(retry.reason);
        raw.after_ms = .of(retry.after_ms);
    }
};

comptime {
    if (is_wasm) {
        std.debug.assert(@sizeOf(raw_call) == 152 and @offsetOf(raw_call, "subscription") == 96);
        std.debug.assert(@sizeOf(raw_outgoing) == 112 and @offsetOf(raw_outgoing, "expires_ms") == 96);
        std.debug.assert(@sizeOf(raw_answer) == 16 and @sizeOf(raw_result) == 40);
    }
}

const imports = struct {
    const bus = struct {
        extern "sandpost:consumer/bus@0.1.0" fn publish(event: *const raw_outgoing, answer: *raw_answer) void;
    };
    const state = struct {
        extern "sandpost:consumer/state@0.1.0" fn get(key: [*]const u8, len: usize, answer: *raw_answer) void;
        extern "sandpost:consumer/state@0.1.0" fn set(key: [*]const u8, len: usize, value: [*]const u8, value_len: usize, answer: *raw_answer) void;
        extern "sandpost:consumer/state@0.1.0" fn delete(key: [*]const u8, len: usize, answer: *raw_answer) void;
        extern "sandpost:consumer/state@0.1.0" fn scan(prefix: [*]const u8, len: usize, some: u32, after: [*]const u8, after_len: usize, limit: u32, answer: *raw_answer) void;
    };
    const config = struct {
        extern "sandpost:consumer/config@0.1.0" fn get(name: [*]const u8, len: usize, answer: *raw_option) void;
    };
    const log = struct {
        extern "sandpost:consumer/log@0.1.0" fn write(level: u32, text: [*]const u8, len: usize) void;
    };
    const wasi = struct {
        extern "wasi_snapshot_preview1" fn fd_write(file: i32, lines: [*]const raw_text, count: usize, written: *u32) i32;
    };
};

/// A bus in memory, for `zig test`. It keeps the contract: what a failed call did is undone. All that it holds is of its
/// allocator; an arena is right for a test.
pub const TestBus = struct {
    allocator: std.mem.Allocator,
    /// Topics that may be published to, without wildcards.
    granted: []const []const u8 = &.{},
    config: std.StringHashMapUnmanaged([]const u8) = .empty,
    /// What acknowledged calls left, and published.
    state: std.StringArrayHashMapUnmanaged([]const u8) = .empty,
    published: std.ArrayList(Event) = .empty,

    /// A message of a topic with this data, and no key.
    pub fn message(topic: []const u8, data: []const u8) Message {
        return .{ .id = "test-1", .source = "/test", .type = topic, .topic = topic, .accepted_ms = 1767225600000, .data = data };
    }

    /// Has the handler handle a message in its first attempt. What it answers as an error is a retry.
    pub fn deliver(bus: *TestBus, handler: *const Handler, given: Message) !Outcome {
        const before = try bus.state.clone(bus.allocator);
        const published = bus.published.items.len;
        var call: Bus = .{ .allocator = bus.allocator, .testing = bus, .delivery = .{
            .subscription = "test",
            .sequence = 1,
            .attempt = 1,
            .max_attempts = 6,
            .redrives = 0,
            .first_attempt_ms = given.accepted_ms,
            .deadline_ms = given.accepted_ms + 5000,
            .idempotency_key = "test-key",
        } };
        const outcome: Outcome = handler(&given, &call) catch |failure| outcome: {
            const reason = if (call.refused.len != 0) call.refused else @errorName(failure);
            break :outcome .{ .retry = .{ .reason = reason } };
        };
        if (outcome != .ack) {
            bus.state = before;
            bus.published.shrinkRetainingCapacity(published);
        }
        return outcome;
    }

    fn publish(bus: *TestBus, call: *Bus, event: Event) !void {
        for (bus.granted) |topic| {
            if (std.mem.eql(u8, topic, event.topic)) break;
        } else {
            call.refused = "the manifest does not grant publishing to this topic";
            return error.NotGranted;
        }
        try bus.published.append(bus.allocator, event);
    }

    fn checkKey(call: *Bus, key: []const u8) Refused!void {
        if (key.len >= 1 and key.len <= 1024) return;
        call.refused = "a key has 1 to 1024 bytes";
        return error.InvalidKey;
    }

    fn get(bus: *TestBus, call: *Bus, key: []const u8) !?[]const u8 {
        try checkKey(call, key);
        return bus.state.get(key);
    }

    fn set(bus: *TestBus, call: *Bus, key: []const u8, value: []const u8) !void {
        try checkKey(call, key);
        try bus.state.put(bus.allocator, try bus.allocator.dupe(u8, key), try bus.allocator.dupe(u8, value));
    }

    fn delete(bus: *TestBus, call: *Bus, key: []const u8) !void {
        try checkKey(call, key);
        _ = bus.state.orderedRemove(key);
    }

    fn scan(bus: *TestBus, call: *Bus, prefix: []const u8, after: ?[]const u8, limit: u32) ![]const Entry {
        var entries: std.ArrayList(Entry) = .empty;
        for (bus.state.keys(), bus.state.values()) |key, value| {
            const later = if (after) |last| std.mem.order(u8, key, last) == .gt else true;
            if (later and std.mem.startsWith(u8, key, prefix)) try entries.append(call.allocator, .{ .key = key, .value = value });
        }
        std.mem.sort(Entry, entries.items, {}, struct {
            fn before(_: void, one: Entry, other: Entry) bool {
                return std.mem.order(u8, one.key, other.key) == .lt;
            }
        }.before);
        return entries.items[0..@min(entries.items.len, limit, 1000)];
    }
};
