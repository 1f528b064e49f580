/* What becomes the consumer: one translation unit, for the SDK is a header. */
#include "consumer.c"

SP_CONSUMER(handle)
