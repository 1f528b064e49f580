/* Sandpost for C: a consumer is a function, and this file.
 *
 *     #include "sandpost.h"
 *
 *     static sp_outcome handle(const sp_message *message, const sp_delivery *delivery) {
 *         SP_TRY(sp_set(sp_text("last"), message->data));
 *         return sp_ack();
 *     }
 *     SP_CONSUMER(handle)
 *
 * Include it in one C file, and build with
 *     clang --target=wasm32-wasi -Os -c hello.c
 *     clang --target=wasm32-wasi -mexec-model=reactor -Wl,--strip-debug -o hello.wasm hello.o
 *
 * Returning sp_ack() acknowledges the message: what was published and written to the state commits with it. After any
 * other return, a trap or a time-out, none of it happened.
 *
 * Memory: all that this file hands out, and what sp_alloc() and sp_format() give, is there until the handler returns,
 * and is then given back. So nothing is freed. What must outlive the message goes into the state, or into malloc().
 *
 * Strings are UTF-8, have a length, and do not end in NUL. "%.*s" with SP_ARG(string) prints one.
 *
 * Without WebAssembly (in a native test) the same functions work on a small bus in memory: see "Testing" at the end.
 */
#ifndef SANDPOST_H
#define SANDPOST_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The contract. The layout of these structs is that of sdk/wit/consumer.wit in the canonical ABI. ---- */

/* Text or bytes. */
typedef struct { const char *ptr; size_t len; } sp_bytes;
typedef struct { bool some; sp_bytes value; } sp_optional;
typedef struct { bool some; uint64_t value; } sp_optional_u64;
typedef struct { sp_bytes name, value; } sp_attribute;
typedef struct { const sp_attribute *ptr; size_t len; } sp_attributes;

/* A CloudEvents 1.0 event, stored in a topic. */
typedef struct {
    sp_bytes id, source, type;
    sp_optional subject;
    sp_bytes topic;
    sp_optional key;          /* messages of one key arrive in order, one at a time */
    sp_optional content_type;
    uint64_t accepted_ms;     /* milliseconds since 1970, as all times here */
    sp_attributes attributes; /* time, dataschema, traceparent and extensions */
    sp_bytes data;
} sp_message;

/* This offer of the message to this subscription. */
typedef struct {
    sp_bytes subscription;
    uint64_t sequence;                       /* the message's place in its topic, from 1 */
    uint32_t attempt, max_attempts, redrives;
    uint64_t first_attempt_ms, deadline_ms;
    sp_bytes idempotency_key;                /* the same in every attempt; hand it to services outside */
} sp_delivery;

/* An event to be published. Start from sp_event(), which leaves out all that may be left out. */
typedef struct {
    sp_bytes topic;           /* granted under [grants] publish */
    sp_bytes type;            /* the topic's name where it is empty */
    sp_optional key, id, subject, content_type;
    sp_attributes attributes; /* names are lower-case letters and digits */
    sp_bytes data;
    sp_optional_u64 deliver_at_ms, expires_ms;
} sp_outgoing;

typedef struct { sp_bytes key, value; } sp_entry;
typedef struct { const sp_entry *ptr; size_t len; } sp_entries;

/* Why something was refused. Nothing else of the call is affected. */
typedef enum {
    SP_OK = 0,
    SP_NOT_GRANTED, SP_INVALID, SP_TOO_LARGE, SP_TOO_MANY, /* of publishing */
    SP_INVALID_KEY, SP_VALUE_TOO_LARGE, SP_FULL            /* of the state */
} sp_error_kind;
typedef struct { sp_error_kind kind; sp_bytes text; } sp_error;

#define SP_NO_ERROR ((sp_error){SP_OK, {NULL, 0}})
#define SP_NONE ((sp_optional){false, {NULL, 0}})

typedef enum { SP_TRACE, SP_DEBUG, SP_INFO, SP_WARN, SP_ERROR } sp_level;

/* How a call ends. */
typedef struct {
    enum { SP_ACK, SP_RETRY, SP_REJECT, SP_UNAVAILABLE } kind;
    sp_bytes reason;
    sp_optional_u64 after_ms; /* of a retry; the subscription's backoff decides where there is none */
} sp_outcome;

typedef sp_outcome sp_handler(const sp_message *message, const sp_delivery *delivery);

