/* Adds up what each customer has ordered, and publishes `invoice.due`. */
#include "consumer.h"

/* The value of a member of a flat JSON object, without the quotes of a text; empty where it is not there. It is no JSON
 * reader: for nested data take one, such as yyjson or cJSON. */
static sp_bytes member(sp_bytes json, const char *name) {
    sp_bytes quoted = sp_format("\"%s\"", name);
    for (size_t at = 0; at + quoted.len < json.len; at++) {
        if (memcmp(json.ptr + at, quoted.ptr, quoted.len) != 0) continue;
        const char *from = json.ptr + at + quoted.len, *end = json.ptr + json.len;
        while (from < end && (*from == ' ' || *from == ':')) from++;
        bool text = from < end && *from == '"';
        if (text) from++;
        const char *to = from;
        /* What follows a backslash ends no text: it stays as it is written, and so fits into JSON again. */
        while (to < end && (text ? *to != '"' : *to >= '0' && *to <= '9')) to += text && *to == '\\' && to + 1 < end ? 2 : 1;
        return (sp_bytes){from, (size_t)(to - from)};
    }
    return sp_text("");
}

static uint64_t number(sp_bytes text) {
    uint64_t value = 0;
    for (size_t at = 0; at < text.len; at++) value = value * 10 + (uint64_t)(text.ptr[at] - '0');
    return value;
}

sp_outcome handle(const sp_message *message, const sp_delivery *delivery) {
    (void)delivery;
    sp_bytes id = member(message->data, "id"), customer = member(message->data, "customer");
    sp_bytes cents = member(message->data, "total_cents");
    if (!id.len || !customer.len || !cents.len) return sp_reject(sp_text("an order needs an id, a customer and total_cents"));

    sp_bytes key = sp_format("total/%.*s", SP_ARG(customer));
    sp_optional stored;
    SP_TRY(sp_get(key, &stored));
    uint64_t total = number(cents) + (stored.some ? number(stored.value) : 0);
    SP_TRY(sp_set(key, sp_format("%" PRIu64, total)));
    sp_log(SP_INFO, sp_format("%.*s has ordered %" PRIu64 " cents", SP_ARG(customer), total));

    sp_outgoing invoice = sp_event(sp_text("invoice.due"),
        sp_format("{\"order\":\"%.*s\",\"customer\":\"%.*s\",\"total_cents\":%" PRIu64 "}", SP_ARG(id), SP_ARG(customer), total));
    invoice.key = sp_some(customer);
    invoice.content_type = sp_some(sp_text("application/json"));
    SP_TRY(sp_publish(&invoice));
    return sp_ack();
}
