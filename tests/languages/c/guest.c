/* The obedient guest in C: it does what the subject of its message says. */
#include "sandpost.h"

static sp_outcome tell(const sp_message *message, sp_bytes data) {
    sp_outgoing event = sp_event(sp_text("told"), data);
    event.key = message->key;
    event.content_type = sp_some(sp_text("text/plain"));
    SP_TRY(sp_publish(&event));
    return sp_ack();
}

static const char *error_name(sp_error_kind kind) {
    switch (kind) {
    case SP_OK: return "none";
    case SP_NOT_GRANTED: return "not-granted";
    case SP_INVALID: return "invalid";
    case SP_TOO_LARGE: case SP_VALUE_TOO_LARGE: return "too-large";
    case SP_TOO_MANY: return "too-many";
    case SP_INVALID_KEY: return "invalid-key";
    case SP_FULL: return "full";
    }
    return "unknown";
}

static sp_bytes optional_line(const char *name, sp_optional value) {
    return value.some ? sp_format("%s=%.*s\n", name, SP_ARG(value.value)) : sp_format("%s\n", name);
}

static sp_outcome describe(const sp_message *message, const sp_delivery *delivery) {
    sp_bytes attributes = sp_text("");
    for (size_t at = 0; at < message->attributes.len; at++) {
        sp_attribute one = message->attributes.ptr[at];
        attributes = sp_format("%.*sattribute %.*s=%.*s\n", SP_ARG(attributes), SP_ARG(one.name), SP_ARG(one.value));
    }
    sp_bytes subject = optional_line("subject", message->subject), key = optional_line("key", message->key);
    sp_bytes content_type = optional_line("content-type", message->content_type);
    return tell(message, sp_format(
        "id=%.*s\nsource=%.*s\ntype=%.*s\n%.*stopic=%.*s\n%.*s%.*saccepted-ms=%" PRIu64 "\n%.*sdata-bytes=%zu\n"
        "subscription=%.*s\nsequence=%" PRIu64 "\nattempt=%u\nmax-attempts=%u\nredrives=%u\n"
        "first-attempt-ms=%" PRIu64 "\ndeadline-ms=%" PRIu64 "\nidempotency-key=%.*s\n",
        SP_ARG(message->id), SP_ARG(message->source), SP_ARG(message->type), SP_ARG(subject), SP_ARG(message->topic), SP_ARG(key),
        SP_ARG(content_type), message->accepted_ms, SP_ARG(attributes), message->data.len, SP_ARG(delivery->subscription),
        delivery->sequence, delivery->attempt, delivery->max_attempts, delivery->redrives, delivery->first_attempt_ms,
        delivery->deadline_ms, SP_ARG(delivery->idempotency_key)));
}

static sp_outcome scan(const sp_message *message, sp_bytes prefix) {
    sp_bytes lines = sp_text("");
    const sp_bytes *after = NULL;
    for (;;) {
        sp_entries page;
        SP_TRY(sp_scan(prefix, after, 2, &page));
        for (size_t at = 0; at < page.len; at++)
            lines = sp_format("%.*s%.*s=%.*s\n", SP_ARG(lines), SP_ARG(page.ptr[at].key), SP_ARG(page.ptr[at].value));
        if (page.len < 2) return tell(message, lines);
        after = &page.ptr[1].key;
    }
}

static uint64_t number(sp_bytes text) {
    uint64_t value = 0;
    for (size_t at = 0; at < text.len && text.ptr[at] >= '0' && text.ptr[at] <= '9'; at++)
        value = value * 10 + (uint64_t)(text.ptr[at] - '0');
    return value;
}

/* Cuts the text at the first space, and leaves what follows it. */
static sp_bytes word(sp_bytes *text) {
    const char *space = memchr(text->ptr, ' ', text->len);
    size_t len = space ? (size_t)(space - text->ptr) : text->len, skipped = space ? len + 1 : len;
    sp_bytes first = {text->ptr, len};
    *text = (sp_bytes){text->ptr + skipped, text->len - skipped};
    return first;
}