/* ---- What a handler uses. ---- */

#define SP_ARG(bytes) (int)(bytes).len, (bytes).ptr

static inline sp_bytes sp_text(const char *text) { return (sp_bytes){text, strlen(text)}; }
static inline sp_optional sp_some(sp_bytes value) { return (sp_optional){true, value}; }
static inline bool sp_equal(sp_bytes a, sp_bytes b) { return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0; }
static inline bool sp_starts_with(sp_bytes text, sp_bytes with) {
    return text.len >= with.len && memcmp(text.ptr, with.ptr, with.len) == 0;
}

/* Memory until the handler returns. Never NULL: where there is no more, the call ends as out of memory. */
static inline void *sp_alloc(size_t bytes);
/* As printf, into such memory. */
static inline sp_bytes sp_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

static inline sp_outcome sp_ack(void) { return (sp_outcome){.kind = SP_ACK}; }
/* It failed now, and may succeed later: charged as an attempt. */
static inline sp_outcome sp_retry(sp_bytes reason) { return (sp_outcome){.kind = SP_RETRY, .reason = reason}; }
/* It can never succeed: it becomes a dead letter at once. */
static inline sp_outcome sp_reject(sp_bytes reason) { return (sp_outcome){.kind = SP_REJECT, .reason = reason}; }
/* Something that the handler depends on is down: not charged as an attempt. */
static inline sp_outcome sp_unavailable(sp_bytes reason) {
    return (sp_outcome){.kind = SP_UNAVAILABLE, .reason = reason};
}
/* The same outcome, with a time to wait. */
static inline sp_outcome sp_after(sp_outcome outcome, uint64_t ms) {
    outcome.after_ms = (sp_optional_u64){true, ms};
    return outcome;
}

/* An event without key, id, attributes or times. */
static inline sp_outgoing sp_event(sp_bytes topic, sp_bytes data) { return (sp_outgoing){.topic = topic, .data = data}; }
/* Stages an event. It is published if, and only if, the message is acknowledged. */
static inline sp_error sp_publish(const sp_outgoing *event);

/* The value of a key; `value->some` is false where there is none. */
static inline sp_error sp_get(sp_bytes key, sp_optional *value);
static inline sp_error sp_set(sp_bytes key, sp_bytes value);
static inline sp_error sp_delete(sp_bytes key);
/* Entries whose keys begin with `prefix` and come after `after` (NULL for the first page), at most `limit`, and 1,000. */
static inline sp_error sp_scan(sp_bytes prefix, const sp_bytes *after, uint32_t limit, sp_entries *entries);

/* A value of the manifest's [config]. */
static inline sp_optional sp_config(sp_bytes name);
/* A line in the bus's log. */
static inline void sp_log(sp_level level, sp_bytes text);

/* Ends the handler with a retry where something was refused. */
#define SP_TRY(expression)                                              \
    do {                                                                \
        sp_error sp_tried = (expression);                               \
        if (sp_tried.kind != SP_OK) return sp_retry(sp_tried.text);     \
    } while (0)

/* ---- How it works. ---- */

/* The memory of one message: blocks of malloc(), of which the first is kept. */
typedef struct __attribute__((aligned(16))) sp_block { struct sp_block *next; size_t used, size; } sp_block;
static sp_block *sp_blocks;

static void *sp_take(size_t bytes, size_t align) {
    enum { BLOCK_BYTES = 64 * 1024 };
    sp_block *block = sp_blocks;
    size_t at = block ? (block->used + align - 1) & ~(align - 1) : 0;
    if (!block || at + bytes > block->size || at + bytes < at) {
        size_t size = bytes > BLOCK_BYTES - align ? bytes + align : BLOCK_BYTES;
        block = size < bytes ? NULL : malloc(sizeof(sp_block) + size);
        if (!block) {
            fputs("out of memory\n", stderr);
            abort();
        }
        *block = (sp_block){sp_blocks, 0, size};
        sp_blocks = block;
        /* Aligned: the header is, and malloc gives memory that is. */
        at = 0;
    }
    block->used = at + bytes;
    return (char *)(block + 1) + at;
}

static inline void sp_forget(void) {
    while (sp_blocks && sp_blocks->next) {
        sp_block *block = sp_blocks;
        sp_blocks = block->next;
        free(block);
    }
    if (sp_blocks) sp_blocks->used = 0;
}

