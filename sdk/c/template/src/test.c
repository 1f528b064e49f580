#include <assert.h>

#include "consumer.c"

static sp_outcome order(const char *data) {
    sp_message message = sp_test_message(sp_text("order.placed"), sp_text(data));
    return sp_test_deliver(handle, &message);
}

int main(void) {
    sp_test_grant(sp_text("invoice.due"));
    assert(order("{\"id\": \"o-1\", \"customer\": \"ada\", \"total_cents\": 2598}").kind == SP_ACK);
    assert(order("{\"id\": \"o-2\", \"customer\": \"ada\", \"total_cents\": 402}").kind == SP_ACK);
    assert(sp_test_published.len == 2);
    sp_bytes invoice = sp_test_published.events[1].data;
    assert(sp_equal(invoice, sp_text("{\"order\":\"o-2\",\"customer\":\"ada\",\"total_cents\":3000}")));
    assert(sp_equal(sp_test_find(&sp_test_state, sp_text("total/ada")).value, sp_text("3000")));
    assert(order("{\"id\": \"o-1\"}").kind == SP_REJECT);
    puts("3 tests passed");
    return 0;
}
