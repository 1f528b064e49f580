//! Adds up what each customer has ordered, and publishes `invoice.due`.

const std = @import("std");
const sandpost = @import("sandpost");

pub const panic = sandpost.panic;

comptime {
    sandpost.consumer(handle);
}

const Order = struct { id: []const u8, customer: []const u8, total_cents: u64 };

fn handle(message: *const sandpost.Message, bus: *sandpost.Bus) !sandpost.Outcome {
    const options: std.json.ParseOptions = .{ .ignore_unknown_fields = true };
    const order = std.json.parseFromSliceLeaky(Order, bus.allocator, message.data, options) catch
        return .{ .reject = "an order needs an id, a customer and total_cents" };

    const key = try std.fmt.allocPrint(bus.allocator, "total/{s}", .{order.customer});
    const before = try std.fmt.parseInt(u64, try bus.get(key) orelse "0", 10);
    const total = before + order.total_cents;
    try bus.set(key, try std.fmt.allocPrint(bus.allocator, "{d}", .{total}));
    bus.log(.info, "{s} has ordered {d} cents", .{ order.customer, total });

    const invoice = .{ .order = order.id, .customer = order.customer, .total_cents = total };
    try bus.publish(.{
        .topic = "invoice.due",
        .key = order.customer,
        .content_type = "application/json",
        .data = try std.json.Stringify.valueAlloc(bus.allocator, invoice, .{}),
    });
    return .ack;
}

test "orders add up" {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    var bus: sandpost.TestBus = .{ .allocator = arena.allocator(), .granted = &.{"invoice.due"} };
    for ([_][]const u8{
        \\{"id": "o-1", "customer": "ada", "total_cents": 2598}
        ,
        \\{"id": "o-2", "customer": "ada", "total_cents": 402}
    }) |order| {
        try std.testing.expect(try bus.deliver(handle, sandpost.TestBus.message("order.placed", order)) == .ack);
    }
    try std.testing.expectEqualStrings(
        \\{"order":"o-2","customer":"ada","total_cents":3000}
    , bus.published.items[1].data);
    try std.testing.expectEqualStrings("3000", bus.state.get("total/ada").?);
}

test "what is no order is rejected" {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    var bus: sandpost.TestBus = .{ .allocator = arena.allocator() };
    const outcome = try bus.deliver(handle, sandpost.TestBus.message("order.placed", "{\"id\": \"o-1\"}"));
    try std.testing.expect(outcome == .reject);
}
