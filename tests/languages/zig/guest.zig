//! The obedient guest in Zig: it does what the subject of its message says.

const std = @import("std");
const sandpost = @import("sandpost");
const Bus = sandpost.Bus;
const Message = sandpost.Message;
const Outcome = sandpost.Outcome;

pub const panic = sandpost.panic;

comptime {
    sandpost.consumer(handle);
}

const Order = enum { ack, retry, @"retry-after", reject, unavailable, @"unavailable-after", throw, loop, hog, publish, @"publish-later", @"publish-error", describe, set, get, delete, scan, count, @"state-error", config, log, garbage };

fn cut(text: []const u8) struct { []const u8, []const u8 } {
    const space = std.mem.indexOfScalar(u8, text, ' ') orelse return .{ text, "" };
    return .{ text[0..space], text[space + 1 ..] };
}

fn tell(message: *const Message, bus: *Bus, data: []const u8) !Outcome {
    try bus.publish(.{ .topic = "told", .key = message.key, .content_type = "text/plain", .data = data });
    return .ack;
}

fn kindOf(answer: anyerror!void) []const u8 {
    answer catch |failure| return switch (failure) {
        error.NotGranted => "not-granted",
        error.Invalid => "invalid",
        error.TooLarge => "too-large",
        error.TooMany => "too-many",
        error.InvalidKey => "invalid-key",
        error.Full => "full",
        else => @errorName(failure),
    };
    return "none";
}

fn describe(message: *const Message, bus: *Bus) ![]const u8 {
    const a = bus.allocator;
    var text: std.ArrayList(u8) = .empty;
    const d = bus.delivery;
    try text.print(a, "id={s}\nsource={s}\ntype={s}\n", .{ message.id, message.source, message.type });
    try optional(a, &text, "subject", message.subject);
    try text.print(a, "topic={s}\n", .{message.topic});
    try optional(a, &text, "key", message.key);
    try optional(a, &text, "content-type", message.content_type);
    try text.print(a, "accepted-ms={d}\n", .{message.accepted_ms});
    for (message.attributes) |one| try text.print(a, "attribute {s}={s}\n", .{ one.name, one.value });
    try text.print(a, "data-bytes={d}\nsubscription={s}\nsequence={d}\n", .{ message.data.len, d.subscription, d.sequence });
    try text.print(a, "attempt={d}\nmax-attempts={d}\nredrives={d}\n", .{ d.attempt, d.max_attempts, d.redrives });
    try text.print(a, "first-attempt-ms={d}\ndeadline-ms={d}\n", .{ d.first_attempt_ms, d.deadline_ms });
    try text.print(a, "idempotency-key={s}\n", .{d.idempotency_key});
    return text.items;
}

fn optional(a: std.mem.Allocator, text: *std.ArrayList(u8), name: []const u8, value: ?[]const u8) !void {
    if (value) |some| try text.print(a, "{s}={s}\n", .{ name, some }) else try text.print(a, "{s}\n", .{name});
}

noinline fn toldToThrow(text: []const u8) noreturn {
    @panic(text);
}

fn handle(message: *const Message, bus: *Bus) anyerror!Outcome {
    const a = bus.allocator;
    const subject = message.subject orelse "";
    const verb, const rest = cut(subject);
    const order = std.meta.stringToEnum(Order, verb) orelse
        return .{ .reject = try std.fmt.allocPrint(a, "unknown order {s}", .{subject}) };
    switch (order) {
        .ack => {},
        .retry => return .{ .retry = .{ .reason = rest } },
        .reject => return .{ .reject = rest },
        .unavailable => return .{ .unavailable = .{ .reason = rest } },
        .@"retry-after", .@"unavailable-after" => {
            const ms, const reason = cut(rest);
            const retry: sandpost.Retry = .{ .reason = reason, .after_ms = try std.fmt.parseInt(u64, ms, 10) };
            return if (order == .@"retry-after") .{ .retry = retry } else .{ .unavailable = retry };
        },
        .throw => toldToThrow(rest),
        .loop => {
            var turns: u32 = 0;
            const volatile_turns: *volatile u32 = &turns;
            while (true) volatile_turns.* +%= 1;
        },
        .hog => while (true) @memset(try a.alloc(u8, 1 << 20), 1),
        .publish => try bus.publish(.{
            .topic = rest,
            .type = message.type,
            .key = message.key,
            .subject = message.id,
            .content_type = message.content_type,
            .attributes = message.attributes,
            .data = message.data,
        }),
        .@"publish-later" => try bus.publish(.{
            .topic = rest,
            .id = try std.fmt.allocPrint(a, "later-{s}", .{message.id}),
            .deliver_at_ms = message.accepted_ms + 3_600_000,
            .expires_ms = message.accepted_ms + 7_200_000,
            .data = message.data,
        }),
        .@"publish-error" => return tell(message, bus, kindOf(bus.publish(.{ .topic = rest }))),
        .describe => return tell(message, bus, try describe(message, bus)),
        .set => try bus.set(rest, message.data),
        .get => return tell(message, bus, try bus.get(rest) orelse
            return .{ .reject = try std.fmt.allocPrint(a, "no {s}", .{rest}) }),
        .delete => try bus.delete(rest),
        .scan => {
            var lines: std.ArrayList(u8) = .empty;
            var after: ?[]const u8 = null;
            while (true) {
                const page = try bus.scan(rest, after, 2);
                for (page) |entry| {
                    try lines.print(a, "{s}={s}\n", .{ entry.key, entry.value });
                    after = entry.key;
                }
                if (page.len < 2) return tell(message, bus, lines.items);
            }
        },
        .count => {
            const count = try std.fmt.parseInt(u64, try bus.get(rest) orelse "0", 10);
            try bus.set(rest, try std.fmt.allocPrint(a, "{d}", .{count + 1}));
        },
        .@"state-error" => return tell(message, bus, kindOf(bus.set("", message.data))),
        .config => return tell(message, bus, bus.config(rest) orelse
            return .{ .reject = try std.fmt.allocPrint(a, "no {s}", .{rest}) }),
        .log => {
            const name, const text = cut(rest);
            const level = if (std.mem.eql(u8, name, "error")) .err else std.meta.stringToEnum(sandpost.Level, name) orelse .info;
            bus.log(level, "{s}", .{text});
        },
        .garbage => {
            var left = try std.fmt.parseInt(usize, rest, 10);
            while (left >= 1024) : (left -= 1024) {
                const piece = try std.heap.wasm_allocator.alloc(u8, 1024);
                @memset(piece, 1);
                std.heap.wasm_allocator.free(piece);
            }
        },
    }
    return .ack;
}