static inline void *sp_alloc(size_t bytes) { return sp_take(bytes, 8); }

static inline sp_bytes sp_format(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    size_t bytes = length < 0 ? 0 : (size_t)length;
    char *text = sp_alloc(bytes + 1);
    vsnprintf(text, bytes + 1, format, again);
    va_end(again);
    return (sp_bytes){text, bytes};
}

#ifdef __wasm__

typedef struct { bool failed; struct { uint8_t kind; sp_bytes text; } error; } sp_refusal;
/* `ok` is an option of bytes, or a list of entries, according to the function. */
typedef struct { bool failed; union { sp_optional value; sp_entries entries; struct { uint8_t kind; sp_bytes text; } error; } as; } sp_answer;

#define SP_IMPORT(interface, function) \
    __attribute__((import_module("sandpost:consumer/" interface "@0.1.0"), import_name(function)))

SP_IMPORT("bus", "publish") void sp_import_publish(const sp_outgoing *, sp_refusal *);
SP_IMPORT("state", "get") void sp_import_get(const char *, size_t, sp_answer *);
SP_IMPORT("state", "set") void sp_import_set(const char *, size_t, const char *, size_t, sp_answer *);
SP_IMPORT("state", "delete") void sp_import_delete(const char *, size_t, sp_answer *);
SP_IMPORT("state", "scan") void sp_import_scan(const char *, size_t, bool, const char *, size_t, uint32_t, sp_answer *);
SP_IMPORT("config", "get") void sp_import_config(const char *, size_t, sp_optional *);
SP_IMPORT("log", "write") void sp_import_log(uint32_t, const char *, size_t);

static inline sp_error sp_publish(const sp_outgoing *event) {
    sp_refusal refusal;
    sp_import_publish(event, &refusal);
    if (!refusal.failed) return SP_NO_ERROR;
    return (sp_error){(sp_error_kind)(SP_NOT_GRANTED + refusal.error.kind), refusal.error.text};
}

static inline sp_error sp_state_error(const sp_answer *answer) {
    if (!answer->failed) return SP_NO_ERROR;
    return (sp_error){(sp_error_kind)(SP_INVALID_KEY + answer->as.error.kind), answer->as.error.text};
}

static inline sp_error sp_get(sp_bytes key, sp_optional *value) {
    sp_answer answer;
    sp_import_get(key.ptr, key.len, &answer);
    *value = answer.failed ? SP_NONE : answer.as.value;
    return sp_state_error(&answer);
}

static inline sp_error sp_set(sp_bytes key, sp_bytes value) {
    sp_answer answer;
    sp_import_set(key.ptr, key.len, value.ptr, value.len, &answer);
    return sp_state_error(&answer);
}

static inline sp_error sp_delete(sp_bytes key) {
    sp_answer answer;
    sp_import_delete(key.ptr, key.len, &answer);
    return sp_state_error(&answer);
}

static inline sp_error sp_scan(sp_bytes prefix, const sp_bytes *after, uint32_t limit, sp_entries *entries) {
    sp_answer answer;
    sp_import_scan(prefix.ptr, prefix.len, after != NULL, after ? after->ptr : NULL, after ? after->len : 0, limit, &answer);
    *entries = answer.failed ? (sp_entries){NULL, 0} : answer.as.entries;
    return sp_state_error(&answer);
}

static inline sp_optional sp_config(sp_bytes name) {
    sp_optional value;
    sp_import_config(name.ptr, name.len, &value);
    return value;
}

static inline void sp_log(sp_level level, sp_bytes text) { sp_import_log(level, text.ptr, text.len); }

/* Where the bus puts messages, and what its functions return. */
__attribute__((export_name("cabi_realloc"), used)) void *sp_realloc(void *old, size_t old_bytes, size_t align, size_t bytes) {
    void *place = sp_take(bytes, align);
    if (old_bytes) memcpy(place, old, old_bytes < bytes ? old_bytes : bytes);
    return place;
}

typedef struct { sp_message message; sp_delivery delivery; } sp_call;