__attribute__((noinline)) static void told_to_throw(sp_bytes text) {
    fprintf(stderr, "%.*s\n", SP_ARG(text));
    abort();
}

static sp_outcome handle(const sp_message *message, const sp_delivery *delivery) {
    sp_bytes rest = message->subject.some ? message->subject.value : sp_text("");
    sp_bytes verb = word(&rest);
#define IS(name) sp_equal(verb, sp_text(name))
    if (IS("ack")) return sp_ack();
    if (IS("retry")) return sp_retry(rest);
    if (IS("reject")) return sp_reject(rest);
    if (IS("unavailable")) return sp_unavailable(rest);
    if (IS("retry-after") || IS("unavailable-after")) {
        uint64_t ms = number(word(&rest));
        return sp_after(IS("retry-after") ? sp_retry(rest) : sp_unavailable(rest), ms);
    }
    if (IS("throw")) told_to_throw(rest);
    if (IS("loop"))
        for (volatile unsigned turns = 0;; turns++) {}
    if (IS("hog"))
        for (;;) memset(sp_alloc(1 << 20), 1, 1 << 20);
    if (IS("publish")) {
        sp_outgoing event = sp_event(rest, message->data);
        event.type = message->type;
        event.key = message->key;
        event.subject = sp_some(message->id);
        event.content_type = message->content_type;
        event.attributes = message->attributes;
        SP_TRY(sp_publish(&event));
        return sp_ack();
    }
    if (IS("publish-later")) {
        sp_outgoing event = sp_event(rest, message->data);
        event.id = sp_some(sp_format("later-%.*s", SP_ARG(message->id)));
        event.deliver_at_ms = (sp_optional_u64){true, message->accepted_ms + 3600000};
        event.expires_ms = (sp_optional_u64){true, message->accepted_ms + 7200000};
        SP_TRY(sp_publish(&event));
        return sp_ack();
    }
    if (IS("publish-error")) {
        sp_outgoing event = sp_event(rest, sp_text(""));
        return tell(message, sp_text(error_name(sp_publish(&event).kind)));
    }
    if (IS("describe")) return describe(message, delivery);
    if (IS("set")) {
        SP_TRY(sp_set(rest, message->data));
        return sp_ack();
    }
    if (IS("get")) {
        sp_optional value;
        SP_TRY(sp_get(rest, &value));
        return value.some ? tell(message, value.value) : sp_reject(sp_format("no %.*s", SP_ARG(rest)));
    }
    if (IS("delete")) {
        SP_TRY(sp_delete(rest));
        return sp_ack();
    }
    if (IS("scan")) return scan(message, rest);
    if (IS("count")) {
        sp_optional value;
        SP_TRY(sp_get(rest, &value));
        SP_TRY(sp_set(rest, sp_format("%" PRIu64, (value.some ? number(value.value) : 0) + 1)));
        return sp_ack();
    }
    if (IS("state-error")) return tell(message, sp_text(error_name(sp_set(sp_text(""), message->data).kind)));
    if (IS("config")) {
        sp_optional value = sp_config(rest);
        return value.some ? tell(message, value.value) : sp_reject(sp_format("no %.*s", SP_ARG(rest)));
    }
    if (IS("log")) {
        static const char *const levels[] = {"trace", "debug", "info", "warn", "error"};
        sp_bytes level = word(&rest);
        for (int at = 0; at < 5; at++)
            if (sp_equal(level, sp_text(levels[at]))) sp_log((sp_level)at, rest);
        return sp_ack();
    }
    if (IS("garbage")) {
        for (uint64_t left = number(rest) / 1024; left > 0; left--) {
            char *volatile piece = malloc(1024);
            memset(piece, (int)left, 1024);
            free(piece);
        }
        return sp_ack();
    }
    return sp_reject(sp_format("unknown order %.*s", message->subject.some ? (int)message->subject.value.len : 0,
        message->subject.some ? message->subject.value.ptr : ""));
}

SP_CONSUMER(handle)
