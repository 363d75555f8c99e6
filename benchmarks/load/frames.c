/*
 * What comes from the server: frames cut into lines, lines into messages that are counted.
 *
 * A text frame holds one or more lines (JSON objects, or whatever the server's dialect has), taken as they come, so
 * that a large frame is never put together. A message has "seq": and "t": in it; where they are is learned from the
 * first, as all messages of a run look alike, so that a message costs no search.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "load.h"

static const char KEY[] = "\"seq\":";
#define KEY_SIZE (sizeof KEY - 1)

/* How far before a line's end the key was found the last time. */
static size_t learned_distance;

static uint64_t digits(const char **at, const char *end) {
    uint64_t value = 0;
    const char *p = *at;
    while (p < end && (*p < '0' || *p > '9')) p++;
    while (p < end && *p >= '0' && *p <= '9') value = value * 10 + (uint64_t)(*p++ - '0');
    *at = p;
    return value;
}

static const char *find_key(const char *line, size_t size) {
    if (learned_distance && size >= learned_distance) {
        const char *guess = line + size - learned_distance;
        if (memcmp(guess, KEY, KEY_SIZE) == 0) return guess;
    }
    const char *found = memmem(line, size, KEY, KEY_SIZE);
    if (found) learned_distance = size - (size_t)(found - line);
    return found;
}

static void take_message(struct connection *c, const char *p, const char *end) {
    p += KEY_SIZE;
    uint64_t sequence = digits(&p, end), time = digits(&p, end);
    sequence -= SEQUENCE_BASE;
    if (sequence == c->last + 1) {
        c->last = sequence;
        c->received++;
    } else if (sequence > c->last) {
        /* What is left out is seen in the end, by the count. */
        c->last = sequence;
        c->received++;
    } else if (sequence == c->last) {
        totals.duplicates++;
        return;
    } else {
        totals.disordered++;
        return;
    }
    if (!totals.first_us) totals.first_us = now_us;
    totals.last_us = now_us;
    uint64_t sent = time - TIME_BASE;
    histogram_add(&totals.latency, now_us > sent ? now_us - sent : 0);
    progress->delivered++;
}

static void take_line(struct connection *c, const char *line, size_t size) {
    if (options.views) {
        if (map_line(c, line, size)) return;
    } else if (c->state == READY) {
        const char *key = find_key(line, size);
        if (key) {
            take_message(c, key, line + size);
            return;
        }
    }
    totals.other_lines++;
    if (options.engine_io && size == 1 && line[0] == '2') {
        connection_send(c, 1, "3", 1);
        return;
    }
    if (c->state != JOINING) return;
    if (*options.join && !c->has_joined) {
        c->has_joined = true;
        connection_send(c, 1, options.join, strlen(options.join));
    }
    if (!memmem(line, size, options.ready, strlen(options.ready))) return;
    if (options.views) map_open(c);
    else connection_ready(c);
}

bool line_append(struct connection *c, const char *data, size_t size) {
    if (c->line_size + size > c->line_room) {
        size_t room = c->line_room ? c->line_room : 256;
        while (room < c->line_size + size) room *= 2;
        if (room > LINE_LIMIT_BYTES) return false;
        char *larger = realloc(c->line, room);
        if (!larger) return false;
        c->line = larger;
        c->line_room = (uint32_t)room;
    }
    memcpy(c->line + c->line_size, data, size);
    c->line_size += (uint32_t)size;
    return true;
}

static bool take_text(struct connection *c, const char *data, size_t size, bool is_end) {
    const char *end = data + size;
    while (data < end) {
        const char *stop = memchr(data, '\n', (size_t)(end - data));
        if (!stop && !is_end) return line_append(c, data, (size_t)(end - data));
        const char *line_end = stop ? stop : end;
        if (c->line_size) {
            if (!line_append(c, data, (size_t)(line_end - data))) return false;
            take_line(c, c->line, c->line_size);
            c->line_size = 0;
        } else if (line_end > data) {
            take_line(c, data, (size_t)(line_end - data));
        }
        data = line_end + 1;
    }
    if (is_end && c->line_size) {
        take_line(c, c->line, c->line_size);
        c->line_size = 0;
    }
    return c->state != CLOSED;
}

/* A ping may come between two frames of a message, of which a line may be held: no server here fragments messages. */
static bool take_control(struct connection *c, const char *data, size_t size, bool is_end) {
    if (!line_append(c, data, size)) return false;
    if (!is_end) return true;
    uint32_t whole = c->line_size;
    c->line_size = 0;
    if (c->opcode == 9) connection_send(c, 10, c->line, whole);
    if (c->opcode != 8) return c->state != CLOSED;
    const uint8_t *code = (const uint8_t *)c->line;
    totals.last_close_code = whole >= 2 ? code[0] << 8 | code[1] : 1005;
    return false;
}

/* The bytes of a header, as soon as enough have come to know how many it has. */
static size_t head_length(const struct connection *c) {
    if (c->head_size < 2) return 2;
    switch (c->head[1] & 127) {
    case 126: return 4;
    case 127: return 10;
    default: return 2;
    }
}

static void begin_frame(struct connection *c) {
    uint64_t length = c->head[1] & 127;
    if (length >= 126) {
        size_t size = head_length(c);
        length = 0;
        for (size_t index = 2; index < size; index++) length = length << 8 | c->head[index];
    }
    c->is_final = c->head[0] & 128;
    if (c->head[0] & 15) c->opcode = c->head[0] & 15;
    c->frame_left = length;
    c->head_size = 0;
    c->in_frame = true;
    totals.frames++;
}

bool frames_feed(struct connection *c, const char *data, size_t size) {
    const char *end = data + size;
    while (data < end || (c->in_frame && !c->frame_left)) {
        if (!c->in_frame) {
            c->head[c->head_size++] = (uint8_t)*data++;
            if (c->head_size < head_length(c)) continue;
            if (c->head[1] & 128) {
                connection_fail(c, "a masked frame came from the server");
                return false;
            }
            begin_frame(c);
        }
        size_t part = (size_t)(end - data);
        if (part > c->frame_left) part = (size_t)c->frame_left;
        c->frame_left -= part;
        bool is_end = !c->frame_left;
        bool goes_on = c->opcode >= 8 ? take_control(c, data, part, is_end)
                                      : take_text(c, data, part, is_end && c->is_final);
        data += part;
        if (is_end) c->in_frame = false;
        if (!goes_on) return false;
        if (is_end && c->is_final && options.views && c->opcode < 8) map_frame_end(c);
        if (!is_end) break;
    }
    return true;
}