_Static_assert(offsetof(sp_message, data) == 88 && sizeof(sp_message) == 96, "message");
_Static_assert(offsetof(sp_delivery, first_attempt_ms) == 32 && sizeof(sp_delivery) == 56, "delivery");
_Static_assert(offsetof(sp_outgoing, expires_ms) == 96 && sizeof(sp_outgoing) == 112, "outgoing");
_Static_assert(sizeof(sp_refusal) == 16 && sizeof(sp_answer) == 16 && sizeof(sp_entry) == 16, "answers");

static struct {
    bool failed;
    struct { uint8_t kind; union { struct { sp_bytes reason; sp_optional_u64 after_ms; } retry; uint64_t aligned; } as; } failure;
} sp_returned;
_Static_assert(offsetof(__typeof__(sp_returned), failure.as.retry.reason) == 16, "failure");
_Static_assert(offsetof(__typeof__(sp_returned), failure.as.retry.after_ms.value) == 32, "retry");

#define SP_CONSUMER(function)                                                                          \
    __attribute__((export_name("handle"), used)) void *sp_handle(const sp_call *call) {               \
        sp_outcome outcome = function(&call->message, &call->delivery);                               \
        sp_returned.failed = outcome.kind != SP_ACK;                                                  \
        sp_returned.failure.kind = (uint8_t)(outcome.kind - SP_RETRY);                                \
        sp_returned.failure.as.retry.reason = outcome.reason;                                         \
        sp_returned.failure.as.retry.after_ms = outcome.after_ms;                                     \
        return &sp_returned;                                                                          \
    }                                                                                                  \
    __attribute__((export_name("cabi_post_handle"), used)) void sp_post_handle(void *result) {        \
        (void)result;                                                                                  \
        sp_forget();                                                                                   \
    }

#else

/* ---- Testing: a bus in memory, for native tests. It keeps the contract: what a failed call did is undone. ----
 *
 *     int main(void) {
 *         sp_test_grant(sp_text("invoice.due"));
 *         sp_message message = sp_test_message(sp_text("order.placed"), sp_text("{\"id\": \"o-1\"}"));
 *         sp_outcome outcome = sp_test_deliver(handle, &message);
 *         assert(outcome.kind == SP_ACK && sp_test_published.len == 1);
 *     }
 */
#define SP_CONSUMER(function) __attribute__((unused)) static sp_handler *const sp_consumer = function;

enum { SP_TEST_MAX = 1000 };
typedef struct { sp_entry entries[SP_TEST_MAX]; size_t len; } sp_test_table;

/* What acknowledged calls published, the state that they left, and the [config] of the test. */
static struct { sp_outgoing events[SP_TEST_MAX]; size_t len; } sp_test_published;
static sp_test_table sp_test_state, sp_test_config;
static struct { sp_bytes topics[SP_TEST_MAX]; size_t len; } sp_test_granted;
static struct { sp_outgoing events[SP_TEST_MAX]; size_t len; } sp_test_staged;

/* Topics, without wildcards, that may be published to. */
static inline void sp_test_grant(sp_bytes topic) { sp_test_granted.topics[sp_test_granted.len++] = topic; }

static inline sp_bytes sp_test_kept(sp_bytes bytes) {
    char *copy = malloc(bytes.len + 1);
    if (!copy) abort();
    memcpy(copy, bytes.ptr, bytes.len);
    return (sp_bytes){copy, bytes.len};
}

static inline int sp_test_order(const void *a, const void *b) {
    sp_bytes one = ((const sp_entry *)a)->key, other = ((const sp_entry *)b)->key;
    int order = memcmp(one.ptr, other.ptr, one.len < other.len ? one.len : other.len);
    return order ? order : (one.len > other.len) - (one.len < other.len);
}

static inline void sp_test_put(sp_test_table *table, sp_bytes key, const sp_bytes *value) {
    size_t at = 0;
    while (at < table->len && !sp_equal(table->entries[at].key, key)) at++;
    if (!value) {
        if (at < table->len) memmove(&table->entries[at], &table->entries[at + 1], (--table->len - at) * sizeof(sp_entry));
        return;
    }
    if (at == SP_TEST_MAX) abort();
    if (at == table->len) table->entries[table->len++].key = sp_test_kept(key);
    table->entries[at].value = sp_test_kept(*value);
    qsort(table->entries, table->len, sizeof(sp_entry), sp_test_order);
}

static inline sp_optional sp_test_find(const sp_test_table *table, sp_bytes key) {
    for (size_t at = 0; at < table->len; at++)
        if (sp_equal(table->entries[at].key, key)) return sp_some(table->entries[at].value);
    return SP_NONE;
}

