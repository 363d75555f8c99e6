/*
 * The load client: thousands of WebSockets in one thread, so cheap that the server is what is measured.
 *
 * main.c owns the options, the event loop and the talk with the benchmark; connection.c one connection from connect()
 * to its end; frames.c what comes on it; map.c viewers of a map, instead of plain messages; histogram.c the counting of
 * latencies. Loopback only, no TLS, no compression.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sequence numbers begin after this, so that every one has ten digits and is valid JSON. */
#define SEQUENCE_BASE 1000000000ULL
/* Times are microseconds of CLOCK_MONOTONIC after this: sixteen digits. */
#define TIME_BASE 1000000000000000ULL
/* The longest line that is put together from several reads; more ends the connection. */
#define LINE_LIMIT_BYTES (4u << 20)
#define HISTOGRAM_BUCKETS 2048

enum state { IDLE, CONNECTING, HANDSHAKE, JOINING, READY, CLOSED };

/* Vehicles are where they were so many seconds ago: PERIOD of benchmarks/map/world.py. */
#define MAP_PERIOD 120

struct connection {
    int fd;
    uint32_t index;
    enum state state;
    bool stalled;              /* reads nothing once it is ready */
    uint8_t head[14];          /* a frame's header, as far as it has come */
    uint8_t head_size;
    uint8_t opcode;            /* of the frame that is being read; of a fragmented message, its first frame's */
    bool in_frame, is_final, has_joined;
    uint64_t frame_left;       /* bytes of its payload still to come */
    char *line;                /* a line, handshake or control payload that has not come whole */
    uint32_t line_size, line_room;
    uint64_t began_us;         /* when connect() was called */
    uint64_t last, received;   /* sequence number and count of this run */
};

struct histogram {
    uint64_t count, max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

struct options {
    const char *host, *path, *cookies, *join, *ready, *subprotocol, *progress, *source;
    const char *views;         /* the directory with the files of a map; NULL for plain messages */
    int port, connections, in_flight, stalled, receive_buffer;
    bool engine_io, drops_outside;
};

/* What is shared with the publishing process, in a mapped file: it waits for `delivered`. */
struct progress {
    volatile uint64_t delivered, ready, closed;
};

struct totals {
    uint64_t bytes, frames, other_lines, duplicates, disordered, failed_count, closed_count, stalled_closed_count;
    uint64_t first_us, last_us;  /* of deliveries in this run */
    uint64_t storm_first_us, storm_last_us;
    int last_close_code;
    char failure[200];           /* of the first connection that failed */
    struct histogram latency, handshake;
};

extern struct options options;
extern struct totals totals;
extern struct progress *progress;
extern uint64_t now_us;          /* taken once a read */

uint64_t clock_us(void);
void histogram_add(struct histogram *histogram, uint64_t value);
uint64_t histogram_at(const struct histogram *histogram, double fraction);

/* connection.c; `session` is a cookie or NULL */
void connection_open(struct connection *c, int epoll, uint32_t index, const char *session);
void connection_event(struct connection *c, int epoll, uint32_t index, uint32_t events);
void connection_ready(struct connection *c);
void connection_fail(struct connection *c, const char *why);
void connection_send(struct connection *c, uint8_t opcode, const char *data, size_t size);

/* frames.c; false when the connection is at its end */
bool frames_feed(struct connection *c, const char *data, size_t size);
bool line_append(struct connection *c, const char *data, size_t size);

/* map.c */
void map_init(struct connection *connections);
void map_open(struct connection *c);
bool map_line(struct connection *c, const char *line, size_t size);
void map_frame_end(struct connection *c);
int map_timeout_ms(void);
void map_move(void);
void map_reset(bool goes);
void map_report(uint32_t first, uint32_t last);
void map_verify(uint32_t last);

#endif
