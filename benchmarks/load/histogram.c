/* A histogram of microseconds with 64 buckets a power of two: what it says is at most 1.6 % too much. */
#include "load.h"

static unsigned bucket_of(uint64_t value) {
    if (value < 64) return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - 6u;
    unsigned bucket = (shift + 1) * 64u + (unsigned)((value >> shift) & 63u);
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

void histogram_add(struct histogram *histogram, uint64_t value) {
    histogram->count++;
    if (value > histogram->max) histogram->max = value;
    histogram->buckets[bucket_of(value)]++;
}

/* The upper end of the bucket that holds the value at `fraction` of all. */
uint64_t histogram_at(const struct histogram *histogram, double fraction) {
    uint64_t rank = (uint64_t)(fraction * (double)histogram->count), seen = 0;
    for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        seen += histogram->buckets[bucket];
        if (seen > rank) {
            if (bucket < 64) return bucket;
            unsigned shift = bucket / 64u - 1;
            uint64_t top = ((64ULL + bucket % 64u + 1) << shift) - 1;
            return top < histogram->max ? top : histogram->max;
        }
    }
    return histogram->max;
}