/* A message of this topic with this data, and no key. */
static inline sp_message sp_test_message(sp_bytes topic, sp_bytes data) {
    return (sp_message){.id = sp_text("test-1"), .source = sp_text("/test"), .type = topic, .topic = topic, .accepted_ms = 1767225600000, .data = data};
}

/* Has the handler handle a message in its first attempt. */
static inline sp_outcome sp_test_deliver(sp_handler *handler, const sp_message *message) {
    sp_delivery delivery = {.subscription = sp_text("test"), .sequence = 1, .attempt = 1, .max_attempts = 6,
        .first_attempt_ms = message->accepted_ms, .deadline_ms = message->accepted_ms + 5000, .idempotency_key = sp_text("test-key")};
    static sp_test_table before;
    before = sp_test_state;
    sp_test_staged.len = 0;
    sp_outcome outcome = handler(message, &delivery);
    outcome.reason = sp_test_kept(outcome.reason);
    if (outcome.kind != SP_ACK) sp_test_state = before;
    for (size_t at = 0; outcome.kind == SP_ACK && at < sp_test_staged.len; at++)
        sp_test_published.events[sp_test_published.len++] = sp_test_staged.events[at];
    sp_forget();
    return outcome;
}

static inline sp_error sp_publish(const sp_outgoing *event) {
    bool granted = false;
    for (size_t at = 0; at < sp_test_granted.len; at++) granted |= sp_equal(sp_test_granted.topics[at], event->topic);
    if (!granted) return (sp_error){SP_NOT_GRANTED, sp_text("the manifest does not grant publishing to this topic")};
    if (sp_test_staged.len == SP_TEST_MAX) return (sp_error){SP_TOO_MANY, sp_text("one call publishes at most 1000 events")};
    sp_outgoing kept = *event;
    kept.topic = sp_test_kept(event->topic);
    kept.type = sp_test_kept(event->type);
    kept.data = sp_test_kept(event->data);
    sp_optional *texts[] = {&kept.key, &kept.id, &kept.subject, &kept.content_type};
    for (size_t at = 0; at < 4; at++)
        if (texts[at]->some) texts[at]->value = sp_test_kept(texts[at]->value);
    sp_test_staged.events[sp_test_staged.len++] = kept;
    return SP_NO_ERROR;
}

static inline sp_error sp_test_key(sp_bytes key) {
    if (key.len >= 1 && key.len <= 1024) return SP_NO_ERROR;
    return (sp_error){SP_INVALID_KEY, sp_text("a key has 1 to 1024 bytes")};
}

static inline sp_error sp_get(sp_bytes key, sp_optional *value) {
    *value = sp_test_find(&sp_test_state, key);
    return sp_test_key(key);
}

static inline sp_error sp_set(sp_bytes key, sp_bytes value) {
    sp_error error = sp_test_key(key);
    if (error.kind == SP_OK) sp_test_put(&sp_test_state, key, &value);
    return error;
}

static inline sp_error sp_delete(sp_bytes key) {
    sp_error error = sp_test_key(key);
    if (error.kind == SP_OK) sp_test_put(&sp_test_state, key, NULL);
    return error;
}

static inline sp_error sp_scan(sp_bytes prefix, const sp_bytes *after, uint32_t limit, sp_entries *entries) {
    sp_entry *page = sp_alloc(sizeof(sp_entry) * (sp_test_state.len + 1));
    size_t len = 0;
    for (size_t at = 0; at < sp_test_state.len && len < limit; at++) {
        const sp_entry *entry = &sp_test_state.entries[at];
        bool later = !after || sp_test_order(entry, &(sp_entry){.key = *after}) > 0;
        if (later && sp_starts_with(entry->key, prefix)) page[len++] = *entry;
    }
    *entries = (sp_entries){page, len};
    return SP_NO_ERROR;
}

static inline sp_optional sp_config(sp_bytes name) { return sp_test_find(&sp_test_config, name); }
static inline void sp_log(sp_level level, sp_bytes text) {
    static const char *const levels[] = {"trace", "debug", "info", "warn", "error"};
    fprintf(stderr, "%s: %.*s\n", levels[level], SP_ARG(text));
}

#endif
#endif
